"""Webhooks: what router and node share of them (contract 7): schedule, payload, signature, allowed addresses. Pure.

The call itself is `common.courier`'s; what became of it, the router keeps in Postgres and a node in its tasks' records.
"""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from common.nodeodm.messages import task_info
from common.tasks import State, Task

SHORTEST_URL = 4
"""NodeODM ignores webhooks that are shorter (contract 7)."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PRIVATE = tuple(
    ipaddress.ip_network(each)
    # The last of IPv4 is a tailnet's.
    for each in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
)
_METADATA = frozenset(ipaddress.ip_address(each) for each in ("100.100.100.200", "fd00:ec2::254"))
"""Those that lie in private networks; the others are link-local."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Schedule:
    """When an unanswered call is made again, and when no more."""

    most_tries: int = 23
    """With the waits below, a receiver may be away for twelve hours."""
    first_wait_s: float = 2.0
    longest_wait_s: float = 3600.0

    def wait_s(self, tries: int) -> float:
        """Seconds until the next try, after so many: 2, 4, 8, up to an hour."""
        return min(self.first_wait_s * 2.0 ** min(tries - 1, 60), self.longest_wait_s)

    def is_over(self, tries: int) -> bool:
        """Whether there is no next try."""
        return tries >= self.most_tries


USUAL = Schedule()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call went."""

    problem: str | None = None
    """What was wrong with it; None means that it is delivered."""
    hopeless: bool = False
    """It would go no better next time."""


def is_callable_text(url: str | None) -> bool:
    """Whether this is taken for a webhook at all."""
    return url is not None and len(url) >= SHORTEST_URL


def shown(url: str) -> str:
    """Scheme and host of a URL, for logs and answers: whatever else it holds may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "(not a URL)"


def is_web_address(url: str) -> bool:
    """Whether a URL is one that can be called."""
    return shown(url).startswith(("http://", "https://"))


def payload_of(task: Task, now_ms: int) -> dict[str, Any]:
    """What is told of a task that has ended, but for its images."""
    return task_info(task, now_ms) | {"statusCode": int(task.code)}


def output_with_images(task: Task) -> str | None:
    """Where the products lie of which the call tells `images`: what an unfinished run finds there is another's."""
    return task.output if task.state is State.COMPLETED else None


def signature(secret: str, moment: int, body: bytes) -> str:
    """`t=<seconds since the epoch>,v1=<hexadecimal HMAC-SHA256 of "t.body">`."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def is_public(address: str) -> bool:
    """Whether an address is one machine's of the open internet, however it is written."""
    parsed = _parsed(address)
    if parsed is None:
        return False
    special = parsed.is_multicast or parsed.is_reserved or getattr(parsed, "is_site_local", False)
    return parsed.is_global and not special


def may_be_called(address: str, private_allowed: bool) -> bool:
    """Whether webhooks may reach this address. A cloud's metadata never: there it keeps its machines' credentials."""
    parsed = _parsed(address)
    if parsed is None or parsed in _METADATA:
        return False
    return is_public(address) or (private_allowed and any(parsed in network for network in _PRIVATE))


def _parsed(address: str) -> Address | None:
    """The address that is reached in the end: of those that carry an IPv4 address inside, that."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    if parsed in _NAT64:
        return ipaddress.IPv4Address(parsed.packed[-4:])
    teredo = parsed.teredo
    return parsed.ipv4_mapped or parsed.sixtofour or (teredo[1] if teredo is not None else None) or parsed
