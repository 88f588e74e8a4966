"""A person changes their mind: the run ends at once, wholly, and its slot is free for the next."""

import psutil
import pytest
from pyodm import Node
from pyodm.types import TaskStatus

from common.embedded.stack import Stack
from tests.client import Wire
from tests.waiting import wait_until


def processes_of(uuid: str) -> list[psutil.Process]:
    """Every process of this machine that works on the task."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(uuid in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.mark.contract("3.5 cancel")
def test_cancel_ends_every_process_of_the_run(router: Node, flight: list[str]) -> None:
    """After `success` the task never becomes completed, and its engine is gone (I7)."""
    task = router.create_task(flight, {"dsm": True}, name="never mind")
    wait_until(lambda: len(processes_of(task.uuid)) >= 2, "the engine to run")
    assert task.cancel()
    assert task.info().status is TaskStatus.CANCELED
    wait_until(lambda: not processes_of(task.uuid), "the whole process group to be gone", 15)
    assert task.info().status is TaskStatus.CANCELED
    assert task.remove()


@pytest.mark.contract("6.1 terminated")
def test_an_engine_that_ignores_sigterm_is_killed(router_wire: Wire) -> None:
    """Nothing survives a cancel."""
    uuid = router_wire.task("ignore-sigterm\nsay deaf\nsleep 60")
    router_wire.says(uuid, "deaf")
    router_wire.act("cancel", uuid)
    wait_until(lambda: not processes_of(uuid), "the deaf engine to be gone", 15)
    assert router_wire.code(uuid) == 50


@pytest.mark.contract("3.5 restart a canceled task")
def test_a_canceled_task_can_be_restarted(router_wire: Wire, federation: Stack) -> None:
    """The same uuid, a new attempt, wherever there is room."""
    del federation
    uuid = router_wire.task("say first\nsleep 60")
    router_wire.says(uuid, "first")
    router_wire.act("cancel", uuid)
    assert router_wire.act("restart", uuid) == {"success": True}
    router_wire.says(uuid, "first")
    assert router_wire.code(uuid) == 20
    router_wire.act("remove", uuid)
