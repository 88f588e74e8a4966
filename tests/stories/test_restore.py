"""Postgres is restored from a back-up, as docs/operating.md tells an operator to do it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from common.embedded.stack import Stack
from tests.arrangements import ENGINE, PATIENT_ROUTER
from tests.client import Wire
from tests.docs.desk import POSTGRES
from tests.waiting import wait_until

LATE_S = "1.5"
"""Silence that makes a node late; a run of which its node says nothing is given up half a minute after that."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A router and a node."""
    node = {**ENGINE, "SCALEODM_NODE_SLOTS": "3"}
    router = {**PATIENT_ROUTER, "SCALEODM_ROUTER_LATE_AFTER_S": LATE_S}
    with Stack(tmp_path / "data", nodes=1, node_settings=node, router_settings=router) as running:
        yield running


@pytest.fixture
def wire(stack: Stack) -> Iterator[Wire]:
    """A client that keeps no connection to a program that is gone."""
    with httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield Wire(stack.router_url, stack.user_token, client)


def postgres(program: str, *arguments: str) -> None:
    """One of Postgres' own tools."""
    subprocess.run([str(POSTGRES / program), *arguments], check=True, capture_output=True, timeout=60)


def restore(stack: Stack, backup: Path) -> None:
    """With no router beside it."""
    os.kill(stack.pid_of("router"), signal.SIGTERM)
    wait_until(lambda: stack.has_ended("router"), "the router to end")
    postgres("pg_restore", "--clean", "--if-exists", f"--dbname={stack.database_url}", str(backup))
    stack.start_again("router")


def is_worked_on(uuid: str) -> bool:
    """Whether any process of a run of this task is there."""
    found = psutil.process_iter(["cmdline", "status"])
    alive = (each.info["cmdline"] or [] for each in found if each.info["status"] != psutil.STATUS_ZOMBIE)
    return any(uuid in " ".join(words) for words in alive)


@pytest.mark.timeout(240)
def test_a_router_whose_database_is_restored_goes_on(stack: Stack, wire: Wire, tmp_path: Path) -> None:
    """What ended since the back-up is found in S3 and not run again; what was submitted since is unknown, and ended."""
    end, never, backup = tmp_path / "end", tmp_path / "never", tmp_path / "scaleodm.dump"
    old, under_way = wire.task("say old"), wire.task(f"say begun\nuntil {never}\nsay over")
    wire.ended(old)
    ended_since = wire.task(f"say begun\nuntil {end}")
    for uuid in (under_way, ended_since):
        wire.says(uuid, "begun")
    postgres("pg_dump", "--format=custom", f"--file={backup}", stack.database_url)
    end.touch()
    wire.completed(ended_since)
    submitted_since = wire.task(f"say begun\nuntil {never}")
    wire.says(submitted_since, "begun")
    assert is_worked_on(submitted_since)

    restore(stack, backup)
    assert wire.info(old)["status"]["code"] == 40
    assert "not found" in wire.info(submitted_since)["error"]
    wait_until(lambda: not is_worked_on(submitted_since), "the run that the router does not know to be ended")
    never.touch()
    wire.completed(under_way)
    assert "over" in wire.output(under_way), "its run has gone on"
    wire.completed(ended_since, within_s=120)
    assert wire.output(ended_since) == ["Attempt 1 of this task has published its products already."]
