"""The further arrangements that the contract tests run against: a router over one node, and a router over a router.

Both are real processes on the Postgres and the S3 of the federation, each router with a database of its own.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from common.embedded.children import Child, free_port, start_child
from common.embedded.stack import Stack, answers
from common.tokens import new_token
from tests.client import Wire
from tests.waiting import wait_until

STANDIN = Path(__file__).with_name("standin_odm.py")
ENGINE = {"SCALEODM_NODE_ENGINE": "odm", "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}"}
"""The stand-in for ODM as a node's engine."""
PATIENT_ROUTER = {"SCALEODM_ROUTER_REST_S": "0.5", "SCALEODM_ROUTER_QUARANTINE_S": "0"}
"""A router that forgives a node at once what a test made it do."""
UNDER = "the-router-under-it"
"""The name by which a router of routers knows the other one."""


@dataclass(frozen=True)
class FurtherRouter:
    """One more router beside a federation's own."""

    name: str
    url: str
    user_token: str
    admin_token: str
    node_token: str
    child: Child

    def wire(self, http: httpx.Client) -> Wire:
        """Its NodeODM API."""
        return Wire(self.url, self.user_token, http)

    def admin(self, method: str, path: str, **content: Any) -> httpx.Response:
        """A request of an administrator."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **content)

    def said(self) -> str:
        """Its log."""
        return self.child.log.read_text()

    def waits_for(self, node: str) -> None:
        """Until this node is healthy."""
        wait_until(lambda: self._health(node) == "healthy", f"{node} to be a healthy node of {self.name}", 60)

    def _health(self, node: str) -> object:
        found = {each["name"]: each for each in self.admin("GET", "/admin/nodes").json()}
        return found.get(node, {}).get("health")


@contextmanager
def router_of_one(stack: Stack, folder: Path) -> Iterator[FurtherRouter]:
    """A router, and one node of two slots that has joined it."""
    with ExitStack() as undo:
        router = _router(stack, folder, "router-of-one", undo)
        settings = {
            **ENGINE,
            "SCALEODM_NODE_NAME": "the-one",
            "SCALEODM_NODE_PORT": str(free_port()),
            "SCALEODM_NODE_DATA": str(folder / "the-one"),
            "SCALEODM_NODE_ROUTER_URL": router.url,
            "SCALEODM_NODE_JOIN_TOKEN": router.node_token,
            "SCALEODM_NODE_SLOTS": "2",
            "SCALEODM_INPUT_PRIVATE": "on",
        }
        _started(stack, folder, "the-one", "node", settings, undo)
        router.waits_for("the-one")
        yield router


@contextmanager
def router_of_routers(stack: Stack, folder: Path) -> Iterator[FurtherRouter]:
    """A router whose only node is the federation's router, added by an administrator as any foreign NodeODM."""
    with ExitStack() as undo:
        router = _router(stack, folder, "router-of-routers", undo)
        order = {"name": UNDER, "url": stack.router_url, "token": stack.user_token}
        added = router.admin("POST", "/admin/nodes", json=order)
        assert added.status_code == httpx.codes.OK, added.text
        router.waits_for(UNDER)
        yield router


@contextmanager
def router_beside(stack: Stack, folder: Path, name: str, settings: Mapping[str, str]) -> Iterator[FurtherRouter]:
    """A router without nodes, with settings of its own."""
    with ExitStack() as undo:
        yield _router(stack, folder, name, undo, settings)


def _router(
    stack: Stack, folder: Path, name: str, undo: ExitStack, further: Mapping[str, str] | None = None
) -> FurtherRouter:
    user, admin, node = new_token(), new_token(), new_token()
    port = free_port()
    settings = {
        **PATIENT_ROUTER,
        "SCALEODM_ROUTER_PORT": str(port),
        "SCALEODM_ROUTER_DATABASE_URL": new_database(stack.database_url),
        "SCALEODM_ROUTER_SECRET_KEY": secrets.token_hex(32),
        "SCALEODM_ROUTER_USER_TOKEN": user,
        "SCALEODM_ROUTER_ADMIN_TOKEN": admin,
        "SCALEODM_ROUTER_NODE_TOKEN": node,
        **(further or {}),
    }
    child = _started(stack, folder, name, "router", settings, undo)
    router = FurtherRouter(name, f"http://127.0.0.1:{port}", user, admin, node, child)
    child.wait_until(lambda: answers(f"{router.url}/readyz"))
    return router


def _started(
    stack: Stack, folder: Path, name: str, package: str, settings: Mapping[str, str], undo: ExitStack
) -> Child:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
    environment = clean | stack.storage_environment() | dict(settings)
    child = start_child(name, [sys.executable, "-m", package], environment, folder / f"{name}.log")
    undo.callback(child.stop)
    return child


def new_database(server_url: str) -> str:
    """A database of its own on a running Postgres; gives its URL."""
    return asyncio.run(_new_database(server_url))


async def _new_database(server_url: str) -> str:
    name = f"router_{secrets.token_hex(6)}"
    server = make_url(server_url)
    engine = create_async_engine(server.set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)
