"""What a machine's tailscaled says of the machine itself and of whoever calls it, read and judged. Pure.

`common.tailscaled` asks it. Fields that an older version leaves out are read as their plainest meaning; an answer that
is none of tailscaled's is `TailscaledUnreadable`.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

RUNNING = "Running"
_NETWORKS = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd7a:115c:a1e0::/48"))
"""Where every tailnet's addresses are."""
_SUFFIX = ".ts.net"


class TailnetTrouble(Exception):
    """The tailnet cannot be used here; the text says why and what to do."""


class TailscaledUnreadable(TailnetTrouble):
    """What answers at the socket is not a tailscaled that we can read."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that we are on, as its tailscaled knows it."""

    state: str
    """`Running`, `NeedsLogin`, `Stopped`, `NeedsMachineAuth`, `Starting`, `NoState`, or one that is newer than this."""
    name: str = ""
    """Its full name on the tailnet, without a trailing dot."""
    addresses: tuple[str, ...] = ()
    """IPv4 before IPv6."""
    tags: tuple[str, ...] = ()
    has_magic_dns: bool = False
    """Whether machines of the tailnet are found by their names."""
    suffix: str = ""
    """What the tailnet's names end with."""
    login_waits: bool = False
    """A link waits for somebody to log in. The link itself is kept nowhere: whoever opens it first makes this machine
    one of their own tailnet."""
    expires_at: datetime | None = None
    has_expired: bool = False
    version: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """By what others on the tailnet reach it, the best first: its name, where names are found, then addresses."""
        named = (self.name,) if self.has_magic_dns and self.name else ()
        return (*named, *(f"[{each}]" if ":" in each else each for each in self.addresses))


@dataclass(frozen=True, slots=True)
class Peer:
    """Whoever is at the other end of a connection."""

    name: str
    """The machine's full name, without a trailing dot."""
    tags: tuple[str, ...] = ()
    login: str = ""
    """Of the machine's owner; of a tagged machine it is a placeholder, and says nothing."""
    grants: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """App capabilities that the tailnet's policy grants it here, by their names."""

    def __str__(self) -> str:
        """The machine and what it is known by, for people."""
        return f"{self.name} ({', '.join(self.known_by) or 'without tags or login'})"

    @property
    def known_by(self) -> tuple[str, ...]:
        """What rights can be tied to: its tags, or else its owner."""
        return self.tags or ((self.login,) if self.login else ())


def parse_status(document: object) -> Machine:
    """The answer of `/localapi/v0/status`. Raises `TailscaledUnreadable`."""
    if not isinstance(document, dict) or not isinstance(document.get("BackendState"), str):
        raise TailscaledUnreadable(
            "What answers at tailscaled's socket does not tell its state. Is it tailscaled, and of this decade? Bring "
            "it up to date."
        )
    own, tailnet = _mapping(document.get("Self")), _mapping(document.get("CurrentTailnet"))
    addresses = _texts(document.get("TailscaleIPs")) or _texts(own.get("TailscaleIPs"))
    suffix = _text(tailnet.get("MagicDNSSuffix")) or _text(document.get("MagicDNSSuffix"))
    name = _text(own.get("DNSName")).rstrip(".")
    return Machine(
        state=document["BackendState"],
        name=name,
        addresses=tuple(sorted(addresses, key=lambda each: ":" in each)),
        tags=_texts(own.get("Tags")),
        # Versions that do not say whether it is on have a name only where it is.
        has_magic_dns=bool(tailnet.get("MagicDNSEnabled", bool(name and suffix))),
        suffix=suffix.strip("."),
        login_waits=bool(document.get("AuthURL")),
        expires_at=_moment(own.get("KeyExpiry")),
        has_expired=own.get("Expired") is True,
        version=_text(document.get("Version")),
    )


def parse_whois(document: object) -> Peer:
    """The answer of `/localapi/v0/whois`. Raises `TailscaledUnreadable`."""
    found = _mapping(document)
    node, user = _mapping(found.get("Node")), _mapping(found.get("UserProfile"))
    name = (_text(node.get("Name")) or _text(node.get("ComputedName"))).rstrip(".")
    if not name:
        raise TailscaledUnreadable(
            "tailscaled knows who calls, and does not tell the machine's name. Bring it up to date."
        )
    grants = {
        str(capability): tuple(values) if isinstance(values, list) else ()
        for capability, values in _mapping(found.get("CapMap")).items()
    }
    return Peer(name, _texts(node.get("Tags")), _text(user.get("LoginName")), grants)


def missing(machine: Machine, now: datetime) -> str | None:
    """What keeps this machine from taking part in its tailnet, and what to do; None where nothing does."""
    is_over = machine.expires_at is not None and machine.expires_at <= now
    if machine.has_expired or (machine.state == "NeedsLogin" and is_over):
        when = f" on {machine.expires_at:%d %B %Y}" if machine.expires_at else ""
        return (
            f"This machine's key for the tailnet has expired{when}. Log in again: tailscale up --force-reauth, or a "
            "new TS_AUTHKEY; keys of tagged machines need not expire."
        )
    if machine.state == RUNNING:
        return None if machine.addresses else "Tailscale runs, and this machine has no address on the tailnet yet."
    if machine.state == "NeedsLogin":
        link = " A link waits: `tailscale status` shows it." if machine.login_waits else ""
        advice = "Run `tailscale up`, or set TS_AUTHKEY in a container."
        return f"Tailscale is not logged in on this machine. {advice}{link}"
    return _NOT_RUNNING.get(machine.state) or (
        f"Tailscale is in the state {machine.state} on this machine; expected {RUNNING}. Look at `tailscale status`."
    )


_NOT_RUNNING = {
    "Stopped": "Tailscale is stopped on this machine. Run `tailscale up`.",
    "NeedsMachineAuth": (
        "This machine waits to be let into the tailnet. An administrator of the tailnet approves it in its console, or "
        "gives out an auth key that is approved beforehand."
    ),
    "Starting": "Tailscale is starting on this machine. If it stays so, look at `tailscale status`.",
    "NoState": "Tailscale is starting on this machine. If it stays so, look at `tailscale status`.",
}


def is_tailnet_host(host: str) -> bool:
    """Whether a name or an address is one of a tailnet's, whichever tailnet it is."""
    try:
        return is_tailnet_address(host.strip("[]"))
    except ValueError:
        return host.lower().rstrip(".").endswith(_SUFFIX)


def is_tailnet_address(address: str) -> bool:
    """Whether an IP address is one of a tailnet's. Raises `ValueError` for what is no address."""
    known = plain(address)
    return any(known in network for network in _NETWORKS if network.version == known.version)


def plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; one of IPv4 that a socket of IPv6 tells is one of IPv4. Raises `ValueError`."""
    known = ipaddress.ip_address(address)
    return (known.ipv4_mapped or known) if isinstance(known, ipaddress.IPv6Address) else known


def goes_over_tailnet(choice: str, urls: Sequence[str]) -> bool:
    """Whether a node joins over a tailnet. `choice`: `on`, `off`, or `auto`, which looks at the routers' `urls`."""
    hosts = [urlsplit(each).hostname or "" for each in urls]
    return choice == "on" or (choice == "auto" and any(map(is_tailnet_host, hosts)))


def own_urls(machine: Machine, port: int) -> tuple[str, ...]:
    """The addresses of a program of this machine that listens on `port`, the best first."""
    return tuple(f"http://{host}:{port}" for host in machine.hosts)


def is_named_by(host: str, machine: Machine | None, others: Sequence[str] = ()) -> bool:
    """Whether a request's header `Host` can only mean us: an address, a bare word, a name of our tailnet, or one of
    `others`. Any other name may be one that a stranger's page has led here (DNS rebinding).
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False  # no browser says this
    try:
        ipaddress.ip_address(name)
    except ValueError:
        suffix = f".{machine.suffix.lower()}" if machine is not None and machine.suffix else _SUFFIX
        return "." not in name or name.endswith(suffix) or name in others
    return True


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _moment(value: object) -> datetime | None:
    """As Go writes it; its year 1 stands for never."""
    try:
        found = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None and found.year > 1 else None
