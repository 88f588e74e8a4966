"""A federation to break things in: what a user asks of it, what is done to it, and what can be seen of it."""

import io
import json
import secrets
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx
import psutil

from common.embedded.stack import Stack
from common.references import MANIFEST, Reference
from node.workspace import Workspace
from tests.client import JPEG, Wire
from tests.conftest import STANDIN
from tests.matrix.polls import Pollers, check_polls
from tests.matrix.proxy import Proxy, Way
from tests.waiting import wait_until

LATE_AFTER_S = 1.5
LOST_AFTER_S = 4.0
NEVER_LOST_S = 300.0
REACHED_PERCENT = 50.0
"""The progress of a held task lies above, once all that it said is on record."""
PATIENCE_S = 60.0
"""Nothing here takes so long, but the machine may be busy with something else."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a task, as `/task/{uuid}/why` tells of it."""

    number: int
    node: str
    state: str
    cause: str | None


class Lab:
    """Two nodes, and one router or several, as real processes. A context manager, which checks all polls at its end."""

    def __init__(self, folder: Path, routers: int = 1, lost_after_s: float = LOST_AFTER_S) -> None:
        """Proxies stand between `node-1`, to which things happen, and the routers, in both directions."""
        self.stack = Stack(
            folder / "data",
            routers=routers,
            node_settings={
                "SCALEODM_NODE_ENGINE": "odm",
                "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}",
                "SCALEODM_NODE_SLOTS": "8",
            },
            router_settings={
                "SCALEODM_ROUTER_LATE_AFTER_S": str(LATE_AFTER_S),
                "SCALEODM_ROUTER_LOST_AFTER_S": str(lost_after_s),
                "SCALEODM_ROUTER_REST_S": "1",
            },
            own_settings={"node-1": self._make_proxies(routers)},
        )
        self._folder, self.lost_after_s = folder, lost_after_s
        self._undo, self._mends = ExitStack(), ExitStack()
        self._roots: dict[str, Reference] = {}
        self._killed: set[str] = set()
        self._is_ending = False

    def _make_proxies(self, routers: int) -> dict[str, str]:
        self._to_node = Proxy(lambda: self.stack.node_urls["node-1"])
        self._to_routers = [Proxy(partial(self._router_url, at)) for at in range(routers)]
        routes = ",".join(each.url for each in self._to_routers)
        return {"SCALEODM_NODE_URL": self._to_node.url, "SCALEODM_NODE_ROUTER_URL": routes}

    def _router_url(self, at: int) -> str:
        return list(self.stack.router_urls.values())[at]

    def __enter__(self) -> Self:
        """Start it all."""
        with ExitStack() as undo:
            for proxy in (self._to_node, *self._to_routers):
                undo.enter_context(proxy)
            undo.callback(self._end_runs)
            undo.enter_context(self.stack)
            self.storage = self.stack.storage()
            no_reuse = httpx.Limits(max_keepalive_connections=0)
            self._http = undo.enter_context(httpx.Client(timeout=30, limits=no_reuse))
            self.pollers = Pollers(self.stack.router_urls, self.stack.user_token)
            self.pollers.start()
            undo.callback(self.pollers.stop)
            undo.enter_context(self._mends)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mend what is broken, stop it all, and judge what pollers were told."""
        self._is_ending = True
        self._undo.close()
        if kind is None:
            check_polls(self.pollers.seen, self._killed)

    # What a user does

    def wire(self, router: str = "router") -> Wire:
        """The NodeODM API of one router."""
        return Wire(self.stack.router_urls[router], self.stack.user_token, self._http)

    def images(self, orders: str = "") -> Reference:
        """Input, with orders for the engine, of which no task has been made."""
        root = Reference.parse(f"s3://staging/{secrets.token_hex(8)}/")
        self.storage.write(root / "a.jpg", JPEG)
        if orders:
            self.storage.write(root / "gcp_list.txt", orders.encode())
        return root

    def submit(self, root: Reference, router: str = "router", uuid: str | None = None, **wishes: Any) -> str:
        """Make a task of that input. Polled from now on."""
        asked = uuid or str(uuid4())
        body = {"readS3Path": str(root), **wishes}
        answer = self.wire(router).post("/task/new", json=body, headers={"set-uuid": asked})
        assert (answer.status_code, answer.json()) == (200, {"uuid": asked})
        self._roots[asked] = root
        self.pollers.add(asked)
        return asked

    def task(self, router: str = "router", **wishes: Any) -> str:
        """A new task that ends by itself."""
        return self.submit(self.images(), router, **wishes)

    def held(self, **wishes: Any) -> str:
        """A new task whose engine works until it is released."""
        uuid = str(uuid4())
        # Progress is told when a line comes, but not twice within half a second.
        root = self.images(f"sleep 0.6\nsay begun\nuntil {self._gate(uuid)}\nsay released")
        return self.submit(root, uuid=uuid, **wishes)

    def release(self, uuid: str) -> None:
        """Let the engine of a held task go on, on whatever node it works."""
        self._gate(uuid).touch()

    def _gate(self, uuid: str) -> Path:
        return self._folder / uuid

    def begun(self, uuid: str) -> Any:
        """The progress of a held task that has come as far as it comes before its release."""
        self.wire().says(uuid, "begun")
        return wait_until(
            lambda: reached if (reached := self.wire().info(uuid)["progress"]) > REACHED_PERCENT else None,
            f"the progress of {uuid}",
        )

    def completed(self, uuid: str, router: str = "router") -> None:
        """Wait until the task has ended, and well."""
        info = self.wire(router).ended(uuid, PATIENCE_S)
        assert info["status"]["code"] == 40, (info, self.attempts(uuid, router))

    def cancel(self, uuid: str, router: str = "router") -> float:
        """Cancel a task; gives how many seconds the answer took."""
        began = time.monotonic()
        assert self.wire(router).act("cancel", uuid) == {"success": True}
        seconds = time.monotonic() - began
        assert self.wire(router).code(uuid) == 50
        return seconds

    def wait_gone(self, uuid: str, router: str = "router") -> None:
        """Wait until nothing of a canceled task runs on `node-1`, and see that it stays canceled (I7)."""
        wait_until(lambda: not self.runs("node-1", uuid), "the canceled run to be gone", PATIENCE_S)
        assert self.wire(router).code(uuid) == 50

    def download(self, uuid: str, router: str = "router") -> set[str]:
        """Names in the archive of a task that has ended, as a client gets it."""
        answer = self.wire(router).get(f"/task/{uuid}/download/all.zip")
        assert answer.status_code == httpx.codes.FOUND, answer.text
        archive = httpx.get(answer.headers["location"], timeout=PATIENCE_S)
        archive.raise_for_status()
        return set(zipfile.ZipFile(io.BytesIO(archive.content)).namelist())

    def attempts(self, uuid: str, router: str = "router") -> list[Attempt]:
        """Every attempt, first to last."""
        found = self.wire(router).get(f"/task/{uuid}/why").json()["attempts"]
        return [Attempt(each["number"], each["node"], each["state"], each["cause"]) for each in found]

    def manifest(self, uuid: str) -> dict[str, Any]:
        """What stands beside the products; empty while there is nothing."""
        place = self._roots[uuid] / "output/" / MANIFEST
        if not self.storage.exists(place):
            return {}
        document: dict[str, Any] = json.loads(self.storage.read(place))
        return document

    @contextmanager
    def only(self, name: str) -> Iterator[None]:
        """New tasks go to this node alone."""
        others = [each for each in self.stack.node_urls if each != name]
        for each in others:
            self._administer(f"nodes/{each}/lock")
        yield
        for each in others:
            self._administer(f"nodes/{each}/unlock")

    def _administer(self, what: str) -> None:
        headers = {"Authorization": f"Bearer {self.stack.admin_token}"}
        self._http.post(f"{self.stack.router_url}/admin/{what}", headers=headers).raise_for_status()

    # What is done to it

    def mend(self) -> None:
        """Make whole again what was broken. Safe to repeat."""
        self._mends.close()

    def kill(self, name: str) -> None:
        """SIGKILL to a router or node; its runs go on."""
        process = psutil.Process(self.stack.pid_of(name))
        process.kill()
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, f"{name} to be dead")
        self._killed.add(name)
        self._mends.callback(self._start_again, name)

    def _start_again(self, name: str) -> None:
        if not self._is_ending:
            self.stack.start_again(name)

    def hang(self, name: str) -> None:
        """SIGSTOP to a router or node."""
        psutil.Process(self.stack.pid_of(name)).suspend()
        self._mends.callback(self.resume, name)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        psutil.Process(self.stack.pid_of(name)).resume()

    def kill_runs(self, node: str) -> None:
        """SIGKILL to everything that the node has started."""
        for each in self.runs(node):
            each.kill()

    def cut_off(self) -> None:
        """Every byte between `node-1` and the routers is lost."""
        for proxy in (self._to_node, *self._to_routers):
            proxy.turn(Way.LOST)
            self._mends.callback(proxy.turn, Way.THROUGH)

    def answer(self, way: Way) -> None:
        """`node-1` seems to answer the router like this; what it says to the router arrives."""
        self._to_node.turn(way)
        self._mends.callback(self._to_node.turn, Way.THROUGH)

    def without_postgres(self) -> None:
        """Postgres is gone."""
        self._mends.enter_context(self.stack.without_postgres())

    def without_s3(self) -> None:
        """S3 is gone."""
        self.stack.object_store.stop()
        self._mends.callback(self.stack.object_store.start, "staging")

    # What can be seen of it

    def workspace(self, node: str, uuid: str, attempt: int) -> Workspace:
        """Where an attempt works, or has worked."""
        return Workspace(self._tasks_of(node) / uuid / str(attempt))

    def runs(self, node: str, uuid: str = "") -> list[psutil.Process]:
        """Processes that work for the node, on one task or on any."""
        folder = str(self._tasks_of(node) / uuid)
        return [each for each in psutil.process_iter() if any(folder in part for part in _argv(each))]

    def log(self, name: str) -> str:
        """What a program has logged."""
        return (self._folder / "data" / "logs" / f"{name}.log").read_text()

    def _tasks_of(self, node: str) -> Path:
        return self._folder / "data" / "nodes" / node / "tasks"

    def _end_runs(self) -> None:
        """Of nodes that were killed: nobody else ends them."""
        for node in self.stack.node_urls:
            self.kill_runs(node)


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
