"""Keeps open pages fresh: told at once when something has changed, and never at more than a small share of a core."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import orjson

from router.dashboard.screens import Screen, changes

logger = logging.getLogger(__name__)

LEAST_S = 0.1
"""Seconds between two updates of one page, however much happens."""
MOST_S = 2.0
"""Seconds after which a page is looked at again though nothing was heard: silence is what makes a node late."""
SHARE = 0.03
"""Of a core: what one page may take for long."""
SAVED_S = 0.1
"""Seconds of a core that a page may save up, so that what happens now and then is told at once."""
WAITED = 0.1
"""What a second of waiting for Postgres counts for: it is another's core, but it is one."""
ALIVE_S = 15.0
"""So often a stream says something, or proxies would take it for dead."""
T = TypeVar("T")


class Gone(Exception):
    """What a page is about is no longer there; the text says so."""


class Pulse:
    """Beats when a task, a node or a token has changed, on whatever replica."""

    def __init__(self) -> None:
        """Has not beaten yet."""
        self.count = 0
        self._beaten = asyncio.Event()
        self._over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the program ends."""
        return self._over.is_set()

    def beat(self) -> None:
        """Something has changed."""
        self.count += 1
        self._beaten.set()
        self._beaten = asyncio.Event()

    def end(self) -> None:
        """The program ends, and with it every stream."""
        self._over.set()
        self.beat()

    async def after(self, count: int, most_s: float) -> None:
        """Wait until it has beaten more often than `count` times, at most for so long."""
        if self.count == count and not self.is_over:
            await _at_most(self._beaten, most_s)

    async def rest(self, seconds: float) -> None:
        """Wait for so long, whatever happens; but not beyond the end."""
        await _at_most(self._over, seconds)


async def _at_most(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Allowance:
    """What looking may cost: saved up while nothing is spent, and waited for where too much was."""

    def __init__(self, share: float = SHARE, saved_s: float = SAVED_S) -> None:
        """All saved up."""
        self._share = share
        self._most_s = self._left_s = saved_s
        self._at = time.monotonic()

    def wait_s(self, now: float) -> float:
        """Seconds until it may be spent of again; 0 where that is now. `now` is monotonic."""
        self._left_s = min(self._most_s, self._left_s + max(0.0, now - self._at) * self._share)
        self._at = now
        return max(0.0, -self._left_s / self._share)

    async def spend(self, work: Awaitable[T]) -> T:
        """Do it. It costs its own time of the processor, and some of the time for which it waited."""
        metered, began = _Metered(work), time.monotonic()
        try:
            return await metered
        finally:
            self._left_s -= metered.worked_s + (time.monotonic() - began) * WAITED


class _Metered(Generic[T]):
    """Something awaited, and how long the processor works for it: only for it, not for what runs while it waits."""

    def __init__(self, work: Awaitable[T]) -> None:
        self._work = work
        self.worked_s = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        proceed: Callable[[], Any] = partial(next, steps)
        while True:
            began = time.thread_time()
            try:
                waits_for = proceed()
            except StopIteration as end:
                return cast("T", end.value)
            finally:
                self.worked_s += time.thread_time() - began
            try:
                proceed = partial(steps.send, (yield waits_for))
            except BaseException as thrown:  # noqa: BLE001 - handed on to where it belongs, cancellation too
                proceed = partial(steps.throw, thrown)


class Shared(Generic[T]):
    """What many pages show, fetched once for all of them."""

    def __init__(self, pulse: Pulse, fetch: Callable[[], Awaitable[T]], good_for_s: float = 1.0) -> None:
        """`good_for_s`: how old it may be where nothing is heard to have changed."""
        self._pulse = pulse
        self._fetch = fetch
        self._good_for_s = good_for_s
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._allowance = Allowance()
        self._count = -1
        self._at = 0.0

    async def get(self) -> T:
        """The latest, or one that is good enough."""
        async with self._lock:
            value, now = self._value, time.monotonic()
            is_old = self._count != self._pulse.count or now > self._at + self._good_for_s
            if value is None or (is_old and not self._allowance.wait_s(now)):
                self._count, self._at = self._pulse.count, now
                value = self._value = await self._allowance.spend(self._fetch())
            return value


@dataclass(frozen=True, slots=True)
class Watch:
    """One open page."""

    look: Callable[[], Awaitable[Screen]]
    may_look: Callable[[], Awaitable[bool]]
    pulse: Pulse
    outages: tuple[type[Exception], ...]
    """What `look` raises while something is away."""

    async def stream(self) -> AsyncIterator[bytes]:
        """What changes on the page, as server-sent events, until `may_look` says no or the program ends."""
        shown, told_at, allowance = Screen(), 0.0, Allowance()
        yield b"retry: 2000\n\n"
        while not self.pulse.is_over:
            if not await self.may_look():
                yield _event({}, b"over")
                return
            count, began = self.pulse.count, time.monotonic()
            try:
                screen = await allowance.spend(self.look())
            except Gone as gone:
                yield _event({"text": str(gone)}, b"gone")
                return
            except self.outages as outage:
                logger.warning("a page of the dashboard cannot be shown now: %s", type(outage).__name__)
                yield _event({"text": "The database or S3 does not answer; trying again."}, b"trouble")
                shown = Screen()
            else:
                news, shown = changes(shown, screen), screen
                if news or began - told_at > ALIVE_S:
                    told_at = began
                    yield _event({"now": time.time(), **news})
            await self.pulse.rest(max(LEAST_S, allowance.wait_s(time.monotonic())))
            await self.pulse.after(count, MOST_S)


def _event(told: dict[str, Any], kind: bytes = b"message") -> bytes:
    return b"event: " + kind + b"\ndata: " + orjson.dumps(told) + b"\n\n"
