"""Registry, loop and snapshot over a real Postgres: what several of them must never do to each other."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from sqlmodel import select

from common.embedded.object_store import ObjectStore
from common.federation import AttemptReport, Capacity, Heartbeat, JoinRequest
from common.references import Reference
from common.settings import Switch
from common.tasks import State, Task, canceled
from common.tokens import Kind, hashed
from router import queries
from router.access import Access
from router.consoles import Consoles
from router.database import Database
from router.loop import Loop
from router.registry import NodeUnknown, Registry
from router.settings import RouterSettings
from router.snapshot import Snapshot, SnapshotKeeper
from router.tables import AttemptRow, TaskRow
from tests.common.nodeodm.test_messages import task

SETTINGS = RouterSettings.model_construct(
    secret_key=RouterSettings.model_fields["secret_key"].annotation("k" * 32),  # type: ignore[misc]
    auth=Switch.ON,
    user_token=None,
    node_token=None,
    admin_token=None,
)


class Replica:
    """The parts of one router that decide, without its web server."""

    def __init__(self, database: Database, rclone: ObjectStore) -> None:
        self.database = database
        self.snapshot = Snapshot()
        self.access = Access(SETTINGS, database)
        parts = (database, self.snapshot, self.access, rclone.storage(), Reference.parse("s3://staging/"))
        self.registry, self.loop = Registry(*parts), Loop(*parts)

    async def join(self, name: str, slots: int = 1) -> str:
        """A node that joins; gives its id."""
        answer = await self.registry.join(
            JoinRequest(
                name=name, url="http://127.0.0.1:1", engine="odm", engine_version="1", capacity=Capacity(slots=slots)
            )
        )
        return answer.node_id

    async def add(self, found: Task) -> None:
        """A surveyed task."""
        async with self.database.transaction() as session:
            row = TaskRow.of(found)
            row.committed_at = await queries.now(session)
            session.add(row)
        self.snapshot.put(row)

    async def read(self, uuid: str) -> Task:
        """The task as Postgres has it."""
        async with self.database.transaction() as session:
            row = await queries.task_row(session, uuid)
        assert row is not None
        return row.task()

    async def report(self, node_id: str, **fields: object) -> tuple[list[str], dict[str, int]]:
        """A heartbeat with one report; gives what to stop, and what line is wanted next."""
        attempt = AttemptReport.model_validate({"uuid": "u", "attempt": 1, "state": State.RUNNING, **fields})
        answer = await self.registry.heartbeat(node_id, Heartbeat(capacity=Capacity(slots=1), attempts=[attempt]))
        return [key.uuid for key in answer.stop], {each.uuid: each.next_line for each in answer.acknowledged}


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> Replica:
    """One replica."""
    return Replica(database, rclone)


def waiting(uuid: str = "u") -> Task:
    """A task that waits for nothing but a slot."""
    return task(uuid=uuid, state=State.STAGING, input_bytes=1, images_count=2)


async def test_several_replicas_placing_at_once_never_overfill_a_node(database: Database, rclone: ObjectStore) -> None:
    """I4: four loops, 40 tasks, 7 slots; exactly seven attempts, and no task twice (I2)."""
    replicas = [Replica(database, rclone) for _ in range(4)]
    for name, slots in (("a", 1), ("b", 2), ("c", 4)):
        await replicas[0].join(name, slots)
    for number in range(40):
        await replicas[0].add(waiting(f"task-{number:02}"))
    await asyncio.gather(*(each.loop._place() for each in replicas for _ in range(3)))
    async with database.transaction() as session:
        attempts = (await session.exec(select(AttemptRow))).all()
        states = {node.id: node for node in await queries.node_states(session)}
    assert len(attempts) == 7
    assert len({attempt.task_uuid for attempt in attempts}) == 7
    placed = Counter(attempt.node_id for attempt in attempts)
    assert all(placed[node_id] == state.slots for node_id, state in states.items())
    assert {attempt.task_uuid for attempt in attempts} == {f"task-{number:02}" for number in range(7)}, "in order"
    for each in replicas:
        await each.loop.close()


async def test_joining_again_under_the_same_name_is_the_same_node(replica: Replica) -> None:
    """Design 4.2."""
    first = await replica.join("a")
    assert await replica.join("a", slots=3) == first
    async with replica.database.transaction() as session:
        states = await queries.node_states(session)
    assert [(state.name, state.slots) for state in states] == [("a", 3)]
    with pytest.raises(NodeUnknown):
        await replica.registry.heartbeat("stranger", Heartbeat(capacity=Capacity(slots=1)))


async def test_console_lines_arrive_once_and_in_order(replica: Replica) -> None:
    """Answers get lost, so lines come twice; what is missing is asked for again."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.loop._place()
    assert await replica.report(node_id, lines=["0", "1"]) == ([], {"u": 2})
    assert await replica.report(node_id, lines=["0", "1", "2"]) == ([], {"u": 3})
    assert await replica.report(node_id, first_line=5, lines=["5"]) == ([], {"u": 3})
    assert await replica.report(node_id, first_line=3, lines=["3"]) == ([], {"u": 4})
    async with replica.database.transaction() as session:
        assert await queries.lines_from(session, "u", 1, 0) == ["0", "1", "2", "3"]
        assert await queries.lines_from(session, "u", 1, 2) == ["2", "3"]
    await replica.loop.close()


async def test_an_end_is_on_record_before_the_node_may_forget(replica: Replica) -> None:
    """And the last lines with it."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.loop._place()
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
    await replica.loop._place()
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
    await replica.loop._place()
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
    await replica.loop._place()
    stranger = await replica.join("b")
    assert await replica.report(stranger, state=State.COMPLETED) == (["u"], {})
    assert (await replica.read("u")).state is State.PLACED
    await replica.loop.close()


async def test_a_canceled_task_never_becomes_completed(replica: Replica) -> None:
    """I7: the report comes too late, and the node is told to let go."""
    node_id = await replica.join("a")
    await replica.add(waiting())
    await replica.loop._place()
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
    await replica.loop._place()
    async with replica.database.transaction() as session:
        (found,) = await queries.undelivered(session)
    await replica.loop._deliver(found[0].task(), found[2])
    after = await replica.read("u")
    assert (after.state, after.code) == (State.QUEUED, 20)
    await replica.loop._place()
    assert (await replica.read("u")).attempt == 1, "not tried again at once"
    await replica.loop.close()


async def test_a_task_that_no_node_will_ever_take_fails_with_the_reason(replica: Replica) -> None:
    """Rather than waiting for ever."""
    await replica.join("a")
    from common.nodeodm.options import Setting

    await replica.add(replace(waiting(), options=(Setting("dsm", True),)))
    await replica.loop._place()
    ended = await replica.read("u")
    assert ended.state is State.FAILED
    assert "a: its engine has no option dsm" in str(ended.error)
    await replica.loop.close()


async def test_another_replica_hears_of_every_change(database: Database, rclone: ObjectStore) -> None:
    """LISTEN and NOTIFY: what one writes, the other answers from memory."""
    writer, reader = Replica(database, rclone), Replica(database, rclone)
    keeper = SnapshotKeeper(database, reader.snapshot)
    listening = asyncio.create_task(keeper.run())
    await writer.join("a")
    await writer.add(waiting())
    await _until(lambda: reader.snapshot.get("u") is not None, "the reader to hear of the task")
    await writer.loop._place()
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
    token = await replica.access.make(Kind.USER, "alice", "acme", ["s3://acme/"])
    caller = replica.access.gate.caller(token)
    assert caller is not None
    assert (caller.tenant, caller.prefixes) == ("acme", ("s3://acme/",))
    async with replica.database.transaction() as session:
        (row,) = await queries.token_rows(session)
    assert token not in str(row)
    assert row.hash == hashed(token)
    newer = await replica.access.make(Kind.USER, "alice", "acme", [])
    assert replica.access.gate.caller(token) is None
    assert await replica.access.revoke("alice")
    assert replica.access.gate.caller(newer) is None
    assert not await replica.access.revoke("alice")
