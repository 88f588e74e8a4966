"""Addresses that strangers name: they are read, or refused in words, and fell nobody."""

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from common.addresses import readable
from common.federation import Capacity, JoinRequest
from common.tailnet import is_named_by
from router.api.nodes import ForeignOrder
from router.tailnet import why_strange

UNREADABLE = [
    "http://[",
    "https://\u00b6[\u4567",
    "http://[::1",
    "http://host:port",
    "http://host:99999",
    "http://host:0",
    "http://:3000",
    "https:///path",
]


@pytest.mark.parametrize(
    "url", ["http://host:3000", "https://odm.example.org/below", "http://[fd7a::1]:3001", "http://10.0.0.1"]
)
def test_addresses_are_taken_as_they_are(url: str) -> None:
    """Names and numbers, with port or without."""
    assert readable(url) == url


@pytest.mark.parametrize("url", UNREADABLE)
def test_what_is_no_address_is_refused_in_words(url: str) -> None:
    """Of a node that joins, and of a foreign one that is added."""
    with pytest.raises(ValueError, match="expected an address such as http://host:3000"):
        readable(url)
    with pytest.raises(ValidationError, match="url"):
        JoinRequest(name="n", url=url, engine="odm", engine_version="1", capacity=Capacity(slots=1))
    with pytest.raises(ValidationError, match="url"):
        ForeignOrder(name="n", url=url)


def test_headers_that_are_no_names_are_another_sites() -> None:
    """No browser sends them."""
    assert not is_named_by("[", None)
    assert why_strange(Headers({"origin": "http://[", "host": "router:3000"}))
    assert not why_strange(Headers({"origin": "http://router:3000", "host": "router:3000"}))
