"""How healthy a node is, and what a report makes of a task."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.federation import AttemptReport
from common.tasks import State, Task, canceled
from router.lifecycle import Health, health, is_current, placed, reported, undelivered
from tests.common.nodeodm.test_messages import task


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(0, Health.HEALTHY), (15, Health.HEALTHY), (16, Health.LATE), (601, Health.LOST)]
)
def test_silence_makes_a_node_late_then_lost(seconds: int, wanted: Health) -> None:
    """Design 6."""
    assert health(timedelta(seconds=seconds)) is wanted


def report(state: State = State.RUNNING, **changes: object) -> AttemptReport:
    """What a node says of attempt 1."""
    return AttemptReport.model_validate({"uuid": "u", "attempt": 1, "state": state, **changes})


def running() -> Task:
    """A task whose first attempt is placed."""
    return placed(task(state=State.QUEUED), 1)


def test_only_reports_of_the_current_attempt_count() -> None:
    """I2; and a canceled task hears nobody (I7)."""
    assert is_current(running(), report())
    assert not is_current(placed(running(), 2), report())
    assert not is_current(canceled(running()), report(State.COMPLETED))


def test_the_beginning_is_fixed_by_the_first_report() -> None:
    """The network's jitter must not show in processingTime."""
    first = reported(running(), report(processing_ms=1_000), now_ms=10_000)
    second = reported(first, report(processing_ms=2_000), now_ms=11_700)
    assert (first.began_ms, second.began_ms) == (9_000, 9_000)
    assert reported(running(), report(), 5).processing_time_ms(99) == -1


def test_the_end_is_the_nodes() -> None:
    """Time, progress and error as the node has them."""
    done = reported(running(), report(State.COMPLETED, processing_ms=77, progress=100), 5)
    assert (done.state, done.processing_time_ms(999), done.progress, done.error) == (State.COMPLETED, 77, 100, None)
    broken = reported(running(), report(State.FAILED, error="why", progress=100), 5)
    assert (broken.state, broken.error) == (State.FAILED, "why")
    stopped = reported(running(), report(State.CANCELED), 5)
    assert (stopped.state, stopped.error) == (State.FAILED, "The run was canceled on its node.")


@given(st.lists(st.floats(0, 100), max_size=20))
def test_progress_never_goes_back_within_an_attempt(percents: list[float]) -> None:
    """I6, in whatever order reports come."""
    current, seen = running(), []
    for percent in percents:
        current = reported(current, report(progress=percent), 1)
        seen.append(current.progress)
    assert seen == sorted(seen)


def test_a_task_that_goes_back_to_the_queue_is_never_ten_again() -> None:
    """I6: split-merge would give it up (contract 8.3)."""
    assert undelivered(running()).code == 20
