"""How often a wrong token may be tried from one address. Pure: it is told what time it is."""

import ipaddress
from collections import OrderedDict, deque

MOST_TRIES = 10
"""Wrong tokens from one address within `WITHIN_S`."""
WITHIN_S = 60.0
MOST_ADDRESSES = 10_000
"""Addresses that are remembered; of more, the one that was heard of longest ago is forgotten."""
_NETWORK_BITS = 64
"""Of an IPv6 address: what is behind it is one household's."""


class Tries:
    """Wrong tokens, by address."""

    def __init__(
        self, most: int = MOST_TRIES, within_s: float = WITHIN_S, most_addresses: int = MOST_ADDRESSES
    ) -> None:
        """None yet."""
        self._most = most
        self._within_s = within_s
        self._most_addresses = most_addresses
        self._tried: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0 where it may now. `now` is monotonic."""
        tried = self._tried.get(_origin(address), deque())
        return 0.0 if len(tried) < self._most else max(0.0, tried[0] + self._within_s - now)

    def failed(self, address: str, now: float) -> None:
        """A wrong token came from there."""
        tried = self._tried.setdefault(_origin(address), deque(maxlen=self._most))
        self._tried.move_to_end(_origin(address))
        tried.append(now)
        while len(self._tried) > self._most_addresses:
            self._tried.popitem(last=False)


def _origin(address: str) -> str:
    """What counts as one address."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((known, _NETWORK_BITS), strict=False))
