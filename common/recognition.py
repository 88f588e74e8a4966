"""Who makes a request that brings no token, where the network itself tells: kept beside the request. Pure.

A router's `router.tailnet` finds it out, before the request reaches its route; routes ask here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.tokens import Caller, Kind

RECOGNISED = "scaleodm.recognised"
"""Where it stands in a request's ASGI scope."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What is known of whoever makes a request."""

    callers: tuple[Caller, ...] = ()
    """Everything that they may be here; none where they are nobody."""
    why_not: str = ""
    """What to tell those who are nobody."""

    def one_of(self, *kinds: Kind) -> Caller | None:
        """Them as the first of these kinds that they may be."""
        return next((caller for kind in kinds for caller in self.callers if caller.kind is kind), None)


NOBODY = Recognised()


def recognised(scope: Mapping[str, Any]) -> Recognised:
    """Who makes this request. Nobody, where it brings a token: then that decides."""
    found = scope.get(RECOGNISED, NOBODY)
    assert isinstance(found, Recognised)
    return found
