"""Runs are started by forking a process that has their code already; what holds whatever becomes of that process."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.embedded.children import free_port
from node.engines import order_for
from node.engines.orthomosaic import ORTHOMOSAIC
from node.launching import Launcher, RunNotStarted
from node.workspace import Workspace
from tests.common.nodeodm.test_messages import task
from tests.waiting import wait_until

FORKED, SPAWNED = True, False


@pytest.fixture(autouse=True)
def silent_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers: runs wait there for half an hour, and so stay as they have begun."""
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "SCALEODM_STAGING": "s3://staging/",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """With an order in it; what runs there at the end is ended."""
    found = Workspace(tmp_path / "tasks" / "u" / "1")
    found.save_order(order_for(task(input="s3://images/flight/", output="s3://images/out/"), ORTHOMOSAIC, None))
    yield found
    for each in processes(found):
        each.kill()
        wait_until(lambda each=each: not each.is_running(), "the run to be gone")  # type: ignore[misc]


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """One that forks."""
    found = Launcher(forks=FORKED)
    yield found
    found.close()


def processes(workspace: Workspace) -> list[psutil.Process]:
    """Those that run this workspace now."""
    named = (each for each in psutil.process_iter(["cmdline"]) if str(workspace.folder) in str(each.info["cmdline"]))
    return [each for each in named if each.status() != psutil.STATUS_ZOMBIE]


def recorded(workspace: Workspace) -> psutil.Process:
    """The process that the workspace names."""
    document = json.loads(workspace.process_file.read_text())
    found = psutil.Process(document["pid"])
    assert found.create_time() == pytest.approx(document["created"], abs=1)
    return found


@pytest.mark.parametrize("forks", [FORKED, SPAWNED])
async def test_a_run_is_on_record_in_a_group_of_its_own_and_outlives_its_launcher(
    workspace: Workspace, forks: bool
) -> None:
    """So that it can be found, and ended whole, by a node that knows nothing but its folder."""
    launcher = Launcher(forks)
    await launcher.start(workspace)
    run = recorded(workspace)
    assert os.getpgid(run.pid) == os.getsid(run.pid) == run.pid
    launcher.close()
    told = workspace.console_file
    wait_until(lambda: told.exists() and "S3" in told.read_text(), "the run to say what it waits for")
    assert run.is_running()
    assert workspace.folder.joinpath("run.log").read_text() == "", "nothing that it had to complain about"


@pytest.mark.parametrize("forks", [FORKED, SPAWNED])
async def test_a_workspace_has_one_run_however_often_it_is_asked_for(workspace: Workspace, forks: bool) -> None:
    """A node that was killed amid a start asks again."""
    launcher = Launcher(FORKED)
    await launcher.start(workspace)
    first = recorded(workspace)
    again = Launcher(forks)
    await again.start(workspace)
    wait_until(lambda: processes(workspace) == [first], "the second one to have given way")
    launcher.close()
    again.close()


async def test_the_next_run_starts_although_the_launcher_was_killed(launcher: Launcher, workspace: Workspace) -> None:
    """By one that takes its place; nothing is told of it."""
    await launcher.warm()
    killed = next(each for each in psutil.Process().children() if "node.launching" in each.cmdline())
    killed.send_signal(signal.SIGKILL)
    await launcher.start(workspace)
    assert recorded(workspace).is_running()


async def test_a_killed_node_leaves_no_launcher(launcher: Launcher, workspace: Workspace) -> None:
    """It ends with its input, which is all that it has of its node."""
    await launcher.start(workspace)
    process = next(each for each in psutil.Process().children() if "node.launching" in each.cmdline())
    assert launcher._process is not None
    assert launcher._process.stdin is not None
    launcher._process.stdin.close()
    wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, "the launcher to end")
    assert recorded(workspace).is_running()


async def test_what_keeps_a_run_from_starting_is_told(launcher: Launcher, tmp_path: Path) -> None:
    """By folder, and with where to look."""
    missing = Workspace(tmp_path / "missing")
    with pytest.raises(RunNotStarted, match=r"No run could be started in .*/missing: it ended at once; .*run\.log"):
        await launcher.start(missing)
