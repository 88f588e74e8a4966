"""For each row of the matrix a federation, tasks in it, and then what breaks."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from common.references import Reference
from tests.matrix.lab import LOST_AFTER_S, PATIENCE_S, Lab
from tests.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Given:
    """What there was when something broke. All tasks were brought to `node-1`."""

    lab: Lab
    done: str
    """Has ended well."""
    running: str
    """Its engine is at work, until it is released; so it is with the others."""
    doomed: str
    """To be canceled."""
    pinned: str
    """May run on `node-1` only."""
    early: str
    """Is released in the moment of the break, where the row does not say otherwise."""
    spare: Reference
    """Input of which no task has been made."""
    progress: float
    """Of `pinned`, as polls have seen it."""
    broken_at: float
    """`time.monotonic()`."""

    def outlast(self, seconds: float) -> None:
        """Wait until so many seconds have gone by since the break: what lasts so long is what is tested."""
        until = self.broken_at + seconds
        wait_until(lambda: time.monotonic() > until, "time to go by", seconds + PATIENCE_S)


class Row:
    """What a row of the matrix says of itself, for the fixture `given`."""

    routers: ClassVar[int] = 1
    lost_after_s: ClassVar[float] = LOST_AFTER_S
    releases_early: ClassVar[bool] = True

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Do what the row is about."""
        raise NotImplementedError


@pytest.fixture(scope="class")
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """One federation for all cells of a row."""
    row = request.cls
    assert issubclass(row, Row)
    with Lab(tmp_path_factory.mktemp("row"), row.routers, row.lost_after_s) as lab:
        with lab.only("node-1"):
            done, running, doomed, early = lab.task(), lab.held(), lab.held(), lab.held()
            pinned = lab.held(nodes=["node-1"])
            for uuid in (running, doomed, early):
                lab.begun(uuid)
            progress = lab.begun(pinned)
            lab.wire().ended(done, PATIENCE_S)
        spare, broken_at = lab.images(), time.monotonic()
        row.break_it(lab)
        if row.releases_early:
            lab.release(early)
        yield Given(lab, done, running, doomed, pinned, early, spare, progress, broken_at)
