"""What a webhook says and when, where it may go, and that a receiver can check who calls."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.tasks import State
from common.webhooks import (
    USUAL,
    Schedule,
    is_callable_text,
    is_public,
    is_web_address,
    may_be_called,
    output_with_images,
    payload_of,
    shown,
    signature,
)
from tests.common.nodeodm.test_messages import task

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"


def receivers_check() -> Callable[..., bool]:
    """The function that the document gives to receivers."""
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    check: Callable[..., bool] = names["is_genuine"]
    return check


@pytest.mark.contract("7 signed")
@given(st.text(min_size=1), st.binary())
def test_a_receiver_can_check_the_signature_with_what_the_document_tells(secret: str, body: bytes) -> None:
    """Any secret, any body; whatever is changed is noticed."""
    try:
        secret.encode()
    except UnicodeEncodeError:
        return
    check, now = receivers_check(), int(time.time())
    header = signature(secret, now, body)
    assert check(header, body, secret)
    assert not check(header, body + b" ", secret)
    assert not check(header, body, secret + "x")
    assert not check(header.replace(f"t={now}", f"t={now + 1}"), body, secret)


@pytest.mark.parametrize("header", ["", "t=1", "v1=00", "garbage", "t=,v1=", "v1=00,t=x"])
def test_what_is_no_signature_is_not_genuine(header: str) -> None:
    """Without an exception: it comes from strangers."""
    assert not receivers_check()(header, b"{}", "secret")


def test_an_old_call_that_is_sent_again_by_a_stranger_is_not_genuine() -> None:
    """The moment is signed too."""
    header = signature("secret", int(time.time()) - 1000, b"{}")
    assert not receivers_check()(header, b"{}", "secret")
    assert receivers_check()(header, b"{}", "secret", within_s=2000)


@pytest.mark.contract("7 retries", "10 21")
def test_the_waits_grow_from_two_seconds_to_an_hour_and_bear_half_a_day() -> None:
    """As the document tells."""
    waits = [USUAL.wait_s(tries) for tries in range(1, USUAL.most_tries)]
    assert waits[:4] == [2, 4, 8, 16]
    assert waits == sorted(waits)
    assert waits[-1] == 3600
    assert 12 * 3600 <= sum(waits) < 13 * 3600
    assert f"{USUAL.most_tries} times" in " ".join(DOCUMENT.read_text().split())


@given(st.integers(1, 10**9))
def test_a_wait_is_never_longer_than_the_longest(tries: int) -> None:
    """However many tries there were."""
    assert 0 < USUAL.wait_s(tries) <= USUAL.longest_wait_s
    assert USUAL.is_over(tries) == (tries >= USUAL.most_tries)
    assert Schedule(most_tries=1).is_over(tries)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Also one that is written inside another."""
    assert is_public(address)
    assert may_be_called(address, private_allowed=False)


PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "fd12::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::1",
]
NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "fe80::1",
    "fe80::1%eth0",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "",
    "localhost",
    "8.8.8.8.8",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_called_only_where_it_is_allowed(address: str) -> None:
    """Whichever way they are written."""
    assert not is_public(address)
    assert not may_be_called(address, private_allowed=False)
    assert may_be_called(address, private_allowed=True)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_what_is_nobodys_is_never_called(address: str) -> None:
    """A cloud gives its machines' credentials to whoever asks from there."""
    assert not is_public(address)
    assert not may_be_called(address, private_allowed=False)
    assert not may_be_called(address, private_allowed=True)


@pytest.mark.parametrize("address", ["100.64.1.1", "fec0::1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "2001:db8::1"])
def test_shared_and_reserved_addresses_are_not_public(address: str) -> None:
    """A tailnet's, for one."""
    assert not is_public(address)


def test_a_tailnets_addresses_are_private_ones() -> None:
    """Receivers may well stand in the tailnet that router and nodes are in."""
    assert may_be_called("100.64.1.1", private_allowed=True)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://user:word@host.example:8443/path/secret?token=x#y", "https://host.example:8443"),
        ("http://[::1]:9/x", "http://[::1]:9"),
        ("http://h", "http://h"),
        ("abcd", "(not a URL)"),
        ("http://[", "(not a URL)"),
    ],
)
def test_of_a_url_its_host_alone_is_shown(url: str, wanted: str) -> None:
    """Credentials, path and query may be secrets."""
    assert shown(url) == wanted


@pytest.mark.contract("7 both")
def test_what_is_taken_for_a_webhook() -> None:
    """NodeODM ignores what is shorter than four letters; a setting must be a web address."""
    assert [is_callable_text(url) for url in (None, "", "abc", "abcd")] == [False, False, False, True]
    assert is_web_address("https://h/x")
    assert not is_web_address("ftp://h/x")
    assert not is_web_address("h/x")


@pytest.mark.contract("7 payload", "10 21")
def test_the_payload_is_nodeodms_info_and_the_status_code() -> None:
    """What Go's ScaleODM and NodeODM each send is in it."""
    failed = task(state=State.FAILED, error="out of luck", progress=100.0, processing_ms=5)
    payload = payload_of(failed, now_ms=9)
    assert payload["statusCode"] == payload["status"]["code"] == 30
    assert payload["status"]["errorMessage"] == "out of luck"
    assert payload["processingTime"] == 5
    assert {"uuid", "name", "dateCreated", "options", "imagesCount", "progress"} <= payload.keys()
    assert "output" not in payload


@pytest.mark.contract("7 payload")
def test_only_a_completed_run_has_images() -> None:
    """What lies where a failed one would have published is an earlier one's."""
    assert output_with_images(task(state=State.COMPLETED)) == "s3://b/o/"
    assert output_with_images(task(state=State.FAILED)) is None
