"""Clients that poll all the time, and what they may count on whatever breaks."""

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.client import ENDED

POLL_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll saw."""

    router: str
    uuid: str
    at: float
    """`time.monotonic()` when it was sent."""
    seconds: float
    status: int | None
    """None: the connection was dropped."""
    answer: dict[str, Any]

    @property
    def code(self) -> int:
        """The task's status code."""
        return int(self.answer["status"]["code"])

    @property
    def has_begun(self) -> bool:
        """Whether the answer shows an engine at work, or an end."""
        return self.answer["processingTime"] >= 0 or self.code in ENDED


class Pollers:
    """One thread for each router, which polls every task there, from before things break until the end."""

    def __init__(self, urls: Mapping[str, str], token: str) -> None:
        """`urls` of the routers by name."""
        self._urls = dict(urls)
        self._token = token
        self._uuids: tuple[str, ...] = ()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._poll, args=(name,), name=f"polls {name}") for name in urls]
        self.seen: list[Poll] = []

    def start(self) -> None:
        """Begin."""
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        for each in self._threads:
            each.join()

    def add(self, uuid: str) -> None:
        """One more task to poll."""
        self._uuids = (*self._uuids, uuid)

    def of(self, uuid: str, since: float = 0.0) -> list[Poll]:
        """What the polls of one task saw that were sent since then."""
        return [each for each in list(self.seen) if each.uuid == uuid and each.at >= since]

    def _poll(self, name: str) -> None:
        with httpx.Client(timeout=30) as http:
            while not self._over.wait(POLL_EVERY_S):
                for uuid in self._uuids:
                    self.seen.append(self._look(http, name, uuid))

    def _look(self, http: httpx.Client, name: str, uuid: str) -> Poll:
        began = time.monotonic()
        try:
            answer = http.get(f"{self._urls[name]}/task/{uuid}/info", params={"token": self._token})
        except httpx.TransportError:
            return Poll(name, uuid, began, time.monotonic() - began, None, {})
        document = answer.json() if answer.status_code == httpx.codes.OK else {}
        return Poll(name, uuid, began, time.monotonic() - began, answer.status_code, document)


def check_polls(polls: Sequence[Poll], may_drop: Collection[str]) -> None:
    """Fails unless every poll was answered with 200 and a task that is known (I1).

    `may_drop`: routers that were killed, so that their connections may be dropped, which is all that may happen.
    """
    assert polls, "nobody has polled"
    stories: dict[tuple[str, str], list[Poll]] = defaultdict(list)
    for each in polls:
        if each.status is None:
            assert each.router in may_drop, f"a connection was dropped: {each}"
        else:
            assert each.status == httpx.codes.OK, f"not 200: {each}"
            assert each.answer.get("uuid") == each.uuid, f"a uuid that was returned is not known: {each}"
            stories[each.router, each.uuid].append(each)
    for story in stories.values():
        _check_story(story)


def _check_story(story: Sequence[Poll]) -> None:
    """What one router told of one task: never 10 again once it had begun (I6), and one end only (I3, I7)."""
    begun = next((place for place, each in enumerate(story) if each.has_begun), len(story))
    assert not any(each.code == 10 for each in story[begun:]), f"10 again: {[each.code for each in story]}"
    ends = [each.code for each in story if each.code in ENDED]
    assert len(set(ends)) <= 1, f"more than one end: {ends}"
    assert [each.code for each in story[len(story) - len(ends) :]] == ends, "it ended, and then it had not ended"
