"""Registry, loop and snapshot over a real Postgres: what several of them must never do to each other."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError
from sqlmodel import func, select, update

from common.embedded.object_store import ObjectStore
from common.federation import AttemptReport, Capacity, Heartbeat, HeartbeatAnswer
from common.nodeodm.options import Setting
from common.tasks import State, canceled
from common.tokens import Kind, hashed
from router import queries
from router.consoles import Consoles
from router.database import Database
from router.leadership import LeadershipLost
from router.registry import NodeUnknown
from router.snapshot import SnapshotKeeper
from router.tables import AttemptRow, LeaderRow, TaskRow
from tests.router.callers import ADMIN
from tests.router.replica import Replica, report, waiting


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> Replica:
    """One replica, which leads."""
    return await Replica(database, rclone).lead()


async def test_i4_several_replicas_placing_at_once_never_overfill_a_node(
    database: Database, rclone: ObjectStore
) -> None:
    """One leads, and then another one: 40 tasks, 7 slots; exactly seven attempts, and no task twice (I2)."""
    replicas = [Replica(database, rclone) for _ in range(4)]
    await replicas[0].lead()
    for name, slots in (("a", 1), ("b", 2), ("c", 4)):
        await replicas[0].join(name, slots)
    for number in range(40):
        await replicas[0].add(waiting(f"task-{number:02}"))
    for other in replicas[1:]:
        await SnapshotKeeper(database, other.snapshot, lambda: None, {}).load()
        await other.registry.load()
    results = await asyncio.gather(*(each.place() for each in replicas for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [type(None)] * 3 + [LeadershipLost] * 9
    attempts = await seven_placed(replicas[0])
    await replicas[0].loop.leadership.release()
    await replicas[3].lead()
    await replicas[3].place()
    assert await seven_placed(replicas[3]) == attempts
    for each in replicas:
        await each.loop.close()


async def seven_placed(replica: Replica) -> set[tuple[str, str]]:
    """What was placed on a, b and c: seven tasks, the first ones, and no node has more than its slots."""
    async with replica.database.transaction() as session:
        attempts = (await session.exec(select(AttemptRow))).all()
    assert {attempt.task_uuid for attempt in attempts} == {f"task-{number:02}" for number in range(7)}, "in order"
    placed = Counter(attempt.node_id for attempt in attempts)
    nodes = {node.id: Capacity.model_validate(node.capacity).slots for node in replica.registry.nodes()}
    assert dict(placed) == nodes
    return {(attempt.task_uuid, attempt.node_id) for attempt in attempts}


async def test_a_leader_that_was_replaced_writes_nothing(database: Database, rclone: ObjectStore) -> None:
    """Design 4.5: it hung for a while, and still believes that it leads."""
    stale, new = await Replica(database, rclone).lead(), Replica(database, rclone)
    await stale.join("a")
    await stale.add(waiting())
    async with database.transaction() as session:
        await session.exec(update(LeaderRow).values(until=func.now() - timedelta(seconds=1)))
    await new.lead()
    assert stale.loop.leadership.is_leading, "as far as it knows"
    with pytest.raises(LeadershipLost):
        await stale.place()
    assert (await stale.read()).state is State.STAGING
    await stale.loop.leadership.contend()
    assert not stale.loop.leadership.is_leading
    for each in (stale, new):
        await each.loop.close()


async def test_nobody_comes_to_lead_while_a_leader_still_writes(database: Database, rclone: ObjectStore) -> None:
    """The lease is over in the middle of a transaction: the next leader waits for its end."""
    first, second = await Replica(database, rclone).lead(), Replica(database, rclone)
    async with first.loop.leadership.transaction() as session:
        async with database.transaction() as other:
            await other.exec(update(LeaderRow).values(until=func.now() - timedelta(seconds=1)))
        coming = asyncio.create_task(second.lead())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(coming), 0.3)
        session.add(TaskRow.of(waiting()))
    await coming
    assert (await second.read()).uuid == "u"
    for each in (first, second):
        await each.loop.close()


async def test_joining_again_under_the_same_name_is_the_same_node(replica: Replica) -> None:
    """Design 4.2."""
    first = await replica.join("a")
    assert await replica.join("a", slots=3) == first
    states = replica.loop.node_states(await replica.loop.standings())
    assert [(state.name, state.slots) for state in states] == [("a", 3)]
    with pytest.raises(NodeUnknown):
        await replica.registry.heartbeat("stranger", Heartbeat(capacity=Capacity(slots=1)))


async def test_console_lines_arrive_once_and_in_order(replica: Replica) -> None:
    """Answers get lost, so lines come twice; what is missing is asked for again."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    assert await replica.report(node_id, lines=["0", "1"]) == ([], {"u": 2})
    assert await replica.report(node_id, lines=["0", "1", "2"]) == ([], {"u": 3})
    assert await replica.report(node_id, first_line=5, lines=["5"]) == ([], {"u": 3})
    assert await replica.report(node_id, first_line=3, lines=["3"]) == ([], {"u": 4})
    async with replica.database.transaction() as session:
        assert await queries.lines_from(session, "u", 1, 0) == ["0", "1", "2", "3"]
        assert await queries.lines_from(session, "u", 1, 2) == ["2", "3"]
    await replica.loop.close()


async def test_many_nodes_reports_are_taken_together_and_none_spoils_anothers(replica: Replica) -> None:
    """I10: what one node says that no database can keep is that node's trouble alone."""
    nodes = [await replica.join(f"n{number}") for number in range(20)]
    for number in range(20):
        await replica.add(waiting(f"t{number}"))
    await replica.place()
    async with replica.database.transaction() as session:
        held = {row.node_id: row.task_uuid for row in await session.exec(select(AttemptRow))}

    def says(node: str) -> list[AttemptReport]:
        sound = report(uuid=held[node], progress=20.0, error="a \0 in a text", lines=[f"I am {node} \0"])
        return [sound, report(uuid="no \0 uuid")] if node == nodes[7] else [sound]

    answers = await asyncio.gather(*(replica.hear(node, *says(node)) for node in nodes), return_exceptions=True)
    for node, answer in zip(nodes, answers, strict=True):
        if node == nodes[7]:
            assert isinstance(answer, DBAPIError)
        else:
            assert isinstance(answer, HeartbeatAnswer)
            assert [each.next_line for each in answer.acknowledged] == [1]
            assert (await replica.read(held[node])).progress == 20.0
    await replica.loop.close()


async def test_an_end_is_on_record_before_the_node_may_forget(replica: Replica) -> None:
    """And the last lines with it."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    stop, _ = await replica.report(node_id, state=State.COMPLETED, progress=100, processing_ms=5, lines=["end"])
    assert stop == ["u"]
    ended = await replica.read("u")
    assert (ended.state, ended.processing_ms) == (State.COMPLETED, 5)
    async with replica.database.transaction() as session:
        assert await queries.lines_from(session, "u", 1, 0) == ["end"]
        attempt = await queries.attempt_row(session, "u", 1)
    assert attempt is not None
    assert attempt.ended_at is not None
    await replica.loop.close()


async def test_consoles_are_read_from_the_database_once(replica: Replica) -> None:
    """New lines only; and the longest unread console makes room."""
    node_id = await replica.join("a", slots=2)
    for uuid in ("u", "v"):
        await replica.add(waiting(uuid))
    await replica.place()
    consoles = Consoles(replica.database, most_lines=5)
    await replica.report(node_id, lines=["0", "1"])
    assert (await replica.read("u")).console_lines == 2
    first = await consoles.lines("u", 1, 2)
    assert first == ["0", "1"]
    await replica.report(node_id, first_line=2, lines=["2"])
    assert await asyncio.gather(*(consoles.lines("u", 1, 3) for _ in range(5))) == [["0", "1", "2"]] * 5
    assert await consoles.lines("u", 1, 1) is first, "from memory"
    await replica.report(node_id, uuid="v", lines=["a", "b", "c"])
    assert await consoles.lines("v", 1, 3) == ["a", "b", "c"]
    assert await consoles.lines("u", 1, 3) is not first, "it was let go, and read again"
    await replica.loop.close()


async def test_an_end_with_a_gap_in_its_console_is_asked_for_again(replica: Replica) -> None:
    """No line is lost because the end came first."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    assert await replica.report(node_id, state=State.COMPLETED, first_line=2, lines=["2"]) == ([], {"u": 0})
    assert (await replica.read("u")).state is State.PLACED
    whole = ["0", "1", "2"]
    assert await replica.report(node_id, state=State.COMPLETED, lines=whole) == (["u"], {})
    async with replica.database.transaction() as session:
        assert await queries.lines_from(session, "u", 1, 0) == whole
    await replica.loop.close()


async def test_a_node_cannot_speak_for_anothers_attempt(replica: Replica) -> None:
    """Its own secret opens its own reports only."""
    await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    stranger = await replica.join("b")
    assert await replica.report(stranger, state=State.COMPLETED) == (["u"], {})
    assert (await replica.read("u")).state is State.PLACED
    await replica.loop.close()


@pytest.mark.contract("3.5 cancel wins")
async def test_i7_a_canceled_task_never_becomes_completed(replica: Replica) -> None:
    """I7: the report comes too late, and the node is told to let go."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.place()
    async with replica.database.transaction() as session:
        row = await queries.task_row(session, "u")
        assert row is not None
        row.take(canceled(row.task()))
    assert await replica.report(node_id, state=State.COMPLETED) == (["u"], {})
    assert (await replica.read("u")).state is State.CANCELED
    await replica.loop.close()


async def test_a_task_that_cannot_be_delivered_goes_back_to_the_queue(replica: Replica) -> None:
    """The node's port is closed: the attempt ends, the next one avoids that node for a while."""
    await replica.join("unreachable")
    await replica.add(waiting())
    await replica.place()
    async with replica.database.transaction() as session:
        ((uuid, number, node_id),) = await queries.undelivered(session)
    node = replica.registry.node(node_id)
    assert node is not None
    assert number == 1
    await replica.loop._deliver(await replica.read(uuid), node)
    after = await replica.read("u")
    assert (after.state, after.code) == (State.QUEUED, 20)
    await replica.place()
    assert (await replica.read("u")).attempt == 1, "not tried again at once"
    await replica.loop.close()


async def test_a_task_that_no_node_will_ever_take_fails_with_the_reason(replica: Replica) -> None:
    """Rather than waiting for ever."""
    await replica.join("a")
    await replica.add(replace(waiting(), options=(Setting("dsm", True),)))
    await replica.place()
    ended = await replica.read("u")
    assert ended.state is State.FAILED
    assert "a: its engine has no option dsm" in str(ended.error)
    await replica.loop.close()


async def test_another_replica_hears_of_every_change(database: Database, rclone: ObjectStore) -> None:
    """LISTEN and NOTIFY: what one writes, the other answers from memory."""
    writer, reader = await Replica(database, rclone).lead(), Replica(database, rclone)
    keeper = SnapshotKeeper(database, reader.snapshot, lambda: None, {"nodes": reader.registry.load_soon})
    listening = asyncio.create_task(keeper.run())
    await writer.join("a")
    await writer.add(waiting())
    await _until(lambda: reader.snapshot.get("u") is not None, "the reader to hear of the task")
    await writer.place()
    await _until(lambda: getattr(reader.snapshot.get("u"), "state", None) is State.PLACED, "the placement")
    async with database.transaction() as session:
        await session.delete(await queries.task_row(session, "u"))
    await _until(lambda: reader.snapshot.get("u") is None, "the removal")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await writer.loop.close()


async def _until(is_so: object, description: str) -> None:
    for _ in range(200):
        if is_so():  # type: ignore[operator]
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain for {description}")


async def test_tokens_are_stored_hashed_and_end_when_they_are_revoked(replica: Replica) -> None:
    """Design 10."""
    token = await replica.access.make(Kind.USER, "alice", "acme", ["s3://acme/"], by=ADMIN)
    caller = replica.access.gate.caller(token)
    assert caller is not None
    assert (caller.tenant, caller.prefixes) == ("acme", ("s3://acme/",))
    async with replica.database.transaction() as session:
        (row,) = await queries.token_rows(session)
    assert token not in str(row)
    assert row.hash == hashed(token)
    newer = await replica.access.make(Kind.USER, "alice", "acme", [], by=ADMIN)
    assert replica.access.gate.caller(token) is None
    assert await replica.access.revoke("alice", by=ADMIN)
    assert replica.access.gate.caller(newer) is None
    assert not await replica.access.revoke("alice", by=ADMIN)
