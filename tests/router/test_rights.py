"""What tags and logins of a tailnet may do on a router: decided from what tailscaled says alone."""

import json
from typing import Any

import pytest

from common.settings import SettingsUnusable, read_settings
from common.tailnet import parse_whois
from common.tokens import Caller, Kind, Limits
from router.rights import Rights
from router.settings import RouterSettings
from tests.tailscaled import whois

CAPABILITY = "example.org/cap/scaleodm"
GIVEN = {
    "tag:scaleodm-node": "node",
    "tag:ops": "admin",
    "ada@example.org": "admin",
    "bob@example.org": "user",
    "carol@example.org": {
        "kind": "user",
        "tenant": "acme",
        "prefixes": ["s3://acme/"],
        "limits": {"running": 4, "weight": 2},
    },
}


@pytest.fixture
def rights(monkeypatch: pytest.MonkeyPatch) -> Rights:
    """As an operator writes them."""
    return settings(monkeypatch, GIVEN).rights


def settings(monkeypatch: pytest.MonkeyPatch, given: object) -> RouterSettings:
    """A router's, with these rights."""
    for name, value in {
        "DATABASE_URL": "postgresql://nobody@localhost/none",
        "SECRET_KEY": "k" * 32,
        "ADMIN_TOKEN": "a",
        "TAILNET_RIGHTS": json.dumps(given),
        "TAILNET_CAPABILITY": CAPABILITY,
    }.items():
        monkeypatch.setenv(f"SCALEODM_ROUTER_{name}", value)
    return read_settings(RouterSettings)


def callers(rights: Rights, **peer: Any) -> list[tuple[Kind, str, str]]:
    """Kind, name and tenant of all that a peer may be."""
    found = rights.callers(parse_whois(whois("alpha", **peer)))
    assert all(each.tailnet for each in found)
    return [(each.kind, each.name, each.tenant) for each in found]


def test_a_tagged_machine_goes_by_its_tags_alone(rights: Rights) -> None:
    """Whoever owned it: the placeholder that stands for its user has no rights, nor can it be given any."""
    node = (Kind.NODE, "alpha.tail1234.ts.net", "")
    assert callers(rights, tags=("tag:other", "tag:scaleodm-node")) == [node]
    assert callers(rights, tags=("tag:scaleodm-node", "tag:ops")) == [node, (Kind.ADMIN, "alpha.tail1234.ts.net", "")]
    assert callers(rights, tags=("tag:scaleodm-node",), login="ada@example.org") == [node]
    assert callers(rights, tags=("tag:other",)) == []


def test_a_user_goes_by_the_login(rights: Rights) -> None:
    """And sees their own tasks alone where no tenant is named."""
    assert callers(rights, login="ada@example.org") == [(Kind.ADMIN, "ada@example.org", "")]
    assert callers(rights, login="bob@example.org") == [(Kind.USER, "bob@example.org", "bob@example.org")]
    assert callers(rights, login="eve@example.org") == []
    (carol,) = rights.callers(parse_whois(whois("c", login="carol@example.org")))
    limits = Limits(running=4, weight=2)
    assert carol == Caller(Kind.USER, "carol@example.org", "acme", ("s3://acme/",), limits, tailnet=True)
    assert ("acme", 2.0) in rights.weights()


def test_grants_of_the_tailnet_carry_rights_too(rights: Rights) -> None:
    """Each entry that can be read; those of another capability say nothing here."""
    words: list[object] = ["node", 7, {"kind": "god"}, {"kind": "user", "tenant": "acme", "prefixes": ["s3://acme/"]}]
    found = callers(rights, tags=("tag:x",), grants={CAPABILITY: words, "example.org/cap/other": ["admin"]})
    assert found == [(Kind.NODE, "alpha.tail1234.ts.net", ""), (Kind.USER, "tag:x", "acme")]
    limited: list[object] = [{"kind": "user", "limits": {"running": 1}}]
    assert callers(rights, login="eve@example.org", grants={CAPABILITY: limited}) == []
    assert callers(Rights({}), login="eve@example.org", grants={CAPABILITY: ["admin"]}) == []


def test_who_has_none_is_told_what_there_is_to_do(rights: Rights) -> None:
    """By what they are known; and a grant that cannot be read is told as such."""
    told = rights.why_none(parse_whois(whois("alpha", tags=("tag:other",))))
    assert "knows you as alpha.tail1234.ts.net (tag:other), and nothing of that has a right here" in told
    assert "SCALEODM_ROUTER_TAILNET_RIGHTS" in told
    told = rights.why_none(parse_whois(whois("alpha", login="e@x", grants={CAPABILITY: ["god"]})))
    assert 'in words that are no right here; expected such as {"kind": "node"}' in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tagged-devices": "node"}, "tagged-devices stands for every tagged machine; name a tag"),
        ({"ada@example.org": "god"}, "Input should be"),
        ({"ada@example.org": {"kind": "admin", "tenant": "x"}}, "has no tenant, prefixes or limits"),
        ({"ada@example.org": {"kind": "user", "prefixes": ["acme"]}}, "acme"),
        ({"ada@example.org": {"kind": "user", "bucket": "acme"}}, "Extra inputs are not permitted"),
        (["ada@example.org"], "dictionary"),
        ({"ada@example.org": {"kind": "part"}}, "Input should be"),
    ],
)
def test_rights_that_cannot_be(monkeypatch: pytest.MonkeyPatch, given: object, told: str) -> None:
    """A router does not start with them."""
    with pytest.raises(SettingsUnusable, match="SCALEODM_ROUTER_TAILNET_RIGHTS") as refused:
        settings(monkeypatch, given)
    assert told in str(refused.value)
