"""Work is spread: two tasks at once run on two nodes, and a third waits for the first free slot."""

from typing import Any

import httpx
from pyodm import Node

from common.embedded.stack import Stack
from tests.client import Wire
from tests.waiting import wait_until


def test_two_tasks_run_at_once_on_two_nodes(stack: Stack, router: Node, flight: list[str]) -> None:
    """Neither waits behind the other."""
    tasks = [router.create_task(flight, {"fast-orthophoto": True}, name=f"task {number}") for number in (1, 2)]
    nodes = {why(stack, task.uuid)["node"] for task in tasks}
    assert nodes == set(stack.node_urls)
    for task in tasks:
        task.wait_for_completion(interval=1)


def test_a_task_binds_late_to_the_first_free_slot(router_wire: Wire, federation: Stack) -> None:
    """Two nodes of two slots, five tasks: the fifth is bound to no node until one is free (I4, I5)."""
    busy = [router_wire.task("sleep 60") for _ in range(4)]
    for uuid in busy:
        router_wire.running(uuid)
    waiting = router_wire.task()
    wait_until(lambda: router_wire.code(waiting) == 10, "the fifth task to wait")
    reason = why(federation, waiting)
    assert reason["node"] is None
    assert "all 2 slots are taken" in reason["text"]
    freed = why(federation, busy[0])["node"]
    router_wire.act("cancel", busy[0])
    router_wire.completed(waiting)
    assert why(federation, waiting)["node"] == freed
    for uuid in busy:
        router_wire.act("remove", uuid)


def why(stack: Stack, uuid: str) -> dict[str, Any]:
    """Where the task is, and why."""

    def ask() -> dict[str, Any] | None:
        answer: dict[str, Any] = httpx.get(
            f"{stack.router_url}/task/{uuid}/why", params={"token": stack.user_token}
        ).json()
        return answer if answer["state"] != "staging" else None

    return wait_until(ask, f"task {uuid} to be placed or queued")
