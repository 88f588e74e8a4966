"""Bounded waits that say what they waited for."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


def wait_until(look: Callable[[], R | None], description: str, within_s: float = 60.0) -> R:
    """Look until there is something to see (not None, not False); fails with the description and the last look."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen is not None and seen is not False:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s:.0f} s in vain: {description}; last seen: {seen!r}")
        time.sleep(0.05)


async def until(look: Callable[[], bool], description: str, within_s: float = 60.0) -> None:
    """The same beside what runs in this event loop."""
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s in vain: {description}"
        await asyncio.sleep(0.02)
