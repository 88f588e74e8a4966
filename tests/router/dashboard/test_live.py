"""Open pages: told at once, left alone for a while, ended with the program."""

import asyncio
import json
import time
from typing import Any

import pytest

from router.dashboard.live import MOST_S, SAVED_S, SHARE, Allowance, Gone, Pulse, Shared, Watch
from router.dashboard.screens import Screen
from tests.waiting import until


class Page:
    """A page that counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.shows = "nothing"
        self.fails: Exception | None = None
        self.is_allowed = True
        self.told: list[tuple[str, Any]] = []

    async def look(self) -> Screen:
        """What is there."""
        self.looks += 1
        if self.fails is not None:
            raise self.fails
        return Screen({"part": self.shows})

    async def may_look(self) -> bool:
        """Whether the session holds."""
        return self.is_allowed

    async def read(self, pulse: Pulse) -> None:
        """Take every event."""
        async for sent in Watch(self.look, self.may_look, pulse, (OSError,)).stream():
            fields = dict(line.split(": ", 1) for line in sent.decode().strip().split("\n"))
            if "data" in fields:
                self.told.append((fields["event"], json.loads(fields["data"])))


async def test_a_change_is_told_at_once_and_what_is_the_same_is_not() -> None:
    """Beats without a change send nothing."""
    page, pulse = Page(), Pulse()
    reading = asyncio.create_task(page.read(pulse))
    await until(lambda: len(page.told) == 1, "the first event")
    await asyncio.sleep(0.3)  # past the least time between two
    began = time.monotonic()
    page.shows = "something"
    pulse.beat()
    await until(lambda: len(page.told) == 2, "the change")
    assert page.told[1][1]["parts"] == {"part": "something"}
    assert time.monotonic() - began < MOST_S, "before it would look by itself"
    looks = page.looks
    pulse.beat()
    await until(lambda: page.looks > looks, "another look")
    pulse.end()
    await asyncio.wait_for(reading, 5)
    assert len(page.told) == 2


async def test_a_storm_of_changes_is_looked_at_a_few_times_a_second() -> None:
    """However many there are."""
    page, pulse = Page(), Pulse()
    reading = asyncio.create_task(page.read(pulse))
    for _ in range(200):
        pulse.beat()
        await asyncio.sleep(0.005)
    pulse.end()
    await asyncio.wait_for(reading, 5)
    assert page.looks < 20


async def test_whoever_may_no_longer_look_is_told_so_and_it_ends() -> None:
    """A session is over, a token revoked."""
    page, pulse = Page(), Pulse()
    page.is_allowed = False
    await asyncio.wait_for(page.read(pulse), 5)
    assert (page.told, page.looks) == ([("over", {})], 0)


async def test_what_is_gone_ends_it_and_an_outage_does_not() -> None:
    """After an outage everything is told anew."""
    page, pulse = Page(), Pulse()
    reading = asyncio.create_task(page.read(pulse))
    await until(lambda: len(page.told) == 1, "the first event")
    page.fails = OSError("away")
    await until(lambda: page.told[-1][0] == "trouble", "the outage to be told")
    page.fails = None
    await until(lambda: page.told[-1][0] == "message", "the page to come back")
    assert page.told[-1][1]["parts"] == {"part": "nothing"}
    page.fails = Gone("It was removed.")
    await asyncio.wait_for(reading, 10)
    assert page.told[-1] == ("gone", {"text": "It was removed."})


async def test_what_many_pages_show_is_fetched_once() -> None:
    """Again when something has changed, but not more often than its cost allows."""
    pulse, fetched = Pulse(), 0

    async def fetch() -> int:
        nonlocal fetched
        fetched += 1
        work(0.2)
        return fetched

    shared = Shared(pulse, fetch, good_for_s=60)
    assert await asyncio.gather(*(shared.get() for _ in range(10))) == [1] * 10
    pulse.beat()
    began = time.monotonic()
    assert await shared.get() == 1
    while await shared.get() == 1:
        await pulse.rest(0.01)
    assert time.monotonic() - began > (0.2 - SAVED_S) / SHARE * 0.8


def work(seconds: float) -> None:
    """Keep a core busy for so long."""
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass


async def working(seconds: float) -> str:
    """Work, with a wait in between during which others work."""
    work(seconds / 2)
    await asyncio.sleep(0)
    work(seconds / 2)
    return "done"


async def test_what_is_saved_up_is_spent_at_once_and_then_waited_for() -> None:
    """A page takes its share of a core in the long run, whatever happens."""
    allowance = Allowance(share=0.04, saved_s=0.1)
    assert await allowance.spend(working(0.05)) == "done"
    assert allowance.wait_s(time.monotonic()) == 0
    await allowance.spend(working(0.09))
    wait_s = allowance.wait_s(time.monotonic())
    assert 0.9 < wait_s < 10
    assert allowance.wait_s(time.monotonic() + wait_s + 0.1) == 0


async def test_the_work_of_others_costs_nothing() -> None:
    """What runs while it waits is not its own."""
    allowance = Allowance(share=0.04, saved_s=0.1)
    others = asyncio.create_task(working(0.3))
    await allowance.spend(asyncio.sleep(0.01))
    assert allowance.wait_s(time.monotonic()) == 0
    await others


async def test_what_fails_and_what_is_canceled_is_passed_on() -> None:
    """Where it belongs."""
    allowance, seen = Allowance(), []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("gone")

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("canceled")
            raise

    with pytest.raises(KeyError, match="gone"):
        await allowance.spend(fail())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(allowance.spend(wait()), 0.05)
    assert seen == ["canceled"]
