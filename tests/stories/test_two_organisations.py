"""Two organisations share their nodes over a tailnet, and no secret passes between them.

The north has the router and a node, the south has another node; each machine is a network namespace, and reaches the
others by the one address that they tell of themselves. S3 is outside of the tailnet, as it mostly is. Who is who, each
one's tailscaled says: a stand-in, which answers as Tailscale documents it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyodm import Node
from pyodm.api import Task

from common.embedded.children import Child
from common.embedded.object_store import ObjectStore
from common.embedded.stack import answers
from tests.arrangements import ENGINE, PATIENT_ROUTER, new_database
from tests.client import JPEG
from tests.namespaces import Machine, Switch, switch, why_impossible
from tests.tailscaled import StandIn, status, tailscaled, whois
from tests.waiting import wait_until

impossible = why_impossible()
pytestmark = pytest.mark.skipif(impossible is not None, reason=str(impossible))

ROUTER, NORTH, SOUTH, OFFICE, SOUTH_LATER = (f"100.64.7.{number}" for number in (1, 2, 3, 4, 33))
S3 = "10.64.7.9"
RIGHTS = {
    "tag:scaleodm-node": "node",
    "tag:south-node": "node",
    "ada@north.example": "admin",
}


@dataclass
class Tailnet:
    """The machines, what runs on them, and what their tailscaleds say."""

    folder: Path
    switch: Switch
    undo: ExitStack
    machines: dict[str, Machine] = field(default_factory=dict)
    tailscaleds: dict[str, StandIn] = field(default_factory=dict)
    programs: dict[str, Child] = field(default_factory=dict)
    peers: dict[str, Any] = field(default_factory=dict)
    """Who has which address, as every tailscaled knows it."""

    def machine(self, name: str, address: str, tag: str = "", login: str = "", **changes: Any) -> Machine:
        """A machine of the tailnet."""
        tags = (tag,) if tag else ()
        made = self.machines[name] = self.switch.machine(name, address)
        made.has(address.replace("100.", "10."))
        says = status(name, address, tags=tags, **changes)
        self.tailscaleds[name] = self.undo.enter_context(tailscaled(self.folder / f"{name}.sock", says))
        self.peers[address] = whois(name, tags=tags, login=login)
        for each in self.tailscaleds.values():
            each.peers.update(self.peers)
        return made

    def start(self, name: str, package: str, settings: dict[str, str]) -> Child:
        """A router or a node on its machine."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
        own = {"SCALEODM_TAILSCALE_SOCKET": str(self.folder / f"{name}.sock")}
        argv = [sys.executable, "-m", package]
        child = self.machines[name].start(name, argv, clean | settings | own, self.folder / f"{name}.log")
        self.undo.callback(child.stop)
        self.programs[name] = child
        return child

    def log(self, name: str) -> str:
        """What a program has said."""
        return self.programs[name].log.read_text()

    def says(self, name: str, words: str) -> None:
        """Until a program has said it."""
        wait_until(lambda: words in self.log(name), f"{name} to say {words!r}", 60)

    def asked(self, method: str, path: str, **content: Any) -> Any:
        """What an administrator's machine is answered, who needs no token."""
        with self.machines["office"].inside():
            answer = httpx.request(method, f"http://{ROUTER}:3000{path}", timeout=30, **content)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes, as the router sees them."""
        return {each["name"]: each for each in self.asked("GET", "/admin/nodes")}

    def waits_for(self, name: str, url: str) -> None:
        """Until a node is healthy at this address."""

        def is_there() -> bool:
            node = self.nodes().get(name, {})
            return (node.get("url"), node.get("health")) == (url, "healthy")

        wait_until(is_there, f"{name} to be healthy at {url}", 60)


@pytest.fixture
def tailnet(tmp_path: Path) -> Iterator[Tailnet]:
    """Machines for a router, two nodes and an administrator. Nothing runs on them yet."""
    with ExitStack() as undo:
        made = Tailnet(tmp_path, undo.enter_context(switch()), undo)
        made.machine("router", ROUTER, tag="tag:scaleodm-router")
        made.machine("north", NORTH, tag="tag:scaleodm-node")
        nameless = {"Name": "south.example", "MagicDNSSuffix": "tail1234.ts.net", "MagicDNSEnabled": False}
        made.machine("south", SOUTH, tag="tag:south-node", CurrentTailnet=nameless)
        made.machine("office", OFFICE, login="ada@north.example")
        made.machines["router"].knows({"north.tail1234.ts.net": NORTH})
        for name in ("north", "south"):
            made.machines[name].knows({"router.tail1234.ts.net": ROUTER})
        yield made


@pytest.fixture
def s3(tailnet: Tailnet) -> dict[str, str]:
    """An S3 on a machine of its own; the settings by which the others reach it."""
    store = ObjectStore(tailnet.folder / "store" / "s3", 9000, "shared", "s" * 32, tailnet.folder / "s3.log", "0.0.0.0")
    tailnet.undo.callback(store.stop)
    with tailnet.switch.machine("s3", S3).inside():
        store.start("staging")
    return store.environment("s3://staging/") | {"AWS_ENDPOINT_URL_S3": f"http://{S3}:9000"}


def start_router(tailnet: Tailnet, s3: dict[str, str], database_url: str) -> None:
    """The north's router. It has an admin token, as every router, and nobody is told it."""
    settings = {
        **PATIENT_ROUTER,
        "SCALEODM_ROUTER_HOST": ROUTER,
        "SCALEODM_ROUTER_DATABASE_URL": database_url,
        "SCALEODM_ROUTER_SECRET_KEY": "k" * 32,
        "SCALEODM_ROUTER_ADMIN_TOKEN": os.urandom(16).hex(),
        "SCALEODM_ROUTER_TAILNET_RIGHTS": json.dumps(RIGHTS),
        "SCALEODM_ROUTER_LATE_AFTER_S": "6",
    }
    child = tailnet.start("router", "router", s3 | settings)
    with tailnet.machines["office"].inside():
        child.wait_until(lambda: answers(f"http://{ROUTER}:3000/readyz"))


def start_node(tailnet: Tailnet, s3: dict[str, str], name: str) -> None:
    """A node that knows the router's name and nothing else of it: `auto` sees that it is a tailnet's."""
    settings = {
        **ENGINE,
        "SCALEODM_NODE_NAME": name,
        "SCALEODM_NODE_ROUTER_URL": "http://router.tail1234.ts.net:3000",
        "SCALEODM_NODE_DATA": str(tailnet.folder / name),
    }
    tailnet.start(name, "node", s3 | settings)


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[str], list[str]]:
    """Two images, with orders for the stand-in engine."""

    def taken(orders: str) -> list[str]:
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for name, content in (("a.jpg", JPEG), ("b.jpg", JPEG + b"b"), ("gcp_list.txt", orders.encode())):
            (folder / name).write_bytes(content)
        return [str(folder / name) for name in ("a.jpg", "b.jpg", "gcp_list.txt")]

    return taken


def bounded(within_s: float) -> Callable[[Any], None]:
    """For PyODM, which waits for ever: ends the waiting after so long."""
    deadline = time.monotonic() + within_s

    def check(info: Any) -> None:
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s in vain for a task to end: {info.status}"

    return check


def office_client() -> Node:
    """PyODM without a token. It remembers in its default arguments the last one that any client of its process had."""
    for method in (*vars(Node).values(), *vars(Task).values()):
        for default in getattr(method, "__defaults__", None) or ():
            if isinstance(default, dict):
                default.clear()
    return Node(ROUTER, 3000)


def submitted(tailnet: Tailnet, files: list[str]) -> str:
    """A task from an office, by the unmodified PyODM; gives its uuid."""
    with tailnet.machines["office"].inside():
        return str(office_client().create_task(files, name="a field").uuid)


def completed(tailnet: Tailnet, uuid: str, products: Path) -> list[str]:
    """The nodes that have worked on a task, in turn, once its products are here."""
    with tailnet.machines["office"].inside():
        task = office_client().get_task(uuid)
        task.wait_for_completion(status_callback=bounded(60), interval=0.5)
        task.download_assets(str(products))
    assert (products / "odm_orthophoto" / "odm_orthophoto.tif").stat().st_size > 0
    return [str(each["node"]) for each in tailnet.asked("GET", f"/task/{uuid}/why")["attempts"]]


@pytest.mark.timeout(300)
def test_two_organisations_share_their_nodes(
    tailnet: Tailnet, s3: dict[str, str], postgres_url: str, photos: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """A node waits for a router that is away; both nodes work; one moves, with a task on it, and nothing is lost."""
    start_node(tailnet, s3, "south")
    tailnet.says("south", "Nothing listens on port 3000 of router.tail1234.ts.net")
    start_router(tailnet, s3, new_database(postgres_url))
    tailnet.waits_for("south", f"http://{SOUTH}:3001")
    start_node(tailnet, s3, "north")
    tailnet.waits_for("north", "http://north.tail1234.ts.net:3001")

    both = [submitted(tailnet, photos(f"until {tmp_path / 'both'}")) for _ in range(2)]
    wait_until(lambda: {each["placed"] for each in tailnet.nodes().values()} == {1}, "each node to have one of them")
    (tmp_path / "both").touch()
    worked = [completed(tailnet, uuid, tmp_path / uuid) for uuid in both]
    assert sorted(worked) == [["north"], ["south"]], "each has run one of the two"

    tailnet.asked("POST", "/admin/nodes/north/drain")
    uuid = submitted(tailnet, photos(f"say here\nuntil {tmp_path / 'moved'}"))
    wait_until(lambda: "here" in tailnet.asked("GET", f"/task/{uuid}/output"), "the engine to work on it", 60)
    tailnet.says("south", f"listening on {SOUTH}, port 3001, too")
    move(tailnet, "south", SOUTH_LATER)
    tailnet.waits_for("south", f"http://{SOUTH_LATER}:3001")
    (tmp_path / "moved").touch()
    assert completed(tailnet, uuid, tmp_path / uuid) == ["south"], "what ran there went on"
    tailnet.says("south", f"this machine has moved on the tailnet: http://{SOUTH_LATER}:3001 (was http://{SOUTH}:3001)")
    after = submitted(tailnet, photos(""))
    assert completed(tailnet, after, tmp_path / after) == ["south"]
    for name in tailnet.programs:
        assert "Traceback" not in tailnet.log(name)


def move(tailnet: Tailnet, name: str, address: str) -> None:
    """A machine gets another address, as when it has logged in anew; all tailscaleds hear of it."""
    machine = tailnet.machines[name]
    tailnet.peers[address] = tailnet.peers.pop(machine.address)
    for each in tailnet.tailscaleds.values():
        each.peers = dict(tailnet.peers)
    machine.move(address)
    tailnet.tailscaleds[name].status |= {"TailscaleIPs": [address]}
