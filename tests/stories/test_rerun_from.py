"""A restart goes on from a stage where the workspace was kept, and says so where it was not (contract 2.13, 3.5)."""

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from common.embedded.stack import Stack
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.waiting import wait_until

LAST: list[dict[str, object]] = [{"name": "rerun-from", "value": "odm_orthophoto"}]
BEGINS_ANEW = (
    "[INFO] rerun-from odm_orthophoto: the workspace of attempt 1 was not kept, so this run begins at the start"
)


def goes_on(attempt: int) -> str:
    """What the console says of a run that goes on."""
    return (
        f"[INFO] rerun-from odm_orthophoto: this run goes on in the workspace of attempt {attempt}, with the 2 "
        "images that are there"
    )


def restart(wire: Wire, uuid: str, options: list[dict[str, object]] | None = None) -> list[str]:
    """Restart as WebODM does, with the whole list of options; gives the console of the next attempt at its end."""
    fields = {} if options is None else {"options": json.dumps(options)}
    assert wire.act("restart", uuid, **fields) == {"success": True}
    assert wire.ended(uuid)["status"] == {"code": 40}
    return wire.says(uuid, "Done")


def fetched(lines: list[str]) -> bool:
    """Whether a run brought its images from S3."""
    return any(line.startswith("Fetching ") for line in lines)


def engine_was_told(lines: list[str], argument: str) -> bool:
    """Whether the stand-in was called with this argument, which it says in its first line."""
    return any("Initializing stand-in" in line and argument in line for line in lines)


def node_that_keeps(stack: Stack, uuid: str) -> str:
    """The node that the router knows to keep a task's workspace, once it does."""

    async def look() -> str | None:
        connection = await asyncpg.connect(stack.database_url)
        try:
            found: str | None = await connection.fetchval("SELECT name FROM nodes WHERE workspaces ? $1", uuid)
        finally:
            await connection.close()
        return found

    return wait_until(lambda: asyncio.run(look()), f"the workspace of {uuid} to be on record")


def node_of(wire: Wire, uuid: str) -> dict[str, object]:
    """Where a task runs, or ran, and why."""
    why: dict[str, object] = wire.get(f"/task/{uuid}/why").json()
    return why


@pytest.mark.contract("3.5 rerun-from", "8.2 rerun-from")
@pytest.mark.timeout(120)
def test_a_restart_through_the_router_goes_on_from_the_stage_where_the_workspace_is(
    federation: Stack, router_wire: Wire
) -> None:
    """On that very node, with no image fetched again; and `why` says what it was chosen for."""
    uuid = router_wire.task("say hello")
    router_wire.ended(uuid)
    keeps = node_that_keeps(federation, uuid)
    for attempt in (1, 2):
        lines = restart(router_wire, uuid, [*LAST, {"name": "dsm", "value": True}])
        assert goes_on(attempt) in lines
        assert not fetched(lines)
        assert engine_was_told(lines, "--rerun-from=odm_orthophoto")
        assert "hello" in lines, "the side files are there as well"
        why = node_of(router_wire, uuid)
        assert why["node"] == keeps
        assert "keeps the workspace" in str(why["text"])
        node_that_keeps(federation, uuid)
    told = {each["name"]: each["value"] for each in router_wire.info(uuid)["options"]}
    assert told["rerun-from"] == "odm_orthophoto"


@pytest.mark.timeout(120)
def test_a_canceled_task_may_go_on_too(federation: Stack, router_wire: Wire, tmp_path: Path) -> None:
    """NodeODM keeps its folder as well."""
    go_on = tmp_path / "go on"
    uuid = router_wire.task(f"say begun\nuntil {go_on}")
    router_wire.says(uuid, "begun")
    router_wire.act("cancel", uuid)
    node_that_keeps(federation, uuid)
    go_on.touch()
    assert goes_on(1) in restart(router_wire, uuid, LAST)


@pytest.mark.timeout(120)
def test_a_task_does_not_wait_for_the_node_that_has_its_workspace(
    federation: Stack, router_wire: Wire, tmp_path: Path
) -> None:
    """Late binding: when that one is full, another begins at the start, and says so."""
    uuid = router_wire.task()
    router_wire.ended(uuid)
    keeps = node_that_keeps(federation, uuid)
    go_on = tmp_path / "go on"
    busy = [router_wire.task(f"until {go_on}", nodes=keeps) for _ in range(2)]
    for each in busy:
        router_wire.running(each)
    lines = restart(router_wire, uuid, LAST)
    go_on.touch()
    assert node_of(router_wire, uuid)["node"] != keeps
    assert BEGINS_ANEW in lines
    assert fetched(lines)
    assert not engine_was_told(lines, "--rerun-from")
    for each in busy:
        router_wire.completed(each)


@pytest.mark.timeout(120)
def test_a_restart_without_a_stage_begins_at_the_start(federation: Stack, router_wire: Wire) -> None:
    """So do NodeODM's empty choice, of which the engine hears nothing, and no options at all."""
    uuid = router_wire.task()
    router_wire.ended(uuid)
    empty: list[dict[str, object]] = [{"name": "rerun-from", "value": ""}]
    for options in (empty, []):
        node_that_keeps(federation, uuid)
        lines = restart(router_wire, uuid, options)
        assert fetched(lines)
        assert not engine_was_told(lines, "--rerun-from")
    assert "rerun-from" not in {each["name"] for each in router_wire.info(uuid)["options"]}, "[] clears the options"


@pytest.mark.timeout(120)
def test_images_that_have_changed_are_fetched_anew(
    federation: Stack, router_wire: Wire, federation_storage: Storage
) -> None:
    """What was made of others is of no use."""
    uuid, root = router_wire.by_reference(federation_storage)
    router_wire.ended(uuid)
    node_that_keeps(federation, uuid)
    federation_storage.write(root / "b.jpg", JPEG)
    lines = restart(router_wire, uuid, LAST)
    assert any("has other images than the input has now" in line for line in lines)
    assert fetched(lines)
    assert router_wire.info(uuid)["imagesCount"] == 2


@pytest.mark.contract("3.5 rerun-from")
@pytest.mark.timeout(120)
def test_a_restart_on_a_node_itself_goes_on_and_keeps_uuid_and_stage(node_wire: Wire) -> None:
    """Used directly, without any router."""
    uuid = node_wire.task("say hello")
    node_wire.ended(uuid)
    lines = restart(node_wire, uuid, LAST)
    assert goes_on(1) in lines
    assert engine_was_told(lines, "--rerun-from=odm_orthophoto")
    assert goes_on(2) in restart(node_wire, uuid, None), "without options the old ones stay"
    assert fetched(restart(node_wire, uuid, []))


@pytest.mark.timeout(120)
def test_a_new_task_that_asks_for_a_stage_begins_at_the_start(node_wire: Wire) -> None:
    """As a client does that sends the same options again and again."""
    uuid = node_wire.task(options=LAST)
    node_wire.completed(uuid)
    lines = node_wire.output(uuid)
    assert "[INFO] rerun-from odm_orthophoto: this task has not run before, so this run begins at the start" in lines
    assert not engine_was_told(lines, "--rerun-from")


@pytest.mark.contract("3.5 rerun-from")
@pytest.mark.timeout(120)
def test_in_a_cluster_the_workspace_is_gone_with_its_pod_and_the_console_says_so(kubernetes_wire: Wire) -> None:
    """The option stays in the task's info; the engine hears nothing of it."""
    uuid = kubernetes_wire.task()
    assert kubernetes_wire.ended(uuid)["status"] == {"code": 40}
    lines = restart(kubernetes_wire, uuid, LAST)
    assert BEGINS_ANEW in lines
    assert fetched(lines)
    assert not engine_was_told(lines, "--rerun-from")
    assert LAST[0] in kubernetes_wire.info(uuid)["options"]
