"""What tailscaled says, read: documented answers, those of old versions, and what is none of its."""

from datetime import UTC, datetime
from typing import Any

import pytest

from common.tailnet import (
    Machine,
    TailscaledUnreadable,
    is_named_by,
    is_tailnet_host,
    missing,
    own_urls,
    parse_status,
    parse_whois,
)
from tests.tailscaled import status, whois

NOW = datetime(2026, 8, 1, tzinfo=UTC)


def told(**changes: Any) -> str:
    """What a machine lacks."""
    return missing(parse_status(status("alpha", "100.64.0.1") | changes), NOW) or ""


def test_a_machine_in_good_health_is_known_by_its_name_and_its_addresses() -> None:
    """The name first, without its trailing dot; IPv6 in brackets."""
    machine = parse_status(status("alpha", "fd7a:115c:a1e0::1", "100.64.0.1", tags=("tag:scaleodm-node",)))
    assert missing(machine, NOW) is None
    assert machine.tags == ("tag:scaleodm-node",)
    assert own_urls(machine, 3001) == (
        "http://alpha.tail1234.ts.net:3001",
        "http://100.64.0.1:3001",
        "http://[fd7a:115c:a1e0::1]:3001",
    )


def test_without_magicdns_its_addresses_serve() -> None:
    """A name that nobody finds is not told."""
    off = {"CurrentTailnet": {"Name": "x", "MagicDNSSuffix": "tail1234.ts.net", "MagicDNSEnabled": False}}
    assert own_urls(parse_status(status("alpha", "100.64.0.1") | off), 3001) == ("http://100.64.0.1:3001",)


def test_old_versions_leave_fields_out() -> None:
    """Those of before tailnets had names; and one that tells of addresses in one place alone."""
    old = status("alpha", "100.64.0.1")
    for name in ("CurrentTailnet", "TailscaleIPs", "Version", "AuthURL", "TUN", "CertDomains"):
        del old[name]
    for name in ("KeyExpiry", "Online"):
        del old["Self"][name]
    machine = parse_status(old)
    assert (machine.hosts, missing(machine, NOW)) == (("alpha.tail1234.ts.net", "100.64.0.1"), None)
    bare = parse_status(
        {"BackendState": "Running", "Self": None, "TailscaleIPs": ["100.64.0.9"], "CurrentTailnet": None}
    )
    assert own_urls(bare, 1) == ("http://100.64.0.9:1",)


@pytest.mark.parametrize("raw", [None, [], "hello", {}, {"BackendState": 7}, {"Self": {"DNSName": "a."}}])
def test_what_is_no_status_is_said_to_be_none(raw: object) -> None:
    """Never an error that says nothing."""
    with pytest.raises(TailscaledUnreadable, match="does not tell its state"):
        parse_status(raw)


def test_each_state_says_what_to_do() -> None:
    """One sentence or two; and the link by which anybody could take the machine over is in none of them."""
    assert "Run `tailscale up`, or set TS_AUTHKEY" in told(BackendState="NeedsLogin")
    waiting = told(BackendState="NeedsLogin", AuthURL="https://login.example/a/0123456789abcdef")
    assert "A link waits: `tailscale status` shows it." in waiting
    assert "0123456789abcdef" not in waiting + repr(
        parse_status(status("a") | {"AuthURL": "https://x/0123456789abcdef"})
    )
    assert "is stopped" in told(BackendState="Stopped")
    assert "administrator of the tailnet approves it" in told(BackendState="NeedsMachineAuth")
    assert "is starting" in told(BackendState="Starting")
    assert "is starting" in told(BackendState="NoState")
    assert "in the state InUseOtherUser on this machine; expected Running" in told(BackendState="InUseOtherUser")
    assert "has no address" in told(TailscaleIPs=None, Self={"DNSName": "alpha.tail1234.ts.net."})


def test_a_key_that_has_expired_is_told_as_such() -> None:
    """By the flag of new versions, or by its date where a login is wanted; a wrong clock alone expires nothing."""
    own = status("alpha", "100.64.0.1")["Self"]
    expired = told(Self=own | {"Expired": True, "KeyExpiry": "2026-07-30T12:00:00Z"})
    assert expired.startswith("This machine's key for the tailnet has expired on 30 July 2026. Log in again")
    by_date = {"Self": own | {"KeyExpiry": "2026-07-30T12:00:00Z"}}
    assert "has expired on 30 July 2026" in told(BackendState="NeedsLogin", **by_date)
    assert told(**by_date) == ""
    never = {"Self": own | {"KeyExpiry": "0001-01-01T00:00:00Z"}}
    assert "not logged in" in told(BackendState="NeedsLogin", **never)


def test_a_tagged_peer_goes_by_its_tags_and_any_other_by_its_owner() -> None:
    """The login of a tagged machine is everybody's."""
    tagged = parse_whois(whois("alpha", tags=("tag:scaleodm-node", "tag:b")))
    assert (tagged.name, tagged.known_by) == ("alpha.tail1234.ts.net", ("tag:scaleodm-node", "tag:b"))
    ada = parse_whois(
        whois("laptop", login="ada@example.org", grants={"example.org/cap/scaleodm": [{"kind": "admin"}]})
    )
    assert ada.known_by == ("ada@example.org",)
    assert ada.grants == {"example.org/cap/scaleodm": ({"kind": "admin"},)}
    assert str(ada) == "laptop.tail1234.ts.net (ada@example.org)"
    assert parse_whois({"Node": {"ComputedName": "old", "Tags": None}, "CapMap": {"x": None}}).known_by == ()


def test_whoever_has_no_name_is_not_read() -> None:
    """There would be nothing to tell an administrator."""
    for raw in (None, {}, {"Node": None}, {"Node": {"Name": 3}}):
        with pytest.raises(TailscaledUnreadable, match="does not tell the machine's name"):
            parse_whois(raw)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("router.tail1234.ts.net", True),
        ("ROUTER.tail1234.TS.NET.", True),
        ("100.64.0.1", True),
        ("100.127.255.254", True),
        ("fd7a:115c:a1e0::1", True),
        ("::ffff:100.64.0.1", True),
        ("100.128.0.1", False),
        ("100.63.255.255", False),
        ("10.0.0.1", False),
        ("fd7b::1", False),
        ("router", False),
        ("router.example.org", False),
        ("ts.net.example.org", False),
        ("notts.net", False),
        ("", False),
    ],
)
def test_a_tailnets_names_and_addresses(host: str, is_one: bool) -> None:
    """Of whichever tailnet."""
    assert is_tailnet_host(host) is is_one


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("100.64.0.1:3000", True),
        ("[fd7a:115c:a1e0::1]:3000", True),
        ("router:3000", True),
        ("localhost", True),
        ("router.tail1234.ts.net:3000", True),
        ("router.headscale.example:3000", True),
        ("odm.example.org", True),
        ("evil.example:3000", False),
        ("headscale.example.evil.example", False),
        ("ts.net.evil.example", False),
    ],
)
def test_a_name_that_can_only_mean_us(host: str, is_ours: bool) -> None:
    """Any other may be one that a stranger's page has led here."""
    machine = Machine("Running", suffix="headscale.example")
    found = is_named_by(host, None, ("odm.example.org",)) or is_named_by(host, machine, ("odm.example.org",))
    assert found is is_ours
