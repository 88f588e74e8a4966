"""Programs stop, crash and come back; tasks and history do not notice."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from common.embedded.stack import Stack, StackBusy
from tests.client import Wire
from tests.conftest import STANDIN
from tests.waiting import wait_until


def program(stack: Stack, name: str) -> psutil.Process:
    """The process of a router or node."""
    return psutil.Process(stack.pid_of(name))


def is_named(stack: Stack, client: httpx.Client) -> bool:
    """Whether the router says that its database is away; it stays in service, for polls are answered from memory."""
    answer = client.get(f"{stack.router_url}/readyz")
    assert answer.status_code == 200
    told = answer.json()
    return bool(told["status"] == "degraded" and told["dependencies"]["database"]["state"] == "failing")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder for a stack that is started twice."""
    return tmp_path / "data"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client that keeps no connection to a program that is gone."""
    with httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as found:
        yield found


def stack_on(data: Path) -> Stack:
    """A stack with the stand-in engine."""
    settings = {
        "SCALEODM_NODE_ENGINE": "odm",
        "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}",
    }
    return Stack(data, node_settings=settings)


@pytest.mark.contract("7.1 restart of the server")
@pytest.mark.timeout(180)
def test_a_stack_that_is_stopped_and_started_again_has_its_tasks_and_history(data: Path, client: httpx.Client) -> None:
    """What was done is there, what was under way starts again, what was being uploaded can go on."""
    with stack_on(data) as stack:
        wire = Wire(stack.router_url, stack.user_token, client)
        done = wire.task("say hello")
        before = wire.ended(done)
        under_way = wire.task("sleep 5\nsay finished")
        wire.running(under_way)
        opened = wire.init()
        wire.upload(opened, ("a.jpg", b"\xff\xd8\xff a"))
        assert stack.secrets_file.stat().st_mode & 0o077 == 0, "tokens are for the owner's eyes"
        with pytest.raises(StackBusy, match="already running"), stack_on(data):
            pass
    with stack_on(data) as stack:
        wire = Wire(stack.router_url, stack.user_token, client)
        assert wire.info(done) == before
        assert "hello" in wire.output(done)
        assert wire.get(f"/task/{done}/download/all.zip").status_code == 302
        wire.completed(under_way)
        assert "finished" in wire.output(under_way)
        wire.upload(opened, ("b.jpg", b"\xff\xd8\xff b"))
        wire.commit(opened)
        assert wire.ended(opened)["imagesCount"] == 2


@pytest.mark.timeout(180)
def test_a_node_that_is_killed_finds_its_run_again(data: Path, client: httpx.Client) -> None:
    """SIGKILL of the node: the engine works on, and the next node process adopts it."""
    with stack_on(data) as stack:
        wire = Wire(stack.router_url, stack.user_token, client)
        uuid = wire.task("say begun\nsleep 4\nsay ended")
        wire.says(uuid, "begun")
        name = str(client.get(f"{wire.url}/task/{uuid}/why", params={"token": wire.token}).json()["node"])
        os.kill(program(stack, name).pid, signal.SIGKILL)
        assert wire.code(uuid) == 20, "the router answers what it knows"
        stack.start_again(name)
        wire.completed(uuid)
        assert wire.output(uuid).count("begun") == 1, "one run, not two"


@pytest.mark.contract("7.1 restart of the server")
@pytest.mark.timeout(180)
def test_i1_a_router_that_is_killed_comes_back_knowing_everything(data: Path, client: httpx.Client) -> None:
    """SIGKILL of the router: runs go on, ids stay known (I1), reports catch up."""
    with stack_on(data) as stack:
        wire = Wire(stack.router_url, stack.user_token, client)
        uuid = wire.task("say begun\nsleep 3\nsay ended")
        wire.says(uuid, "begun")
        os.kill(program(stack, "router").pid, signal.SIGKILL)
        stack.start_again("router")
        assert wire.code(uuid) in (20, 40)
        wire.completed(uuid)
        wait_until(lambda: "ended" in wire.output(uuid), "the console to be whole")


@pytest.mark.timeout(180)
def test_postgres_goes_away_and_comes_back(data: Path, client: httpx.Client) -> None:
    """Polls are answered from memory, everything else is a dropped connection, and nothing is lost."""
    with stack_on(data) as stack:
        wire = Wire(stack.router_url, stack.user_token, client)
        uuid = wire.task("say begun\nsleep 4\nsay ended")
        wire.says(uuid, "begun")
        with stack.without_postgres():
            assert wire.code(uuid) == 20
            assert "begun" in wire.output(uuid)
            assert "begun" in wire.info(uuid, with_output="0")["output"]
            for asking in (wire.init, lambda: wire.act("cancel", uuid)):
                with pytest.raises(httpx.TransportError):
                    asking()
            wait_until(lambda: is_named(stack, client), "the router to name the database as what fails")
        wire.completed(uuid)
        wait_until(lambda: "ended" in wire.output(uuid), "the console to be whole")
        wire.completed(wire.task())
