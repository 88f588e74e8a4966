"""A NodeODM that knows nothing of routers is added by an administrator, and works like any node of the federation.

The foreign node is a real process of ours that joins nobody: all it speaks is the NodeODM API.
"""

import io
import json
import os
import signal
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest

from common.embedded.children import Child, free_port, start_child
from common.embedded.stack import Stack
from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.conftest import STANDIN
from tests.waiting import wait_until

TOKEN = "a-token-that-no-log-shows"
LOST_AFTER_S = 8


@dataclass
class ForeignNode:
    """A node process on its own."""

    folder: Path
    settings: dict[str, str]
    port: int
    child: Child | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self.child is not None
        return self.child.process.pid

    def start(self) -> "ForeignNode":
        """Start it, and wait until it answers."""
        self.child = start_child("foreign", [sys.executable, "-m", "node"], self.settings, self.folder / "node.log")
        self.child.wait_until(self._answers)
        return self

    def stop(self) -> None:
        """Stop it."""
        if self.child is not None:
            self.child.stop()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/info", params={"token": TOKEN}, timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def foreign_node(stack: Stack, folder: Path) -> ForeignNode:
    """A node over the stack's S3, with two slots and a staging area of its own."""
    port = free_port()
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SCALEODM_", "AWS_"))},
        **stack.storage_environment(),
        "SCALEODM_STAGING": "s3://staging/of-the-foreign-node/",
        "SCALEODM_NODE_NAME": "knows-nobody",
        "SCALEODM_NODE_PORT": str(port),
        "SCALEODM_NODE_DATA": str(folder / "data"),
        "SCALEODM_NODE_USER_TOKEN": TOKEN,
        "SCALEODM_NODE_ENGINE": "odm",
        "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}",
        "SCALEODM_NODE_SLOTS": "2",
    }
    return ForeignNode(folder, settings, port)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router that loses its patience soon, and one node that has joined it."""
    nodes = {"SCALEODM_NODE_ENGINE": "odm", "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}"}
    router = {"SCALEODM_ROUTER_LATE_AFTER_S": "7", "SCALEODM_ROUTER_LOST_AFTER_S": str(LOST_AFTER_S)}
    folder = tmp_path_factory.mktemp("foreign")
    with Stack(folder, nodes=1, node_settings=nodes, router_settings=router) as running:
        yield running


@pytest.fixture(scope="module")
def node(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignNode]:
    """The foreign node, known to the router under two names: as one that reads S3, and as one that does not."""
    running = foreign_node(stack, tmp_path_factory.mktemp("foreign-node")).start()
    added = add(stack, name="plain", url=running.url, token=TOKEN, readsS3=False)
    assert added.status_code == httpx.codes.OK, added.text
    assert add(stack, name="reader", url=running.url, token=TOKEN).status_code == httpx.codes.OK
    yield running
    running.stop()


@pytest.fixture
def wire(stack: Stack, node: ForeignNode, http: httpx.Client) -> Wire:
    """The router's API."""
    del node
    return Wire(stack.router_url, stack.user_token, http)


@pytest.fixture
def storage(stack: Stack) -> Storage:
    """The S3 of all of them."""
    return stack.storage()


def add(stack: Stack, **order: Any) -> httpx.Response:
    """`POST /admin/nodes`."""
    return httpx.post(f"{stack.router_url}/admin/nodes", json=order, headers=admin(stack), timeout=60)


def admin(stack: Stack) -> dict[str, str]:
    """An administrator's headers."""
    return {"Authorization": f"Bearer {stack.admin_token}"}


def tasks_on(node: ForeignNode) -> list[str]:
    """What the foreign node itself has."""
    found = httpx.get(f"{node.url}/task/list", params={"token": TOKEN}, timeout=10).json()
    return [each["uuid"] for each in found]


def runs_of(node: ForeignNode) -> list[psutil.Process]:
    """Every process that works in the foreign node's folder."""
    found = psutil.process_iter(["cmdline", "status"])
    working = [each for each in found if each.info["status"] != psutil.STATUS_ZOMBIE]
    return [each for each in working if any(str(node.folder) in word for word in each.info["cmdline"] or [])]


def attempts(stack: Stack, uuid: str) -> list[dict[str, Any]]:
    """Every attempt of a task, and what became of it."""
    answer = httpx.get(f"{stack.router_url}/admin/tasks/{uuid}/why", headers=admin(stack), timeout=10).json()
    found: list[dict[str, Any]] = answer["attempts"]
    return found


def on(*names: str) -> str:
    """The parameter by which a task is to run on these nodes."""
    return json.dumps(names)


def does_well(wire: Wire) -> None:
    """The node goes on working; and a node that fails one task after the other would be given a rest."""
    wire.completed(wire.task(nodes=on("plain")))


def test_both_are_shown_with_what_they_can(stack: Stack, node: ForeignNode) -> None:
    """Slots are what the node says; a ScaleODM is known by itself as one that reads S3."""
    found = {each["name"]: each for each in httpx.get(f"{stack.router_url}/admin/nodes", headers=admin(stack)).json()}
    assert (found["plain"]["kind"], found["plain"]["slots"], found["plain"]["url"]) == ("foreign", 2, node.url)
    assert found["plain"]["capabilities"] == ["uploads", "webhooks", "slots"]
    assert found["reader"]["capabilities"] == ["uploads", "webhooks", "s3", "slots"]
    assert found["node-1"]["kind"] == "member"


@pytest.mark.parametrize("name", ["plain", "reader"])
def test_from_upload_to_all_zip(stack: Stack, node: ForeignNode, wire: Wire, storage: Storage, name: str) -> None:
    """A client cannot tell that a foreign node did it; the node keeps nothing of it."""
    uuid = wire.task("say hello\nlines 3000", [{"name": "dsm", "value": True}], nodes=on(name))
    info = wire.ended(uuid)
    assert info["status"]["code"] == 40, info
    assert info["imagesCount"] == 2
    assert info["progress"] == 100
    console = wire.output(uuid)
    assert "hello" in console
    assert "line 2999" in console
    link = wire.get(f"/task/{uuid}/download/all.zip")
    with zipfile.ZipFile(io.BytesIO(httpx.get(link.headers["location"]).content)) as archive:
        assert "odm_orthophoto/odm_orthophoto.tif" in archive.namelist()
        stats = json.loads(archive.read("odm_report/stats.json"))
    assert stats["images"] == ["a.jpg", "b.jpg"]
    assert "--dsm" in stats["arguments"]
    output = Reference.parse(f"s3://staging/{uuid}/output/")
    manifest = json.loads(storage.read(output / "manifest.json"))
    assert (manifest["uuid"], manifest["attempt"], manifest["engine"]) == (uuid, 1, "odm")
    listed = {each["name"]: each for each in manifest["objects"]}
    assert {"all.zip", "task_output.txt", "odm_orthophoto/odm_orthophoto.tif"} <= listed.keys()
    stored = {each.reference.key.removeprefix(output.key): each.size for each in storage.listing(output)}
    assert {each: stored[each] for each in listed} == {each: listed[each]["size"] for each in listed}
    mark = json.loads(storage.read(output / ".scaleodm/attempt.json"))
    assert (mark["uuid"], mark["attempt"], mark["stage"]) == (uuid, 1, "published")
    wait_until(lambda: not tasks_on(node), "the foreign node to be told that it may forget the task")
    scratch = output / ".scaleodm/attempts/"
    wait_until(lambda: not list(storage.listing(scratch)), "nothing to be left of what the node has put beside it")
    assert [each["node"] for each in attempts(stack, uuid)] == [name]


@pytest.mark.parametrize("name", ["plain", "reader"])
def test_a_task_by_reference(wire: Wire, storage: Storage, name: str) -> None:
    """Input is read from where the client has it, products go beside it."""
    uuid, root = wire.by_reference(storage, "megabytes 20", nodes=[name])
    wire.completed(uuid)
    manifest = json.loads(storage.read(root / "output/manifest.json"))
    sizes = {each["name"]: each["size"] for each in manifest["objects"]}
    assert sizes["odm_dem/dsm.tif"] == 20 * 2**20
    assert manifest["uuid"] == uuid


def test_a_zip_by_reference_for_a_node_that_takes_files_only(wire: Wire, storage: Storage) -> None:
    """It is taken apart on its way."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("flight/a.jpg", JPEG)
        archive.writestr("other/A.jpg", JPEG)
    place = Reference.parse("s3://staging/zips/images.zip")
    storage.write(place, packed.getvalue())
    uuid = wire.post("/task/new", json={"readS3Path": str(place), "nodes": ["plain"]}).json()["uuid"]
    wire.completed(uuid)
    stats = json.loads(storage.read(Reference.parse("s3://staging/zips/images-output/odm_report/stats.json")))
    assert stats["images"] == ["A_.jpg", "a.jpg"]


def test_outputs_that_the_client_names(wire: Wire, storage: Storage) -> None:
    """They and the console are all there is, as on a node of ours."""
    uuid = wire.task(nodes=on("plain"), outputs='["odm_report"]')
    wire.completed(uuid)
    manifest = json.loads(storage.read(Reference.parse(f"s3://staging/{uuid}/output/manifest.json")))
    assert {each["name"] for each in manifest["objects"]} == {
        "all.zip",
        "odm_report/stats.json",
        "task_output.txt",
    }


@pytest.mark.parametrize("name", ["plain", "reader"])
def test_cancel_in_the_middle(node: ForeignNode, wire: Wire, name: str) -> None:
    """The engine ends on the foreign node too (I7)."""
    uuid = wire.task("say begun\nsleep 60", nodes=on(name))
    wire.says(uuid, "begun")
    assert runs_of(node)
    assert wire.act("cancel", uuid) == {"success": True}
    assert wire.code(uuid) == 50
    wait_until(lambda: not tasks_on(node), "the foreign node to have forgotten the task")
    wait_until(lambda: not runs_of(node), "every process of the run to be gone")
    assert wire.code(uuid) == 50


def test_cancel_while_it_is_delivered(stack: Stack, node: ForeignNode, wire: Wire) -> None:
    """The node hangs while it is given a task; the task is canceled; the node never starts it."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        uuid = wire.task("say begun\nsleep 60", nodes=on("plain"))
        wait_until(lambda: len(attempts(stack, uuid)) == 1, "the task to be placed")
        assert wire.act("cancel", uuid) == {"success": True}
        elsewhere = wire.task(nodes=on("node-1"))
        wire.completed(elsewhere)  # A node that hangs slows down nobody else (I10).
    finally:
        os.kill(node.pid, signal.SIGCONT)
    other = wire.task(nodes=on("plain"))
    wire.completed(other)
    wait_until(lambda: not tasks_on(node), "nothing to be left on the node")
    assert wire.code(uuid) == 50


def test_an_engine_that_fails(stack: Stack, wire: Wire) -> None:
    """In NodeODM's words, and not tried again: it would fail again."""
    uuid = wire.task("say [ERROR] Not enough features\nexit 1", nodes=on("plain"))
    info = wire.ended(uuid)
    assert info["status"] == {"code": 30, "errorMessage": "Cannot process dataset: Not enough features"}
    assert [each["cause"] for each in attempts(stack, uuid)] == ["engine"]
    does_well(wire)


def test_an_engine_that_runs_out_of_memory(stack: Stack, wire: Wire) -> None:
    """The cause is known by NodeODM's words; where no node has more memory, the task ends with it."""
    uuid = wire.task("exit 137", nodes=on("plain"))
    assert "Not enough memory" in wire.ended(uuid)["status"]["errorMessage"]
    assert attempts(stack, uuid)[0]["cause"] == "out of memory"
    does_well(wire)


def test_no_products(stack: Stack, wire: Wire) -> None:
    """A run that ends well and has made nothing has failed."""
    uuid = wire.task("no-products", nodes=on("plain"))
    assert wire.ended(uuid)["status"]["code"] == 30
    assert [each["cause"] for each in attempts(stack, uuid)] == ["engine"]
    does_well(wire)


@pytest.mark.timeout(120)
def test_a_router_that_dies_in_the_middle(stack: Stack, node: ForeignNode, wire: Wire) -> None:
    """SIGKILL of the router: the next one finds the run on the foreign node, and publishes it. One run, not two."""
    uuid = wire.task("say begun\nsleep 4\nmegabytes 30", nodes=on("plain"))
    wire.says(uuid, "begun")
    os.kill(stack.pid_of("router"), signal.SIGKILL)
    stack.start_again("router")
    wait_until(lambda: wire.get("/info").status_code == httpx.codes.OK, "the router to answer")
    wire.completed(uuid, 60)
    assert wire.output(uuid).count("begun") == 1
    assert len(attempts(stack, uuid)) == 1
    wait_until(lambda: not tasks_on(node), "the foreign node to have forgotten the task")


@pytest.mark.timeout(150)
def test_a_router_that_dies_while_it_uploads(stack: Stack, node: ForeignNode, wire: Wire, storage: Storage) -> None:
    """SIGKILL of the router between the files: what has come is not used, nothing is doubled, one run is started."""
    root = Reference.parse("s3://staging/a-long-upload/")
    names = [f"image-{number:02}.jpg" for number in range(40)]
    for name in names:
        storage.write(root / name, JPEG + os.urandom(3_000_000))
    staged = Reference.parse(node.settings["SCALEODM_STAGING"])
    before = {each.reference for each in storage.listing(staged)}
    uuid = wire.post("/task/new", json={"readS3Path": str(root), "nodes": ["plain"]}).json()["uuid"]
    wait_until(lambda: {each.reference for each in storage.listing(staged)} - before, "the first file to arrive")
    os.kill(node.pid, signal.SIGSTOP)
    os.kill(stack.pid_of("router"), signal.SIGKILL)
    os.kill(node.pid, signal.SIGCONT)
    stack.start_again("router")
    wire.completed(uuid, 100)
    assert json.loads(storage.read(root / "output/odm_report/stats.json"))["images"] == names
    assert [each["cause"] for each in attempts(stack, uuid)] in (["undelivered", None], [None])
    wait_until(lambda: not tasks_on(node), "the foreign node to have forgotten the task")


@pytest.mark.timeout(120)
def test_a_foreign_node_that_dies_is_replaced(stack: Stack, node: ForeignNode, wire: Wire) -> None:
    """SIGKILL of the node with its engine: the task runs again elsewhere; back again, the node is told to let go."""
    lock(stack, "node-1", True)
    uuid = wire.task("say begun\nsleep 3", nodes=on("plain", "node-1"))
    wire.says(uuid, "begun")
    lock(stack, "node-1", False)
    os.kill(node.pid, signal.SIGKILL)
    for process in runs_of(node):
        process.kill()
    wire.completed(uuid, 60)
    assert [(each["node"], each["cause"]) for each in attempts(stack, uuid)] == [("plain", "lost"), ("node-1", None)]
    node.stop()
    node.start()
    wait_until(lambda: not tasks_on(node), "the node to be told that nobody waits for its run")
    does_well(wire)


def lock(stack: Stack, name: str, locked: bool) -> None:
    """Lock a node, or unlock it."""
    what = "lock" if locked else "unlock"
    answer = httpx.post(f"{stack.router_url}/admin/nodes/{name}/{what}", headers=admin(stack))
    assert answer.status_code == httpx.codes.OK, answer.text


class NoNodeOdm(BaseHTTPRequestHandler):
    """A web server, and no NodeODM."""

    def do_GET(self) -> None:
        """Some page."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<h1>It works!</h1>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        """Say nothing."""


@pytest.fixture
def web_server() -> Iterator[str]:
    """Something that answers HTTP."""
    server = HTTPServer(("127.0.0.1", 0), NoNodeOdm)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_wrong_with_a_node_is_told_at_once(stack: Stack, node: ForeignNode, web_server: str) -> None:
    """DNS, port, TLS, token, not a NodeODM: each in its own words, and never with the token."""
    port = free_port()
    wrong: dict[str, dict[str, Any]] = {
        "name no-such-host.invalid is not known": {"url": "http://no-such-host.invalid:3000"},
        f"Nothing listens on port {port}": {"url": f"http://127.0.0.1:{port}"},
        "does not speak TLS": {"url": node.url.replace("http:", "https:")},
        "refuses the token": {"url": node.url, "token": "wrong-secret"},
        "asks for a token": {"url": node.url, "token": None},
        "is not a NodeODM API": {"url": web_server},
    }
    for words, order in wrong.items():
        answer = add(stack, **{"name": "wrong", "token": "some-secret", **order})
        assert (answer.status_code, words in answer.text) == (400, True), (words, answer.text)
        assert "secret" not in answer.text
    unreadable: list[dict[str, Any]] = [
        {"url": f"{node.url}?token=some-secret"},
        {"url": node.url, "slots": 0},
        {"url": "ftp://x"},
    ]
    for order in unreadable:
        answer = add(stack, **{"name": "wrong", "token": "some-secret", **order})
        assert answer.status_code == 422, answer.text
        assert "secret" not in answer.text
    taken = add(stack, name="node-1", url=node.url, token=TOKEN)
    assert (taken.status_code, "joined by itself" in taken.text) == (409, True), taken.text
    shown = httpx.get(f"{stack.router_url}/admin/nodes", headers=admin(stack)).text
    assert '"wrong"' not in shown


def test_only_an_administrator_adds_nodes(stack: Stack, node: ForeignNode) -> None:
    """A user's token does not."""
    headers = {"Authorization": f"Bearer {stack.user_token}"}
    answer = httpx.post(f"{stack.router_url}/admin/nodes", json={"name": "mine", "url": node.url}, headers=headers)
    assert answer.status_code == 403


def test_a_foreign_node_added_again_is_changed_and_can_be_removed(stack: Stack, node: ForeignNode, wire: Wire) -> None:
    """Slots given by hand hold; a removed node gets nothing more."""
    assert add(stack, name="again", url=node.url, token=TOKEN).json()["slots"] == 2
    changed = add(stack, name="again", url=node.url, token=TOKEN, slots=1, labels={"site": "here"}).json()
    assert (changed["slots"], changed["labels"]) == (1, {"site": "here"})
    uuid = wire.task(nodes=on("again"))
    wire.completed(uuid)

    def slots() -> int:
        shown = httpx.get(f"{stack.router_url}/admin/nodes", headers=admin(stack)).json()
        return int(next(each["slots"] for each in shown if each["name"] == "again"))

    wait_until(lambda: slots() == 1, "what an administrator says to count, and not what the node says")
    removed = httpx.delete(f"{stack.router_url}/admin/nodes/again", headers=admin(stack))
    assert removed.status_code == 200, removed.text
    assert "No node of this federation" in wire.ended(wire.task(nodes=on("again")))["status"]["errorMessage"]


def test_i9_the_token_is_nowhere_to_be_read(stack: Stack, node: ForeignNode, wire: Wire) -> None:
    """Not in an answer, not in a log, not in Postgres' files."""
    del node, wire
    for path in ("/admin/nodes", "/federation/nodes"):
        assert TOKEN not in httpx.get(stack.router_url + path, headers=admin(stack)).text
    folder = stack.secrets_file.parent
    assert TOKEN not in (folder / "logs" / "router.log").read_text()
    pages = [path for path in (folder / "postgres").rglob("*") if path.is_file()]
    assert pages
    assert not [path for path in pages if TOKEN.encode() in path.read_bytes()]
