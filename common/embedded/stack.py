"""Postgres, S3, routers and nodes as child processes: the whole federation in one folder."""

import fcntl
import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from common.embedded.children import Child, free_port, interrupts_later, port_is_free, start_child
from common.embedded.object_store import ObjectStore
from common.embedded.postgres import EmbeddedPostgres
from common.storage import Storage
from common.tokens import new_token

STAGING_BUCKET = "staging"
Tell = Callable[[str], None]


class StackBusy(Exception):
    """Another stack runs on the same folder."""


class Remembered:
    """Secrets and ports of a stack: made once, kept in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        """Reads the file where there is one."""
        self._path = path
        self._values: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, make: Callable[[], str]) -> str:
        """The value of this name, made if it is new."""
        if name not in self._values:
            self.put(name, make())
        return self._values[name]

    def port(self, name: str) -> int:
        """The port of this name, the same as last time while it is free."""
        port = int(self.get(name, lambda: str(free_port())))
        if not port_is_free(port):
            port = free_port()
            self.put(name, str(port))
        return port

    def put(self, name: str, value: str) -> None:
        """Remember a value."""
        self._values[name] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_for_owner(self._path, json.dumps(self._values, indent=1))


def write_for_owner(path: Path, text: str) -> None:
    """A file that only its owner can read, whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


@dataclass(frozen=True, slots=True)
class _Program:
    """A router or node that was started, and how to start it again."""

    package: str
    settings: dict[str, str]
    child: Child


class Stack:
    """The embedded federation. A context manager: what was started is stopped, in the opposite order."""

    def __init__(
        self,
        data: Path,
        nodes: int = 2,
        port: int | None = None,
        tell: Tell = lambda _: None,
        node_settings: Mapping[str, str] | None = None,
        router_settings: Mapping[str, str] | None = None,
        routers: int = 1,
        own_settings: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """`data` holds everything; `port` is the first router's, chosen freely when None; `tell` hears what happens.

        `node_settings`, `router_settings`: environment of those programs beside what the stack itself sets;
        `own_settings`: of single ones, by name.
        """
        self._data = data.absolute()
        self._router_names = ["router", *(f"router-{number}" for number in range(2, routers + 1))]
        self._node_names = [f"node-{number}" for number in range(1, nodes + 1)]
        self._asked_port = port
        self._tell = tell
        self._node_settings = dict(node_settings or {})
        self._router_settings = dict(router_settings or {})
        self._own_settings = own_settings or {}
        self._undo = ExitStack()
        self._lock: IO[str] | None = None
        self.secrets_file = self._data / "secrets.json"
        self.join_file = self._data / "join.env"
        """What a further node needs to be told, for a shell to read. Only its owner can."""
        self._programs: dict[str, _Program] = {}
        self.node_urls: dict[str, str] = {}
        self.router_urls: dict[str, str] = {}
        self.s3_url = ""
        self.database_url = ""

    def __enter__(self) -> Self:
        """Start everything; if something fails, what was started is stopped again."""
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self._stop()

    def _stop(self) -> None:
        """Whoever presses Ctrl-C twice is in a hurry, but would not want programs left running."""
        with interrupts_later():
            self._undo.close()

    @property
    def user_token(self) -> str:
        """Opens the NodeODM API."""
        return self._remembered.get("user_token", new_token)

    @property
    def admin_token(self) -> str:
        """Opens the administration."""
        return self._remembered.get("admin_token", new_token)

    def node_user_token(self, name: str) -> str:
        """Opens one node's own NodeODM API."""
        return self._remembered.get(f"{name} user_token", new_token)

    def storage_environment(self) -> dict[str, str]:
        """The S3 settings of this stack, for whoever wants to talk to its S3."""
        return self._s3.environment(f"s3://{STAGING_BUCKET}/")

    @property
    def object_store(self) -> ObjectStore:
        """This stack's S3 server."""
        return self._s3

    def storage(self) -> Storage:
        """A client of this stack's S3."""
        return self._s3.storage()

    def _start(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock_folder()
        self._remembered = Remembered(self.secrets_file)
        self._tell("Postgres")
        self._postgres = EmbeddedPostgres(self._data / "postgres")
        self._undo.callback(self._postgres.stop)
        with interrupts_later():
            self.database_url = self._postgres.start()
        self._tell("S3")
        self._start_s3()
        self._tell("router" if len(self._router_names) == 1 else f"{len(self._router_names)} routers")
        for name in self._router_names:
            self._start_router(name)
        self._write_join_file()
        self._tell(f"{len(self._node_names)} nodes")
        for name in self._node_names:
            self._start_node(name)
        for name in self._node_names:
            self._wait_for(name)

    def _lock_folder(self) -> None:
        self._lock = (self._data / "lock").open("w")
        self._undo.callback(self._lock.close)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackBusy(f"A stack is already running on {self._data}. Stop it, or choose another --data.") from None

    def _start_s3(self) -> None:
        remembered = self._remembered
        access = remembered.get("s3_access_key", lambda: "scaleodm")
        secret = remembered.get("s3_secret_key", lambda: secrets.token_hex(20))
        port = remembered.port("s3_port")
        self._s3 = ObjectStore(self._data / "s3", port, access, secret, self._log("s3"))
        self._undo.callback(self._s3.stop)
        self._s3.start(STAGING_BUCKET)
        self.s3_url = self._s3.url

    @property
    def router_url(self) -> str:
        """The first router's API."""
        return self.router_urls["router"]

    def _start_router(self, name: str) -> None:
        asked = self._asked_port if name == "router" else None
        port = asked or self._remembered.port(f"{name}_port")
        settings = {
            "SCALEODM_ROUTER_PORT": str(port),
            "SCALEODM_ROUTER_DATABASE_URL": self.database_url,
            "SCALEODM_ROUTER_SECRET_KEY": self._remembered.get("secret_key", lambda: secrets.token_hex(32)),
            "SCALEODM_ROUTER_USER_TOKEN": self.user_token,
            "SCALEODM_ROUTER_NODE_TOKEN": self.node_token,
            "SCALEODM_ROUTER_ADMIN_TOKEN": self.admin_token,
            # By name, for S3 goes by its number: runs tell the two apart by that.
            "SCALEODM_ROUTER_URL": f"http://localhost:{port}",
        }
        settings |= self._router_settings
        self.router_urls[name] = f"http://127.0.0.1:{port}"
        # For `common.command`, which speaks to a running stack by its folder.
        self._remembered.put(f"{name}_url", self.router_urls[name])
        self._begin(name, "router", settings)
        self._wait_for(name)

    @property
    def node_token(self) -> str:
        """Opens joining."""
        return self._remembered.get("node_token", new_token)

    def _write_join_file(self) -> None:
        settings = self.storage_environment() | {
            "SCALEODM_NODE_ROUTER_URL": ",".join(self.router_urls.values()),
            "SCALEODM_NODE_JOIN_TOKEN": self.node_token,
        }
        lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
        write_for_owner(self.join_file, lines)

    def _start_node(self, name: str) -> None:
        port = self._remembered.port(f"{name} port")
        settings = {
            "SCALEODM_NODE_NAME": name,
            "SCALEODM_NODE_PORT": str(port),
            "SCALEODM_NODE_DATA": str(self._data / "nodes" / name),
            "SCALEODM_NODE_USER_TOKEN": self.node_user_token(name),
            "SCALEODM_NODE_ROUTER_URL": ",".join(self.router_urls.values()),
            "SCALEODM_NODE_JOIN_TOKEN": self.node_token,
        }
        settings |= self._node_settings
        self.node_urls[name] = f"http://127.0.0.1:{port}"
        self._begin(name, "node", settings)

    def pid_of(self, name: str) -> int:
        """The process number of a router or node, by its name."""
        return self._programs[name].child.process.pid

    def has_ended(self, name: str) -> bool:
        """Whether the process of a router or node is gone."""
        return self._programs[name].child.process.poll() is not None

    def begin_again(self, name: str) -> None:
        """Start a router or a node once more, after it has ended."""
        program = self._programs[name]
        program.child.stop()
        self._begin(name, program.package, program.settings)

    def start_again(self, name: str) -> None:
        """The same, and wait until it is there."""
        self.begin_again(name)
        self._wait_for(name)

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        """Postgres is stopped at once, as by a crash, and started again at the end of the block."""
        self._postgres.crash()
        yield
        self._postgres.start()

    def _begin(self, name: str, package: str, settings: dict[str, str]) -> None:
        settings = {**settings, **self._own_settings.get(name, {})}
        environment = self._clean_environment() | self.storage_environment() | settings
        with interrupts_later():
            child = start_child(name, [sys.executable, "-m", package], environment, self._log(name))
            self._undo.callback(child.stop)
        self._programs[name] = _Program(package, settings, child)

    def _wait_for(self, name: str) -> None:
        def is_there() -> bool:
            url = self.router_urls.get(name)
            return self._has_joined(name) if url is None else answers(f"{url}/readyz")

        self._programs[name].child.wait_until(is_there)

    def _clean_environment(self) -> dict[str, str]:
        """Settings that lie about in the user's shell must not reach our programs."""
        return {name: value for name, value in os.environ.items() if not name.startswith(("SCALEODM_", "AWS_"))}

    def _log(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"

    def _has_joined(self, name: str) -> bool:
        """Whether any router sees it."""
        return any(self._knows(url, name) for url in self.router_urls.values())

    def _knows(self, router_url: str, name: str) -> bool:
        try:
            answer = httpx.get(
                f"{router_url}/federation/nodes",
                headers={"Authorization": f"Bearer {self.admin_token}"},
                timeout=5,
            )
        except httpx.TransportError:
            return False
        nodes = {node["name"]: node for node in answer.json()} if answer.status_code == httpx.codes.OK else {}
        known = nodes.get(name, {})
        url = self._own_settings.get(name, {}).get("SCALEODM_NODE_URL", self.node_urls[name])
        return bool(known.get("health") == "healthy" and known.get("url") == url)


def answers(url: str) -> bool:
    """Whether a GET of this URL gets a 200."""
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
