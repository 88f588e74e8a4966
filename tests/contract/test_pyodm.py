"""PyODM as it is, against router and node: every method of its node and of its task (contract 8.1)."""

import json
import threading
import uuid as uuids
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pyodm import Node, Task, exceptions
from pyodm.types import NodeOption, TaskInfo, TaskStatus

from common.embedded.object_store import storage_at
from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.contract.alone import node_alone
from tests.matrix.proxy import Proxy, Way
from tests.receiver import receiving
from tests.waiting import wait_until


@pytest.fixture(params=["router", "node"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """The NodeODM API of either."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found


@pytest.fixture
def node(wire: Wire) -> Node:
    """PyODM's client of it."""
    return at(wire.url, wire.token)


@pytest.fixture(scope="module")
def ranged(moto_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A node over an S3 server that knows ranges; it asks for no token, and may call this machine's webhooks."""
    storage_at(moto_url, "tester", "tester").make_bucket("staging")
    s3 = {
        "AWS_ENDPOINT_URL_S3": moto_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "tester",
        "SCALEODM_STAGING": "s3://staging/",
    }
    folder = tmp_path_factory.mktemp("ranged-node")
    with node_alone(folder, s3, {"SCALEODM_NODE_WEBHOOK_PRIVATE": "on"}) as url, httpx.Client(timeout=30) as http:
        yield Wire(url, "", http)


def at(url: str, token: str) -> Node:
    """PyODM's client, made as its users make it."""
    return Node.from_url(f"{url}?token={token}" if token else url)


def images(folder: Path, count: int, orders: str = "", size: int = 100) -> list[str]:
    """Files to submit."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"image-{number}.jpg").write_bytes(JPEG + bytes([number]) * size)
    if orders:
        (folder / "gcp_list.txt").write_text(orders)
    return sorted(str(path) for path in folder.iterdir())


@pytest.mark.contract("8.1 every method")
def test_pyodm_reads_what_a_node_is_and_offers(node: Node) -> None:
    """`info`, `options`, `version_greater_or_equal_than`, `compare_version`."""
    info = node.info()
    assert (info.engine, info.max_images) == ("odm", None)
    assert min(info.cpu_cores, info.max_parallel_tasks, info.total_memory, info.available_memory) >= 1
    assert info.task_queue_count >= 0
    assert len(info.engine_version) <= 32
    options = node.options()
    assert {type(option) for option in options} == {NodeOption}
    assert {"dsm", "rerun-from", "split"} <= {option.name for option in options}
    assert node.version_greater_or_equal_than("2.1.2")
    assert not node.version_greater_or_equal_than("99.0.0")
    assert Node.compare_version(info.version, info.version) == 0


@pytest.mark.contract("8.1 every method", "8.1 whole way")
def test_pyodm_submits_with_every_argument_it_has(node: Node, tmp_path: Path) -> None:
    """Options of each type, a name, a uuid of its own, its own outputs, no post-processing; watched to the end."""
    asked = str(uuids.uuid4())
    percents: list[float] = []
    task = node.create_task(
        images(tmp_path / "images", 5, "say over the wire"),
        {"mesh-size": 12_000, "dsm": True, "gps-accuracy": 1.5, "feature-type": "orb"},
        name="Överblick 🛩",
        progress_callback=percents.append,
        skip_post_processing=True,
        outputs=["odm_orthophoto/odm_orthophoto.tif", "images.json", "not there"],
        parallel_uploads=3,
        task_uuid=asked,
    )
    assert task.uuid == asked
    assert percents[-1] == 100
    seen: list[TaskInfo] = []
    node.get_task(asked).wait_for_completion(status_callback=seen.append, interval=0.2)
    assert {info.status for info in seen} <= {TaskStatus.RUNNING, TaskStatus.COMPLETED}
    assert [info.progress for info in seen] == sorted(info.progress for info in seen)
    info = task.info(with_output=0)
    assert (info.name, info.images_count, info.last_error, info.progress) == ("Överblick 🛩", 5, "", 100)
    assert {each["name"]: each["value"] for each in info.options} == {
        "feature-type": "orb",
        "mesh-size": 12_000,
        "dsm": True,
        "gps-accuracy": 1.5,
    }
    assert abs(datetime.now(UTC) - info.date_created.replace(tzinfo=UTC)) < timedelta(minutes=5)
    assert "over the wire" in info.output
    assert info.output == task.output()
    assert task.output(line=-2) == info.output[-2:]
    assert task.output(line=3) == info.output[3:]
    folder = Path(task.download_assets(str(tmp_path / "assets")))
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == {"odm_orthophoto/odm_orthophoto.tif", "images.json", "task_output.txt"}
    assert task.remove() is True


@pytest.mark.contract("8.1 every method")
def test_pyodm_downloads_the_archive_itself(node: Node, tmp_path: Path) -> None:
    """`download_zip`, by several connections and by one."""
    task = node.create_task(images(tmp_path / "images", 2))
    task.wait_for_completion(interval=0.2)
    for connections in (16, 1):
        percents: list[float] = []
        target = tmp_path / str(connections)
        path = task.download_zip(str(target), progress_callback=percents.append, parallel_downloads=connections)
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert "task_output.txt" in archive.namelist()
        assert percents[-1] == pytest.approx(100)


@pytest.mark.contract("8.1 every method")
def test_pyodm_cancels_restarts_and_removes(node: Node, tmp_path: Path) -> None:
    """With the words of each refusal."""
    task = node.create_task(images(tmp_path / "images", 1, "sleep 60"), {"dsm": True})
    wait_until(lambda: task.info().processing_time >= 0, "the engine to begin")
    with pytest.raises(exceptions.NodeResponseError, match="Task cannot be restarted"):
        task.restart()
    with pytest.raises(exceptions.NodeResponseError, match="Cannot download task"):
        task.download_zip(str(tmp_path))
    assert task.cancel() is True
    assert task.info().status is TaskStatus.CANCELED
    assert task.cancel() is True, "again"
    with pytest.raises(exceptions.TaskFailedError):
        task.wait_for_completion(interval=0.1)
    assert task.restart({"dtm": True}) is True
    names = {each["name"] for each in task.info().options}
    assert "dtm" in names
    assert "dsm" not in names
    assert task.info().status in (TaskStatus.QUEUED, TaskStatus.RUNNING)
    assert task.remove() is True
    with pytest.raises(exceptions.NodeResponseError, match=f"{task.uuid} not found"):
        task.remove()
    with pytest.raises(exceptions.NodeResponseError, match=f"{task.uuid} not found"):
        task.info()


@pytest.mark.contract("8.1 every method", "8.1 error words")
def test_pyodm_tells_its_user_our_words(node: Node, wire: Wire, tmp_path: Path) -> None:
    """Whatever is refused: `NodeResponseError`, and never a bare status."""
    files = images(tmp_path / "images", 1)
    with pytest.raises(exceptions.NodeResponseError, match="token does not match"):
        at(wire.url, "wrong").info()
    with pytest.raises(exceptions.NodeResponseError, match="token does not match"):
        at(wire.url, "wrong").get_task("x").cancel()
    with pytest.raises(exceptions.NodeResponseError, match=r"mesh-octree-depth.*out of range"):
        node.create_task(files, {"mesh-octree-depth": 99})
    with pytest.raises(exceptions.NodeResponseError, match="Invalid set-uuid: nonsense"):
        node.create_task(files, task_uuid="nonsense")
    with pytest.raises(exceptions.NodeResponseError, match="Not enough images"):
        node.create_task([])
    for ask in (Task.info, Task.output, Task.cancel, Task.remove, Task.restart):
        with pytest.raises(exceptions.NodeResponseError, match="unknown not found"):
            ask(node.get_task("unknown"))


@pytest.mark.contract("8.1 every method")
def test_pyodm_learns_why_a_task_failed(node: Node, tmp_path: Path) -> None:
    """`last_error`, and the console."""
    task = node.create_task(images(tmp_path / "images", 1, "say it is broken\nexit 1"))
    with pytest.raises(exceptions.TaskFailedError):
        task.wait_for_completion(interval=0.2)
    assert task.info().last_error == "Cannot process dataset"
    assert "it is broken" in task.output()


@pytest.mark.contract("8.1 every method", "2.12 files")
def test_pyodm_submits_in_one_request_as_before_chunks(node: Node, tmp_path: Path) -> None:
    """Its way for nodes before 1.4.0."""
    percents: list[float] = []
    asked = str(uuids.uuid4())
    files = images(tmp_path / "images", 3)
    task = node.create_task_fallback(files, {"dsm": True}, "at once", percents.append, asked)
    assert (task.uuid, percents[-1]) == (asked, 100)
    task.wait_for_completion(interval=0.2)
    assert task.info().images_count == 3


@pytest.mark.contract("8.1 every method")
def test_pyodm_passes_on_images_that_are_links(node: Node, federation_storage: Storage, tmp_path: Path) -> None:
    """A presigned link among the files: PyODM loads it, and its token is no part of the name."""
    there = Reference.parse(f"s3://staging/{uuids.uuid4()}/far.jpg")
    federation_storage.write(there, JPEG)
    link = federation_storage.presigned_get(there, 60, "far.jpg")
    task = node.create_task([link, *images(tmp_path / "images", 1)], outputs=["images.json"])
    task.wait_for_completion(interval=0.2)
    folder = Path(task.download_assets(str(tmp_path / "assets")))
    assert {each["filename"] for each in json.loads((folder / "images.json").read_text())} == {
        "far.jpg",
        "image-0.jpg",
    }


@pytest.mark.contract("8.1 every method", "2.10 broken off")
def test_pyodm_uploads_over_a_line_that_breaks(wire: Wire, tmp_path: Path) -> None:
    """Every file is there once and whole, though for a second each connection broke in the middle of a file.

    One file at a time: an answer that is cut off in its middle ends a thread of PyODM, which then waits for ever.
    """
    files = images(tmp_path / "images", 20, size=3_000_000)
    with Proxy(lambda: wire.url) as proxy:
        back = threading.Timer(1.0, proxy.turn, (Way.THROUGH,))
        left: list[float] = []

        def break_once(percent: float) -> None:
            if not left:
                proxy.turn(Way.GARBAGE)
                back.start()
            left.append(100 - percent)

        task = at(proxy.url, wire.token).create_task(
            files, progress_callback=break_once, parallel_uploads=1, max_retries=5, retry_timeout=1
        )
        back.join()
        assert left[0] > 0, "the line broke only after the last file"
        task.wait_for_completion(interval=0.5)
        assert task.info().images_count == 20


@pytest.mark.contract("8.1 every method")
def test_pyodm_polls_over_a_line_that_breaks(wire: Wire, tmp_path: Path) -> None:
    """It waits and asks again, and sees the end."""
    go_on = tmp_path / "go on"
    with Proxy(lambda: wire.url) as proxy:
        task = at(proxy.url, wire.token).create_task(images(tmp_path / "images", 1, f"until {go_on}"))
        back = threading.Timer(1.5, proxy.turn, (Way.THROUGH,))

        def break_once(info: TaskInfo) -> None:
            del info
            if not go_on.exists():
                go_on.touch()
                proxy.turn(Way.GARBAGE)
                back.start()

        task.wait_for_completion(status_callback=break_once, interval=0, retry_timeout=1)
        back.join()
        assert task.info().status is TaskStatus.COMPLETED


@pytest.mark.contract("8.1 ranges")
@pytest.mark.timeout(120)
def test_pyodm_downloads_by_sixteen_connections_where_s3_knows_ranges(ranged: Wire, tmp_path: Path) -> None:
    """Over 10 MiB, in parts of 10 MiB, each told once: the whole that one connection gets."""
    node = at(ranged.url, "")
    task = node.create_task(images(tmp_path / "images", 1, "megabytes 45"))
    task.wait_for_completion(interval=0.5)
    percents: list[float] = []
    path = Path(task.download_zip(str(tmp_path / "parts"), progress_callback=percents.append))
    assert len(percents) == -(-path.stat().st_size // (10 * 2**20)) == 5
    whole = task.download_zip(str(tmp_path / "whole"), parallel_downloads=1)
    assert path.read_bytes() == Path(whole).read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.contract("8.1 every method")
def test_pyodm_names_a_webhook_and_it_is_called(ranged: Wire, tmp_path: Path) -> None:
    """Once for the end of the task."""
    with receiving() as receiver:
        task = at(ranged.url, "").create_task(images(tmp_path / "images", 1), webhook=receiver.url("/ended"))
        task.wait_for_completion(interval=0.2)
        wait_until(lambda: bool(receiver.to(task.uuid)), "the webhook")
        (call,) = receiver.to(task.uuid)
        assert (call.path, call.document["status"]["code"]) == ("/ended", 40)
