"""Which node goes on with a restarted task: a preference, never a reason to wait."""

from dataclasses import replace

import pytest

from common.embedded.object_store import ObjectStore
from common.federation import Capacity, Heartbeat
from common.nodeodm.options import Setting
from router import queries, retention
from router.database import Database
from router.lifecycle import Health
from router.placement import Need, NodeState, choose
from tests.router.replica import Replica, waiting

IDLE = NodeState("1", "idle", Health.HEALTHY, slots=8)
BUSY = NodeState("2", "busy", Health.HEALTHY, slots=8, placed=7)
FULL = replace(BUSY, placed=8)
GOES_ON = Need(workspace=frozenset({"2"}))


@pytest.mark.parametrize("tie", [0.0, 0.99])
def test_the_node_that_keeps_the_workspace_is_preferred_however_busy_it_is(tie: float) -> None:
    """As long as it has a slot; and that is why."""
    assert choose(Need(), [IDLE, BUSY], tie).node_id == "1"
    choice = choose(GOES_ON, [IDLE, BUSY], tie)
    assert choice.node_id == "2"
    assert choice.text == "busy keeps the workspace in which the task is to go on: 1 of 8 slots free"
    assert choice.reasons[0].score > choice.reasons[1].score


def test_nobody_waits_for_the_node_that_keeps_the_workspace() -> None:
    """I5: a task waits only while no fitting node has a slot; what it loses by that is told."""
    choice = choose(GOES_ON, [IDLE, FULL], 0.0)
    assert choice.node_id == "1"
    assert [reason.text for reason in choice.reasons if reason.node == "busy"] == [
        "all 8 slots are taken (8 by this router, 0 directly); it keeps the workspace in which the task is to go on"
    ]


async def tell(replica: Replica, node_id: str, **kept: int) -> list[str]:
    """A heartbeat that tells of workspaces; gives those of unknown tasks."""
    heartbeat = Heartbeat(capacity=Capacity(slots=1), workspaces=kept)
    return (await replica.registry.heartbeat(node_id, heartbeat)).unknown


async def test_a_node_is_told_which_tasks_are_no_longer_known(database: Database, rclone: ObjectStore) -> None:
    """Of removed ones it keeps nothing."""
    replica = Replica(database, rclone)
    node_id = await replica.join("a")
    await replica.add(waiting("u"))
    assert await tell(replica, node_id, u=1, gone=3) == ["gone"]
    assert await tell(replica, node_id) == []


async def test_a_restarted_task_goes_where_its_latest_workspace_is(database: Database, rclone: ObjectStore) -> None:
    """Of several nodes that keep one; also when another replica heard of it."""
    replica = await Replica(database, rclone).lead()
    nodes = [await replica.join(name) for name in ("a", "b", "c")]
    other = Replica(database, rclone)
    await other.registry.load()
    for node_id, attempt in zip(nodes, (1, 2, 1), strict=True):
        await tell(other, node_id, u=attempt)
    await other.registry.flush()
    async with database.statement() as session:
        assert await retention.workspaces_of(session, ["u", "v"]) == {"u": frozenset({nodes[1]})}
    options = (Setting("rerun-from", "odm_report"),)
    await replica.add(waiting("u", options=options, first_attempt=3, attempt=2))
    await replica.registry.load()
    async with database.transaction() as session:
        for row in replica.registry.nodes():
            row.options = [{"name": "rerun-from", "type": "string", "value": "", "domain": "", "help": ""}]
            await session.merge(row)
    await replica.registry.load()
    await replica.place()
    assert await replica.attempts("u") == [(3, "placed", None)]
    async with database.transaction() as session:
        node = await queries.node_of(session, "u", 3)
    assert node is not None
    assert node.id == nodes[1]
