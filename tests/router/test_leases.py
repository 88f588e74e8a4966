"""What becomes of tasks whose nodes fall silent, come back, or fail them: over a real Postgres, by its own clock."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlmodel import col, select, update

from common.embedded.object_store import ObjectStore
from common.federation import AttemptReport, Capacity, Heartbeat
from common.health import State as HealthState
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import Submission
from common.references import Reference
from common.tasks import Cause, Code, State, Wishes, canceled
from common.tokens import Caller, Kind, Limits
from router import queries
from router.api.health import leader
from router.database import Database
from router.federated import FederatedTasks
from router.lifecycle import BLACK_HOLE, Clocks, requeued
from router.nodes import NodeBusy, NodeMissing, Nodes
from router.tables import AttemptRow, LeaderRow, NodeRow
from tests.router.callers import ADMIN
from tests.router.replica import Replica, report, waiting

SECOND = timedelta(seconds=1)
CLOCKS = Clocks(late_after=15 * SECOND, lost_after=60 * SECOND, rest=timedelta(0))


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> AsyncIterator[Replica]:
    """A router that leads and has listened for long."""
    found = await Replica(database, rclone, CLOCKS).lead()
    found.loop.listen_since(10_000)
    yield found
    await found.loop.close()


async def silent(replica: Replica, node_id: str, seconds: float) -> None:
    """The node was last heard so long ago, and what it has began long before that."""
    async with replica.database.transaction() as session:
        await session.exec(
            update(NodeRow)
            .where(col(NodeRow.id) == node_id)
            .values(heard_at=col(NodeRow.heard_at) - timedelta(seconds=seconds))
        )


async def node_of(replica: Replica, uuid: str = "u") -> str:
    """The id of the node that has the task's current attempt."""
    async with replica.database.transaction() as session:
        attempt = await session.get(AttemptRow, (uuid, (await replica.read(uuid)).attempt))
    assert attempt is not None
    return attempt.node_id


async def test_a_lost_nodes_task_begins_anew_elsewhere(replica: Replica) -> None:
    """I3: not at once when it is late; then on another node, and never 10 on the way (I6)."""
    first = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    await replica.report(first, progress=40, processing_ms=9)
    second = await replica.join("b")
    await silent(replica, first, 30)
    await replica.watch()
    assert (await replica.read()).attempt == 1, "late is not lost"
    await silent(replica, first, 61)
    await replica.watch()
    after = await replica.read()
    assert (after.state, after.code, after.progress) == (State.QUEUED, Code.RUNNING, 40)
    assert await replica.attempts() == [(1, "failed", Cause.LOST)]
    await replica.place()
    assert await node_of(replica) == second
    assert await replica.attempts() == [(1, "failed", Cause.LOST), (2, "placed", None)]


async def test_i11_a_router_that_has_not_listened_for_long_gives_nothing_up(replica: Replica) -> None:
    """Nodes could not have been heard while there was no router, or no database."""
    await replica.join("a")
    await replica.join("b")
    await replica.add(waiting())
    await replica.place()
    holder = await node_of(replica)
    await silent(replica, holder, 9_999)
    replica.loop.listen_since(5)
    await replica.watch()
    assert (await replica.read()).state is State.PLACED
    replica.loop.listen_since(61)
    await replica.watch()
    assert (await replica.read()).state is State.QUEUED


async def test_i11_if_every_node_is_silent_nothing_is_given_up(replica: Replica) -> None:
    """It is the router that hears nobody."""
    nodes = [await replica.join("a"), await replica.join("b")]
    await replica.add(waiting())
    await replica.place()
    for each in nodes:
        await silent(replica, each, 9_999)
    await replica.watch()
    assert (await replica.read()).state is State.PLACED


async def test_a_node_that_comes_back_in_time_goes_on(replica: Replica) -> None:
    """Its task was given up, and nothing has taken its place: nothing is started twice."""
    first = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    await replica.join("b")
    await silent(replica, first, 99)
    await replica.watch()
    assert (await replica.read()).state is State.QUEUED
    assert await replica.report(first, progress=50) == ([], {"u": 0})
    after = await replica.read()
    assert (after.state, after.attempt, after.progress) == (State.RUNNING, 1, 50)
    await replica.place()
    assert await replica.attempts() == [(1, "running", None)]


async def test_a_node_that_comes_back_too_late_is_told_to_stop(replica: Replica) -> None:
    """I2: its attempt was replaced; unless it has finished before its replacement, whose run is then stopped."""
    first = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    second = await replica.join("b")
    await silent(replica, first, 99)
    await replica.watch()
    await replica.place()
    assert await replica.report(second, attempt=2, progress=5) == ([], {"u": 0})
    assert await replica.report(first, progress=50) == (["u"], {})
    assert await replica.report(first, state=State.COMPLETED, progress=100, processing_ms=7) == (["u"], {})
    after = await replica.read()
    assert (after.state, after.attempt, after.processing_ms) == (State.COMPLETED, 1, 7)
    assert await replica.attempts() == [(1, "completed", None), (2, "canceled", Cause.OUTDATED)]
    assert await replica.report(second, attempt=2, progress=6) == (["u"], {}), "the replacement is stopped"


async def test_a_task_may_forbid_its_replacement(replica: Replica) -> None:
    """It waits for its node, however long."""
    first = await replica.join("a")
    await replica.add(waiting(wishes=Wishes(replaceable=False)))
    await replica.place()
    await replica.join("b")
    await silent(replica, first, 999_999)
    await replica.watch()
    assert (await replica.read()).state is State.PLACED


@pytest.mark.parametrize(
    ("cause", "tries"), [(Cause.ENGINE, 1), (Cause.INPUT, 1), (Cause.INFRASTRUCTURE, 4), (Cause.MEMORY, 1)]
)
async def test_each_cause_is_tried_again_as_often_as_it_is_worth(replica: Replica, cause: Cause, tries: int) -> None:
    """And the cause stands on every attempt. More memory than on equal machines is not to be had here."""
    nodes = {await replica.join(name): name for name in "ab"}
    await replica.add(waiting())
    for number in range(1, tries + 1):
        await replica.place()
        assert (await replica.read()).state is State.PLACED
        await replica.report(await node_of(replica), attempt=number, state=State.FAILED, error="it broke", cause=cause)
    await replica.place()
    ended = await replica.read()
    assert ended.state is State.FAILED
    assert str(ended.error).startswith("it broke")
    assert await replica.attempts() == [(number, "failed", cause) for number in range(1, tries + 1)]
    assert set(nodes.values()) == {"a", "b"}


async def test_a_task_that_ran_out_of_memory_gets_more_where_there_is_more(replica: Replica) -> None:
    """Half as much again, on the node that has it."""
    small = await replica.join("small", max_images=100, max_images_at={1.5: 1})
    await replica.add(waiting())
    await replica.place()
    await replica.report(small, state=State.FAILED, error="Not enough memory", cause=Cause.MEMORY)
    await replica.join("large", max_images=100, max_images_at={1.5: 50})
    await replica.place()
    again = await replica.read()
    assert (again.state, again.attempt, again.memory_factor) == (State.PLACED, 2, 1.5)
    assert await node_of(replica) != small


async def test_a_node_that_fails_everything_at_once_is_quarantined(replica: Replica) -> None:
    """It cannot eat the queue; afterwards it is tried with one task at a time, and trusted when that goes well."""
    bad, good = await replica.join("bad", slots=9), await replica.join("good", slots=9)
    for number in range(2 * BLACK_HOLE):
        await replica.add(waiting(f"t{number}"))
    await replica.place()
    async with replica.database.transaction() as session:
        placed = (await session.exec(select(AttemptRow))).all()
    for each in placed:
        failing = each.node_id == bad
        changes = {"state": State.FAILED, "cause": Cause.ENGINE, "error": "no"} if failing else {"state": "completed"}
        await replica.hear(each.node_id, report(uuid=each.task_uuid, processing_ms=1, **changes), slots=9)
    await replica.registry.flush()
    await replica.loop.judge(await replica.history.read())
    await replica.registry.load()
    states = {state.name: state for state in replica.loop.node_states(await replica.loop.standings())}
    assert "rests for" in states["bad"].quarantine, placed
    assert not states["good"].quarantine
    nodes = Nodes(replica.database, replica.registry, replica.loop)
    assert (await nodes.trust("bad", by=ADMIN))["quarantine"] is None
    assert good


async def test_draining_locking_and_removing_a_node_lose_nothing(replica: Replica) -> None:
    """A node with work is removed only by force; then its work begins anew, and it is told that it was removed."""
    first = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    await replica.report(first, progress=10)
    nodes = Nodes(replica.database, replica.registry, replica.loop)
    assert (await nodes.set_draining("a", True, by=ADMIN))["draining"]
    await replica.add(waiting("v"))
    await replica.place()
    assert (await replica.read("v")).attempt == 0
    assert (await replica.hear(first)).draining
    with pytest.raises(NodeBusy, match="still has 1 tasks"):
        await nodes.remove("a", force=False, by=ADMIN)
    await replica.join("b", slots=2)
    await nodes.remove("a", force=True, by=ADMIN)
    await replica.watch()
    await replica.place()
    assert await replica.attempts() == [(1, "failed", Cause.LOST), (2, "placed", None)]
    answer = await replica.hear(first, report(progress=20))
    assert answer.removed
    assert [key.uuid for key in answer.stop] == ["u"]
    with pytest.raises(NodeMissing, match="There is no node a; the nodes are: b"):
        await nodes.set_locked("a", True, by=ADMIN)
    assert await replica.join("a") == first, "started again, it is the same node"
    assert not (await replica.hear(first)).removed


async def test_i3_what_a_node_has_lost_while_it_was_heard_begins_anew(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Job deleted by hand, a machine that came back empty: heartbeats come, and tell of it no more."""
    monkeypatch.setattr("router.loop.ABSENT_EVERY_S", 0.0)
    first = await replica.join("a", slots=2)
    await replica.add(waiting())
    await replica.add(waiting("v"))
    await replica.place()
    await replica.hear(first, report(), report(uuid="v"), slots=2)
    await replica.registry.flush()
    await replica.watch()
    await replica.hear(first, report(uuid="v"), slots=2)
    await replica.registry.flush()
    await replica.watch()
    assert (await replica.read()).state is State.RUNNING, "one heartbeat alone may be an old one"
    monkeypatch.setattr("router.lifecycle.ABSENT_S", -1.0)
    await replica.watch()
    assert (await replica.read()).state is State.QUEUED
    assert (await replica.read("v")).state is State.RUNNING
    assert await replica.attempts() == [(1, "failed", Cause.LOST)]


async def test_a_restart_numbers_its_attempts_after_every_one_there_was(replica: Replica, rclone: ObjectStore) -> None:
    """Also after one that was superseded by a late original: two attempts of one number cannot be."""
    first = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    second = await replica.join("b")
    await silent(replica, first, 99)
    await replica.watch()
    await replica.place()
    await replica.report(second, attempt=2)
    await replica.report(first, state=State.COMPLETED, progress=100)
    assert (await replica.read()).attempt == 1
    await surface(replica, rclone).restart(Caller(Kind.ADMIN, "root"), "u", None)
    restarted = await replica.read()
    assert (restarted.attempt, restarted.first_attempt) == (2, 3)
    async with replica.database.transaction() as session:
        row = await queries.task_row(session, "u")
        assert row is not None
        row.input_bytes = 1
    replica.snapshot.put(row)
    await replica.place()
    assert (await replica.read()).attempt == 3


async def test_i4_what_comes_back_to_a_node_whose_slot_was_given_away_is_stopped(replica: Replica) -> None:
    """The answer to its delivery was lost, and another task got the slot."""
    first = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    async with replica.database.transaction() as session:
        row = await queries.task_row(session, "u")
        assert row is not None
        await queries.end_attempt(session, "u", 1, State.FAILED, "no answer", Cause.UNDELIVERED)
        row.take(requeued(row.task()))
    replica.snapshot.put(row)
    await replica.add(waiting("v", wishes=Wishes(priority=1)))
    await replica.place()
    assert (await replica.read("v")).state is State.PLACED
    assert await replica.report(first) == (["u"], {})
    assert (await replica.read()).state is State.QUEUED
    assert await replica.report(first, state=State.COMPLETED, progress=100) == (["u"], {})
    assert (await replica.read()).state is State.COMPLETED, "a result takes no slot"


async def test_where_no_replica_has_ever_led_that_is_told(replica: Replica) -> None:
    """A new database says so by a moment before all others, from which no time can be counted."""
    async with replica.database.transaction() as session:
        await session.exec(update(LeaderRow).values(until=text("'-infinity'")))
    async with replica.database.statement() as session:
        found = leader(is_ours=False, leaderless=await queries.leaderless(session))
    assert (found.state, found.says) == (
        HealthState.FAILING,
        "No replica has led yet: one does within seconds of its start.",
    )


async def test_a_late_or_repeated_heartbeat_makes_no_dead_node_look_alive(replica: Replica) -> None:
    """It is answered, and counts for nothing."""
    first = await replica.join("a")
    for beat in (1, 2, 2, 1):
        await replica.registry.heartbeat(
            first, Heartbeat(capacity=Capacity(slots=beat), session="s", beat=beat, attempts=[])
        )
        if beat == 2:
            await replica.registry.flush()
            await silent(replica, first, 500)
    await replica.registry.flush()
    standings = await replica.loop.standings()
    assert standings[first].silence > 400 * SECOND
    assert standings[first].capacity["slots"] == 2
    await replica.registry.heartbeat(first, Heartbeat(capacity=Capacity(slots=1), session="next", beat=1))
    await replica.registry.flush()
    assert (await replica.loop.standings())[first].silence < 60 * SECOND


def surface(replica: Replica, rclone: ObjectStore) -> FederatedTasks:
    """The NodeODM API of a replica."""
    staging = Reference.parse("s3://staging/")
    parts = (replica.registry, replica.loop, replica.access, rclone.storage(), staging)
    return FederatedTasks(replica.database, replica.snapshot, *parts)


async def test_a_tokens_limits_hold(replica: Replica, rclone: ObjectStore) -> None:
    """Tasks at once, tasks that wait, images of a task, priority."""
    await replica.join("a", slots=9)
    limits = Limits(running=2, waiting=3, images=5, priority=1)
    await replica.access.make(Kind.USER, "alice", "acme", [], limits, by=ADMIN)
    for number in range(4):
        await replica.add(waiting(f"t{number}", token="alice", tenant="acme"))
    await replica.add(waiting("other", token="bob", tenant="bob"))
    await replica.place()
    states = {uuid: (await replica.read(uuid)).state for uuid in ("t0", "t1", "t2", "t3", "other")}
    assert [each for each in states.values() if each is State.PLACED] == [State.PLACED] * 3
    assert states["other"] is State.PLACED
    tasks = surface(replica, rclone)
    caller = Caller(Kind.USER, "alice", "acme", (), limits)
    await replica.add(waiting("t4", token="alice", tenant="acme"))
    with pytest.raises(Refused, match="3 tasks of this token wait already, and it may have 3"):
        await tasks.open_upload(caller, None, Submission("n", 1))
    why = await tasks.why(Caller(Kind.ADMIN, "root"), "t4")
    assert "its token may have 2 tasks running at once" in str(why["text"])


async def test_a_replica_that_has_not_heard_of_a_node_refuses_nobody_for_it(
    replica: Replica, database: Database, rclone: ObjectStore
) -> None:
    """A node joined another router, and Postgres fell silent before this one was told."""
    other = Replica(database, rclone)
    tasks, caller = surface(other, rclone), Caller(Kind.USER, "alice", "acme")
    with pytest.raises(Refused, match="No node has joined this router"):
        await tasks.open_upload(caller, None, Submission("n", 1))
    await replica.join("a")
    assert await tasks.open_upload(caller, None, Submission("n", 1))
    await other.loop.close()


async def test_why_and_queue_say_where_a_task_stands(
    replica: Replica, rclone: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Third of three; when it starts cannot be said before anything has run here."""
    monkeypatch.setattr("router.queue.OUTLOOK_FOR_S", 0.0)
    await replica.join("a")
    tasks = surface(replica, rclone)
    for number in range(4):
        await replica.add(waiting(f"t{number}"))
    await replica.place()
    root = Caller(Kind.ADMIN, "root")
    last = (await tasks.queue(root, "t3"))["queue"]
    assert isinstance(last, dict)
    assert (last["position"], last["waiting"], last["startsInSeconds"]) == (3, 3, None)
    first = await replica.read("t0")
    assert first.state is State.PLACED
    taken = AttemptReport(uuid="t0", attempt=1, state=State.RUNNING, processing_ms=60_000)
    await replica.hear(await node_of(replica, "t0"), taken)
    await replica.hear(
        await node_of(replica, "t0"), taken.model_copy(update={"state": State.COMPLETED, "images_count": 2})
    )
    await replica.history.read()
    await replica.place()
    told = (await tasks.queue(root, "t3"))["queue"]
    assert isinstance(told, dict)
    assert told["position"] == 2
    low, high = told["startsInSeconds"]
    assert 0 <= low < high
    why = await tasks.why(root, "t0")
    assert why["node"] == "a"
    assert "was the only node that fits" in str(why["text"])
    waits = await tasks.why(root, "t3")
    assert "all 1 slots are taken (1 by this router, 0 directly)" in str(waits["text"])


async def test_what_a_burst_leaves_for_the_next_turn_is_not_shown_as_waiting_while_slots_are_free(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap of contract 8.3: who reads 10 gives up. Once no slot is left, what waits is shown as waiting."""
    monkeypatch.setattr("router.loop.MOST_PLACED_AT_ONCE", 2)
    await replica.join("n", slots=3)
    for number in range(5):
        await replica.add(waiting(f"u{number}"))

    async def states() -> Counter[State]:
        return Counter([(await replica.read(f"u{number}")).state for number in range(5)])

    await replica.place()
    assert await states() == {State.PLACED: 2, State.STAGING: 3}
    await replica.place()
    assert await states() == {State.PLACED: 3, State.QUEUED: 2}
    assert replica.snapshot.count(State.PLACED) == 3


async def test_what_has_changed_since_it_was_read_is_not_placed(replica: Replica) -> None:
    """Another replica has canceled it, and its notice has not come yet."""
    await replica.join("n", slots=2)
    for uuid in ("stays", "goes"):
        await replica.add(waiting(uuid))
    async with replica.database.transaction() as session:
        row = await queries.task_row(session, "goes")
        assert row is not None
        row.take(canceled(row.task()))
    await replica.place()
    assert [(await replica.read(uuid)).state for uuid in ("stays", "goes")] == [State.PLACED, State.CANCELED]
    assert await replica.attempts("goes") == []


async def test_a_replica_that_is_behind_takes_reports_by_what_is_on_record(
    replica: Replica, rclone: ObjectStore
) -> None:
    """Its snapshot has an older reading of the task; what was on record besides is not undone."""
    node_id = await replica.join("n")
    await replica.add(waiting())
    await replica.place()
    other = Replica(replica.database, rclone)
    await other.registry.load()
    async with other.database.transaction() as session:
        row = await queries.task_row(session, "u")
    assert row is not None
    other.snapshot.put(row)
    assert await replica.report(node_id, progress=30.0, lines=["one"]) == ([], {"u": 1})
    assert other.snapshot.known("u") != replica.snapshot.known("u")
    assert await other.report(node_id, progress=20.0, first_line=1, lines=["two"]) == ([], {"u": 2})
    after = await replica.read()
    assert (after.progress, after.console_lines, after.state) == (30.0, 2, State.RUNNING)


async def test_who_has_joined_another_replica_is_not_overlooked(replica: Replica, rclone: ObjectStore) -> None:
    """A task for it alone, given to a leader that has not heard of it yet, is no hopeless one."""
    await replica.join("a")
    other = Replica(replica.database, rclone)
    there = await other.join("b")
    await replica.add(waiting(wishes=Wishes(nodes=("b",))))
    await replica.add(waiting("v", wishes=Wishes(nodes=("nobody",))))
    stood_before = {node_id: each for node_id, each in (await replica.loop.standings()).items() if node_id != there}
    await replica.loop.place(stood_before)
    assert {(await replica.read(uuid)).state for uuid in "uv"} == {State.QUEUED}, "the next turn knows more"
    await replica.place()
    assert (await replica.read()).state is State.PLACED
    assert await node_of(replica) == there
    error = (await replica.read("v")).error or ""
    assert "a: the task is to run on nobody" in error
    assert "b: the task is to run on nobody" in error


async def test_what_a_node_has_become_at_another_replica_counts(replica: Replica, rclone: ObjectStore) -> None:
    """It has joined anew, with a label that it did not have."""
    node_id = await replica.join("a")
    await Replica(replica.database, rclone).join("a", labels={"gpu": "yes"})
    await replica.add(waiting(wishes=Wishes(labels=(("gpu", "yes"),))))
    await replica.place()
    await replica.place()
    assert (await replica.read()).state is State.PLACED
    assert await node_of(replica) == node_id
