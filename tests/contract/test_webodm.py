"""WebODM's worker, as the contract describes it (8.2), against router and node: what it stores, how it polls, and that
nothing that breaks behind us ever fails a user's task."""

import json
import os
import signal
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyodm import Node, exceptions
from pyodm.types import TaskStatus

from common.embedded.stack import Stack
from tests.arrangements import ENGINE, PATIENT_ROUTER
from tests.client import JPEG, Wire
from tests.waiting import wait_until

LONGEST_STORED = 32
"""Characters of a version in WebODM's database."""
LARGEST_INTEGER = 2**31 - 1
REFRESH_TIMEOUT_S = 5


class TaskFailed(Exception):
    """WebODM has marked a user's task as failed."""


@dataclass
class Worker:
    """What WebODM's worker keeps of one node and one task, and how it asks for it."""

    wire: Wire
    console: str = ""
    codes: list[int] = field(default_factory=list)
    missed: int = 0
    """Polls that got no answer, which WebODM forgives."""

    def refresh(self) -> dict[str, Any]:
        """The round of every 30 s: a row of the nodes' table. Raises where a column would not take a value."""
        info = self._asked("/info")
        options = self._asked("/options")
        row = {
            "api_version": info["version"],
            "queue_count": info["taskQueueCount"],
            "max_images": info["maxImages"],
            "engine_version": info["engineVersion"],
            "engine": info["engine"],
            "available_options": options,
        }
        for name in ("api_version", "engine_version", "engine"):
            if not isinstance(row[name], str) or len(row[name]) > LONGEST_STORED:
                raise ValueError(f"{name} is {row[name]!r}")
        if type(row["queue_count"]) is not int or not 0 <= row["queue_count"] <= LARGEST_INTEGER:
            raise ValueError(f"queue_count is {row['queue_count']!r}")
        if any(option.keys() != {"name", "type", "value", "domain", "help"} for option in options):
            raise TypeError("an option with other keys")
        return row

    def poll(self, uuid: str) -> int:
        """The round of every 5 s. Gives the status code, or the last one when the connection was lost."""
        held = len(self.console.split("\n")) if self.console else 0
        try:
            self._asked("/info")
            info = self._asked(f"/task/{uuid}/info", with_output=str(held))
        except httpx.TransportError:
            self.missed += 1
            return self.codes[-1] if self.codes else 0
        self.console += "".join(line + "\n" for line in info["output"])
        if not -1 <= info["processingTime"] <= LARGEST_INTEGER:
            raise ValueError(f"processing_time is {info['processingTime']!r}")
        self.codes.append(info["status"]["code"])
        return self.codes[-1]

    def _asked(self, path: str, **query: str) -> Any:
        parameters = {"token": self.wire.token, **query}
        answer = self.wire.http.get(self.wire.url + path, params=parameters, timeout=REFRESH_TIMEOUT_S)
        if answer.status_code != httpx.codes.OK:
            raise TaskFailed(f"Unexpected status code: {answer.status_code}")
        document = answer.json()
        if "error" in document:
            raise TaskFailed(str(document["error"]))
        return document


@pytest.fixture(params=["router", "node"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """The NodeODM API of either."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found


@pytest.fixture
def node(wire: Wire) -> Node:
    """WebODM's client of it, which is PyODM."""
    return Node.from_url(f"{wire.url}?token={wire.token}")


def images(folder: Path, orders: str = "") -> list[str]:
    """What lies in a WebODM task's folder."""
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(JPEG + name.encode())
    if orders:
        (folder / "gcp_list.txt").write_text(orders)
    return [str(path) for path in folder.iterdir()]


@pytest.mark.contract("8.2 refresh")
def test_webodm_can_store_what_a_node_says_again_and_again(wire: Wire) -> None:
    """Also while tasks wait and run."""
    worker = Worker(wire)
    uuid = wire.task("sleep 60")
    for _ in range(5):
        row = worker.refresh()
        assert row["max_images"] is None
        assert tuple(map(int, row["api_version"].split("."))) >= (1, 5, 1), "else it asks for the console apart"
    wire.act("remove", uuid)


@pytest.mark.contract("8.2 polling")
def test_webodm_sees_the_console_from_its_first_poll_on(wire: Wire, tmp_path: Path) -> None:
    """Its count is one too high, so it misses the line after each poll with lines; the archive has them all."""
    go_on = tmp_path / "go on"
    uuid = wire.task(f"say first\nuntil {go_on}\nsay skipped\nsay last")
    wire.says(uuid, "first")
    worker = Worker(wire)
    assert worker.poll(uuid) == 20
    held = len(worker.console.splitlines())
    go_on.touch()
    wire.ended(uuid)
    assert worker.poll(uuid) == 40
    told = wire.output(uuid)
    assert "first" in told[:held]
    assert worker.console.splitlines() == told[:held] + told[held + 1 :]
    assert set(worker.codes) == {20, 40}
    archive = tmp_path / "all.zip"
    archive.write_bytes(wire.http.get(_archive_url(wire, uuid)).content)
    with zipfile.ZipFile(archive) as opened:
        assert {"first", "skipped", "last"} <= set(opened.read("task_output.txt").decode().splitlines())


def _archive_url(wire: Wire, uuid: str) -> str:
    return str(wire.get(f"/task/{uuid}/download/all.zip").headers["location"])


@pytest.mark.contract("8.2 conformance", "4.4 post-processing")
def test_webodms_own_conformance_test(node: Node, wire: Wire, tmp_path: Path) -> None:
    """Create, poll, download, restart, restart with options, cancel, remove, remove once more."""
    task = node.create_task(images(tmp_path), {"dsm": True}, "conformance")
    task.wait_for_completion(interval=0.2)
    with zipfile.ZipFile(task.download_zip(str(tmp_path / "zip"))) as archive:
        assert archive.testzip() is None
    assert isinstance(task.output(0), list)
    assert task.restart() is True
    task.wait_for_completion(interval=0.2)
    assert task.restart({"mesh-size": 12345, "invalid": True}) is True
    options = task.info().options
    assert len(options) == 4
    assert options[0] == {"name": "mesh-size", "value": 12345}
    task.wait_for_completion(interval=0.2)
    assert task.cancel() is True
    assert task.info().status is TaskStatus.CANCELED
    assert task.remove() is True
    with pytest.raises(exceptions.NodeResponseError):
        task.remove()
    with pytest.raises(exceptions.NodeResponseError, match="token does not match"):
        Node.from_url(f"{wire.url}?token=invalid").get_task(task.uuid).info()


@pytest.mark.contract("8.2 rerun-from")
def test_webodms_restart_and_resume_name_a_stage(wire: Wire) -> None:
    """Restart takes the second of the list, Resume the last; an empty list of options clears them."""
    domain = next(each for each in Worker(wire).refresh()["available_options"] if each["name"] == "rerun-from")[
        "domain"
    ]
    assert (domain[0], domain[1], domain[-1]) == ("", "dataset", "odm_postprocess")
    uuid = wire.task(options=[{"name": "dsm", "value": "true"}])
    wire.ended(uuid)
    for stage in (domain[1], domain[-1]):
        given = [{"name": "dsm", "value": "true"}, {"name": "rerun-from", "value": stage}]
        assert wire.info(uuid)["uuid"] == uuid, "it asks before it restarts"
        assert wire.act("restart", uuid, options=json.dumps(given)) == {"success": True}
        options = {each["name"]: each["value"] for each in wire.info(uuid)["options"]}
        assert (options["rerun-from"], options["dsm"]) == (stage, True)
        wire.completed(uuid)
    assert wire.act("restart", uuid, options="[]") == {"success": True}
    assert {each["name"] for each in wire.info(uuid)["options"]} == {"pc-ept", "cog", "gltf"}
    wire.ended(uuid)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A federation whose parts may be taken away."""
    with Stack(
        tmp_path_factory.mktemp("fragile"), nodes=1, node_settings=ENGINE, router_settings=PATIENT_ROUTER
    ) as stack:
        yield stack


@contextmanager
def _without(stack: Stack, part: str) -> Iterator[None]:
    if part == "Postgres":
        with stack.without_postgres():
            yield
    elif part == "S3":
        stack.object_store.stop()
        yield
        stack.object_store.start()
    else:
        os.kill(stack.pid_of("node-1"), signal.SIGSTOP)
        yield
        os.kill(stack.pid_of("node-1"), signal.SIGCONT)


@pytest.mark.contract("8.2 polling", "1 never 5xx")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("part", ["Postgres", "S3", "the node"])
def test_webodms_task_outlives_what_is_away(fragile: Stack, part: str, tmp_path: Path) -> None:
    """A status or an error would fail the user's task: there is never one, while polls of both kinds go on."""
    go_on = tmp_path / "go on"
    with httpx.Client(timeout=REFRESH_TIMEOUT_S) as http:
        wire = Wire(fragile.router_url, fragile.user_token, http)
        uuid = wire.task(f"say begun\nuntil {go_on}\nsay over")
        wire.says(uuid, "begun")
        worker = Worker(wire)
        stop, trouble, counts = threading.Event(), [], Counter[str]()

        def work() -> None:
            while not stop.wait(0.1):
                try:
                    worker.poll(uuid)
                    counts["polls"] += 1
                    worker.refresh()
                    counts["refreshes"] += 1
                except httpx.TransportError:
                    worker.missed += 1
                except (TaskFailed, ValueError, TypeError) as failed:
                    trouble.append(failed)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            with _without(fragile, part):
                before = counts["polls"]
                wait_until(lambda: counts["polls"] >= before + 20, f"20 polls without {part}", 60)
            go_on.touch()
            wait_until(lambda: 40 in worker.codes, "the task to end", 60)
        finally:
            stop.set()
            thread.join()
        assert trouble == []
        assert set(worker.codes) == {20, 40}
        assert "over" in wire.output(uuid)
