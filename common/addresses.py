"""Addresses that strangers name: which of them we may reach, and how that very one is reached and no other.

A host is looked up once, what was found is judged, and the connection goes to what was judged: a second look may give
another answer.
"""

import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from common.webhooks import may_be_called

MOST_ADDRESSES = 4
"""Of one host that are tried."""

Resolve = Callable[[str, int], Sequence[str]]


class AddressRefused(Exception):
    """A URL leads to where we must not go."""


def readable(url: str) -> str:
    """The URL as it is, if host and port can be read from it. Raises `ValueError`."""
    try:
        parts = urlsplit(url)
        is_read = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_read = False
    if not is_read:
        raise ValueError("no host and port can be read from it; expected an address such as http://host:3000")
    return url


def addresses_of(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says. Raises `OSError`; takes as long as it takes."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def check_addresses(host: str, found: Sequence[str], private_allowed: bool, private_setting: str) -> Sequence[str]:
    """Those to try. If one of them must not be reached, none is: the next look may choose another."""
    refused = [each for each in found if not may_be_called(each, private_allowed)]
    if refused:
        raise AddressRefused(
            f"{host} is {', '.join(refused)}, which is not a public address; private ones (never link-local ones) "
            f"are called only with {private_setting}=on"
        )
    return found[:MOST_ADDRESSES]
