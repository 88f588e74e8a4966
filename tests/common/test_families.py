"""The token by which a split task's run sends its parts, and when ODM splits."""

import netrc as netrc_module
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.families import (
    Family,
    claimed_family,
    family_token,
    is_current,
    is_token_of,
    netrc,
    splits,
    without_family_tokens,
)
from common.nodeodm.options import Setting
from common.tasks import ACTIVE, State
from common.tokens import Caller, Kind, token_in
from tests.common.nodeodm.test_messages import task

FAMILY = Family("3f1b2c4d-0000-4000-8000-000000000001", 2, "node-a")
SECRET = "s" * 64
FAMILIES = st.builds(
    Family,
    st.uuids().map(str) | st.uuids().map(lambda each: str(each).upper()),
    st.integers(1, 10_000),
    st.uuids().map(str),
)


@given(FAMILIES, FAMILIES, st.text(min_size=1), st.text(min_size=1))
def test_a_token_opens_its_own_family_alone(one: Family, other: Family, secret: str, another: str) -> None:
    """Another task, attempt or node, or another node's secret: nothing."""
    token = family_token(one, secret)
    assert claimed_family(token) == one
    assert Family.parse(str(one)) == one
    assert is_token_of(token, one, secret)
    assert is_token_of(token, other, secret) == (one == other)
    assert is_token_of(token, one, another) == (secret == another)


@pytest.mark.parametrize("token", ["", "abc", "scaleodm-parts.", "scaleodm-parts.a.b.c.d", "scaleodm-parts.a.1.b.ff"])
def test_other_tokens_are_nobodys_family(token: str) -> None:
    """Nor are broken ones."""
    assert claimed_family(token) is None


def test_i9_a_token_in_a_text_is_blotted_out() -> None:
    """Wherever it stands, and however often."""
    token = family_token(FAMILY, SECRET)
    text = without_family_tokens(f"GET http://router/?token={token}&x=1 failed, password {token}.")
    assert token.rpartition(".")[2] not in text
    assert text.startswith("GET http://router/?token=scaleodm-parts.***&x=1 failed")


def test_the_file_for_pyodm_is_read_as_a_netrc(tmp_path: Path) -> None:
    """By Python's own reader, and for that host alone."""
    path = tmp_path / "netrc"
    path.write_text(netrc("router.example.org", "a-token"))
    found = netrc_module.netrc(path)
    assert found.authenticators("router.example.org") == ("scaleodm", "", "a-token")
    assert found.authenticators("s3.example.org") is None


@pytest.mark.parametrize("state", State)
def test_a_family_is_current_while_its_attempt_is_under_way(state: State) -> None:
    """Not before, not after, not while its task waits for another attempt; a part has no parts."""
    parent = task(uuid=FAMILY.uuid, attempt=2, state=state)
    assert is_current(FAMILY, parent) == (state in ACTIVE)
    assert not is_current(FAMILY, task(uuid=FAMILY.uuid, attempt=3, state=state))
    assert not is_current(FAMILY, task(uuid=FAMILY.uuid, attempt=2, state=state, family="x 1 n"))


@pytest.mark.parametrize(
    ("value", "images", "expected"),
    [
        (None, 5000, False),
        (999_999, 5000, False),
        (999_999, 2_000_000, False),
        (400, 401, True),
        (400, 400, False),
        ("400", 500, True),
        (400, 0, True),
        ("many", 500, False),
    ],
)
def test_odm_splits_what_has_more_images_than_the_option_says(value: object, images: int, expected: bool) -> None:
    """A zip has none before it is unpacked, and may have any number; ODM's default never splits."""
    options = () if value is None else (Setting("split", value),)  # type: ignore[arg-type]
    assert splits((Setting("dsm", True), *options), images) is expected


def test_i12_a_part_caller_sees_its_own_family_and_not_its_tenant() -> None:
    """Whatever else the tenant has; while its tenant's users see the parts as well."""
    caller = Caller(Kind.PART, "token", "acme", family=str(FAMILY))
    assert caller.may_see("acme", str(FAMILY))
    assert not caller.may_see("acme")
    assert not caller.may_see("acme", "another 1 node-a")
    assert not Caller(Kind.PART, "token", "acme").may_see("acme", "")
    assert Caller(Kind.USER, "alice", "acme").may_see("acme", str(FAMILY))


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer  abc", "abc"),
        ("bearer abc", "abc"),
        (f"Basic {b64encode(b'scaleodm:abc').decode()}", "abc"),
        (f"basic {b64encode(b'x:a:b').decode()}", "a:b"),
        ("Basic ///", None),
        ("Basic " + b64encode(b"\xff:\xff").decode(), None),
        ("Digest abc", None),
        ("", None),
    ],
)
def test_a_token_comes_as_bearer_or_as_password(header: str, token: str | None) -> None:
    """The second is what PyODM's HTTP library makes of a netrc."""
    assert token_in(header) == token
