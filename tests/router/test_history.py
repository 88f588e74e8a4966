"""What nodes did before counts once: for one quarantine, and of one outage."""

from sqlmodel import select

from common.embedded.object_store import ObjectStore
from common.tasks import Cause, State
from router import queries
from router.database import Database
from router.lifecycle import BLACK_HOLE
from router.tables import AttemptRow
from tests.router.replica import Replica, report, waiting


async def test_what_led_to_a_quarantine_leads_to_no_second_one(database: Database, rclone: ObjectStore) -> None:
    """A replica that comes to lead reads what ended before, and what was already judged."""
    first = await Replica(database, rclone).lead()
    bad = await first.join("bad", slots=9)
    await first.join("good", slots=9)
    for number in range(2 * BLACK_HOLE):
        await first.add(waiting(f"t{number}"))
    await first.place()
    async with database.transaction() as session:
        given = (await session.exec(select(AttemptRow))).all()
    for each in given:
        failing = each.node_id == bad
        changes = {"state": State.FAILED, "cause": Cause.ENGINE, "error": "no"} if failing else {"state": "completed"}
        await first.hear(each.node_id, report(uuid=each.task_uuid, processing_ms=1, **changes), slots=9)
    await first.loop.judge(await first.history.read())
    assert await quarantines(first, bad) == 1, given
    await first.loop.leadership.release()
    second = await Replica(database, rclone).lead()
    await second.registry.load()
    await second.loop.judge(await second.history.read())
    assert await quarantines(second, bad) == 1, "nothing has happened since"


async def test_a_node_that_goes_away_with_many_deliveries_is_no_black_hole(
    database: Database, rclone: ObjectStore
) -> None:
    """They could not be delivered for one and the same reason."""
    replica = await Replica(database, rclone).lead()
    node_id = await replica.join("away", slots=9)
    for number in range(2 * BLACK_HOLE):
        await replica.add(waiting(f"t{number}"))
    await replica.place()
    async with database.transaction() as session:
        given = await queries.undelivered(session)
    node = replica.registry.node(node_id)
    assert node is not None
    for uuid, _, _ in given:
        await replica.loop._deliver(await replica.read(uuid), node)
    assert [(await replica.attempts(uuid))[0][2] for uuid, _, _ in given] == [Cause.UNDELIVERED] * 2 * BLACK_HOLE
    await replica.loop.judge(await replica.history.read())
    assert await quarantines(replica, node_id) == 0
    await replica.loop.close()


async def quarantines(replica: Replica, node_id: str) -> int:
    """How often a node was quarantined, as it is on record."""
    await replica.registry.load()
    node = replica.registry.node(node_id)
    assert node is not None
    return node.quarantines
