"""What a node does next with its tasks."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from common.tasks import ACTIVE, Cause, State
from node.lifecycle import MOST_STARTS, Start, begun, to_queue, to_start, used_slots, watched
from node.records import Record
from node.runs import Phase, RunStatus
from tests.common.nodeodm.test_messages import task


def record(state: State = State.STAGING, **changes: object) -> Record:
    """A record that is ready to run."""
    return Record(task(state=state, input_bytes=1, **changes))


def test_first_come_first_served_within_the_slots() -> None:
    """The rest is seen to wait."""
    records = [replace(record(uuid=str(number)), accepted_ms=number) for number in range(4)]
    assert to_start(reversed(records), slots=4) == to_start(records, slots=4), "by when they came"
    started = to_start(records, slots=2)
    assert [start.record.task.uuid for start in started] == ["0", "1"]
    after = [start.record for start in started] + records[2:]
    assert [each.task.uuid for each in to_queue(after)] == ["2", "3"]
    assert to_start(after, slots=2) == []


def test_a_task_whose_input_nobody_has_looked_at_does_not_start() -> None:
    """It is still staging."""
    unseen = Record(task(state=State.STAGING))
    assert (to_start([unseen], 1), to_queue([unseen])) == ([], [])


@given(st.lists(st.sampled_from(sorted(State)), max_size=20), st.integers(1, 5))
def test_a_node_never_starts_more_than_its_slots(states: list[State], slots: int) -> None:
    """I4, on the node's side."""
    records = [record(State(state), uuid=str(place)) for place, state in enumerate(states)]
    active = sum(each.task.state in ACTIVE for each in records)
    assert len(to_start(records, slots)) <= max(0, slots - active)


def test_a_run_that_ended_ends_its_task() -> None:
    """Completed and failed alike at 100 (contract 3.4); a run that never reached its engine stays where it was."""
    running = begun(record())
    done = watched(running, RunStatus(Phase.COMPLETED, began_ms=10, ended_ms=30, progress=100, images_count=3), 99)
    assert isinstance(done, Record)
    assert (done.task.state, done.task.processing_ms, done.task.progress) == (State.COMPLETED, 20, 100)
    broken = watched(running, RunStatus(Phase.FAILED, error="no images", cause=Cause.INPUT), 99)
    assert isinstance(broken, Record)
    assert (broken.task.state, broken.task.processing_ms, broken.task.progress) == (State.FAILED, -1, 0)
    assert broken.cause is Cause.INPUT


def test_a_run_that_was_ended_from_outside_starts_again_but_not_for_ever() -> None:
    """A machine that was restarted loses nothing; a run that eats the machine is given up."""
    current = begun(record())
    for _ in range(MOST_STARTS - 1):
        again = watched(current, None, 0)
        assert isinstance(again, Start)
        current = again.record
    given_up = watched(current, None, 0)
    assert isinstance(given_up, Record)
    assert given_up.task.state is State.FAILED
    assert f"{MOST_STARTS} times" in str(given_up.task.error)


def test_progress_never_goes_back_when_a_run_starts_again() -> None:
    """I6."""
    far = replace(begun(record()), task=replace(begun(record()).task, progress=50.0))
    after = watched(far, RunStatus(Phase.ENGINE, began_ms=1, progress=10), 5)
    assert isinstance(after, Record)
    assert after.task.progress == 50


def test_slots_are_counted_apart_for_router_and_direct_clients() -> None:
    """The router counts its own by itself."""
    records = {
        "a": begun(record()),
        "b": replace(begun(record()), forwarded=True),
        "c": replace(begun(record()), forwarded=True),
        "d": record(),
    }
    assert (used_slots(records, forwarded=False), used_slots(records, forwarded=True)) == (1, 2)
