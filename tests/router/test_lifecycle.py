"""How healthy a node is, and what a report makes of a task."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.federation import AttemptReport
from common.tasks import Cause, State, Task, canceled
from router.lifecycle import (
    BLACK_HOLE,
    Clocks,
    Health,
    Held,
    Outcome,
    Ruling,
    given_up,
    health,
    is_black_hole,
    lost,
    patience,
    placed,
    quarantine,
    reported,
    requeued,
    retried,
    ruling,
)
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
    assert ruling(running(), report()) is Ruling.TAKE
    assert ruling(placed(running(), 2), report()) is Ruling.STOP
    assert ruling(running(), report(attempt=2)) is Ruling.STOP
    assert ruling(canceled(running()), report(State.COMPLETED)) is Ruling.STOP


def test_what_was_given_up_too_early_is_adopted_again() -> None:
    """A node that comes back: its run goes on while nothing has taken its place, and its result counts even later."""
    waiting = requeued(running())
    assert ruling(waiting, report()) is Ruling.ADOPT
    assert ruling(waiting, report(State.COMPLETED)) is Ruling.ADOPT
    assert ruling(waiting, report(State.FAILED)) is Ruling.STOP
    replaced = placed(waiting, 2)
    assert ruling(replaced, report(State.COMPLETED)) is Ruling.ADOPT_RESULT
    restarted = replace(replaced, first_attempt=2)
    assert ruling(restarted, report(State.COMPLETED)) is Ruling.STOP, "it is of the run before the restart"


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
def test_i6_progress_never_goes_back_within_an_attempt(percents: list[float]) -> None:
    """I6, in whatever order reports come."""
    current, seen = running(), []
    for percent in percents:
        current = reported(current, report(progress=percent), 1)
        seen.append(current.progress)
    assert seen == sorted(seen)


def test_a_task_that_goes_back_to_the_queue_is_never_ten_again() -> None:
    """I6: split-merge would give it up (contract 8.3)."""
    assert requeued(running()).code == 20


SECOND = timedelta(seconds=1)
SHORT = Clocks(late_after=15 * SECOND, lost_after=600 * SECOND)


@pytest.mark.parametrize(
    ("worked", "wanted"), [(0, 600), (40 * 60, 600), (60 * 60, 900), (10 * 3600, 9000), (100 * 3600, 6 * 3600)]
)
def test_the_more_is_done_the_longer_a_silent_node_is_waited_for(worked: int, wanted: int) -> None:
    """Design 6: a quarter of the work, ten minutes at least, six hours at most."""
    assert patience(worked * SECOND, SHORT) == wanted * SECOND


def test_only_what_is_silent_for_too_long_is_given_up() -> None:
    """By the patience with each attempt; one that may not be replaced is waited for."""
    held = [
        Held("fresh", 1, "silent"),
        Held("old", 1, "silent", worked=timedelta(hours=8)),
        Held("kept", 1, "silent", replaceable=False),
        Held("fine", 1, "heard"),
        Held("removed", 1, "gone", replaceable=False),
    ]
    silences = {"silent": 700 * SECOND, "heard": SECOND}
    assert [each.uuid for each in lost(held, silences, SHORT)] == ["fresh", "removed"]


def test_i11_when_every_node_is_silent_the_router_suspects_itself() -> None:
    """Nothing is given up."""
    silences = {"a": timedelta(hours=9), "b": timedelta(hours=9)}
    assert lost([Held("u", 1, "a"), Held("v", 1, "b")], silences, SHORT) == []


def test_each_cause_has_its_own_budget() -> None:
    """An engine's failure would only come again; what never began costs nothing; memory grows."""
    assert retried(running(), Cause.ENGINE, []) is None
    assert retried(running(), Cause.INPUT, []) is None
    assert retried(running(), None, []) is None
    elsewhere = retried(running(), Cause.INFRASTRUCTURE, [Cause.INFRASTRUCTURE] * 2)
    assert elsewhere is not None
    assert (elsewhere.state, elsewhere.code) == (State.QUEUED, 20)
    assert retried(running(), Cause.INFRASTRUCTURE, [Cause.INFRASTRUCTURE] * 3) is None
    assert retried(running(), Cause.UNDELIVERED, [Cause.UNDELIVERED] * 99) is not None
    more = retried(running(), Cause.MEMORY, [])
    assert more is not None
    most = retried(placed(more, 2), Cause.MEMORY, [Cause.MEMORY])
    assert most is not None
    assert (more.memory_factor, most.memory_factor) == (1.5, 2.25)
    assert retried(most, Cause.MEMORY, [Cause.MEMORY] * 2) is None


def test_whoever_was_tried_often_is_told_so() -> None:
    """By cause; what never began does not count."""
    causes = [Cause.UNDELIVERED, Cause.LOST, Cause.LOST, Cause.INFRASTRUCTURE]
    assert given_up("No space left.", causes) == "No space left. It was tried 3 times (2 x lost, 1 x infrastructure)."
    assert given_up("No space left.", causes[:2]) == "No space left."


def test_a_node_that_fails_everything_at_once_is_a_black_hole() -> None:
    """But not where the same fails everywhere, nor where it fails after hours."""
    fast, slow, well = Outcome(Cause.ENGINE, 2), Outcome(Cause.ENGINE, 9000), Outcome(None, 2)
    assert is_black_hole([fast] * BLACK_HOLE, [well] * 5)
    assert not is_black_hole([fast] * BLACK_HOLE, [fast] * 5), "everybody's tasks fail"
    assert not is_black_hole([fast] * BLACK_HOLE, []), "nobody to compare it with"
    assert not is_black_hole([well, *[fast] * BLACK_HOLE], [well] * 5)
    assert not is_black_hole([slow] * BLACK_HOLE, [well] * 5)
    assert is_black_hole([Outcome(Cause.INFRASTRUCTURE, 2)] * BLACK_HOLE, []), "the machine is at fault by its own word"


def test_quarantine_grows_and_ends() -> None:
    """Five minutes, then twice as long each time, two hours at most."""
    assert [quarantine(times) / SECOND for times in (0, 1, 2, 9, 99)] == [300, 600, 1200, 7200, 7200]
