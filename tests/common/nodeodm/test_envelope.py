"""Paths, CORS, and the last resort: a dropped connection."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from common.embedded.children import free_port
from common.nodeodm.envelope import ConnectionDropped, Envelope, canonical_path
from common.server import Server, configured, until_open


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("/INFO/", "/info"),
        ("/", "/"),
        ("/Task/ABC/Info", "/task/ABC/info"),
        ("/TASK/NEW/UPLOAD/AbC/", "/task/new/upload/AbC"),
        ("/task/ABC/DOWNLOAD/All.zip", "/task/ABC/download/All.zip"),
        ("/Task/Cancel", "/task/cancel"),
        ("/federation/Nodes/X", "/federation/Nodes/X"),
    ],
)
def test_paths_are_read_without_regard_to_case(raw: str, wanted: str) -> None:
    """But ids and names are as given (contract 1.6, 1.10)."""
    assert canonical_path(raw) == wanted


@given(st.text())
def test_reading_a_path_twice_changes_nothing_more(raw: str) -> None:
    """Any path at all."""
    once = canonical_path("/" + raw)
    assert canonical_path(once) == once


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with a fault, and one that gives up on purpose."""
    del receive, send
    if scope["path"] == "/info":
        raise ConnectionDropped("the database is away")
    raise RuntimeError("a bug")


def framework() -> FastAPI:
    """An application whose framework has a 500 page of its own."""
    app = FastAPI()

    @app.get("/info")
    async def outage() -> None:
        raise OSError("the database is away")

    @app.get("/task/{uuid}/info")
    async def bug(uuid: str) -> None:
        raise RuntimeError(uuid)

    return app


@pytest.fixture(params=[failing, framework()], ids=["bare", "framework"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The failing application on a real server."""
    port = free_port()
    server = Server(configured(Envelope(request.param), "127.0.0.1", port))
    running = asyncio.create_task(server.serve())
    await until_open(server, running, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await running


@pytest.mark.contract("1 never 5xx")
@pytest.mark.parametrize("path", ["/info", "/task/u/info"])
async def test_what_cannot_be_answered_is_dropped_and_never_a_500(url: str, path: str) -> None:
    """PyODM retries a dropped connection and gives up on a status (contract 8.1)."""
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.TransportError):
            await http.get(url + path)
        assert (await http.options(url + path)).status_code == 204, "the server lives on"
