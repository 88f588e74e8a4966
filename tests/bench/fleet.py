"""A thousand nodes in one process: they join a router and report to it over real HTTP, and take what they are given.

`python -m tests.bench.fleet ROUTER_URL NODE_TOKEN PORT NODES SLOTS`. They run nothing: a task that was taken works for
ever, and each heartbeat says so.
"""

import asyncio
import json
import random
import sys
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import aiohttp
import httpx
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from common.federation import (
    AttemptReport,
    Capacity,
    Heartbeat,
    HeartbeatAnswer,
    Identity,
    JoinAnswer,
    JoinRequest,
    OptionMessage,
    identity_proof,
)
from common.nodeodm.catalogue import ODM_OPTIONS
from common.server import until_open
from common.tasks import State
from router.transport import NodeTransport

JOINS_AT_ONCE = 20
_OPTIONS = [OptionMessage.model_validate(option.as_json()) for option in ODM_OPTIONS]


@dataclass(slots=True)
class _Node:
    """One of them."""

    number: int
    slots: int
    http: httpx.AsyncClient
    """Each node has a connection of its own, as real ones do."""
    joined: JoinAnswer | None = None
    held: dict[str, AttemptReport] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it joins."""
        return f"node-{self.number}"


class Fleet:
    """All of them."""

    def __init__(self, router_url: str, token: str, port: int, count: int, slots: int) -> None:
        """Nobody has joined yet."""
        self._token = token
        self._port = port
        self._nodes = [_Node(number, slots, _client(router_url)) for number in range(count)]

    async def run(self) -> None:
        """Join, then report, for ever; what comes in is served beside it."""
        config = uvicorn.Config(
            self.answer, port=self._port, access_log=False, log_config=None, lifespan="off", interface="asgi3"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await until_open(server, serving, config.host, self._port)
        joining = asyncio.Semaphore(JOINS_AT_ONCE)
        await asyncio.gather(*(self._join(node, joining) for node in self._nodes))
        await asyncio.gather(serving, *(self._report(node) for node in self._nodes))

    async def _join(self, node: _Node, turn: asyncio.Semaphore) -> None:
        request = JoinRequest(
            name=node.name,
            url=f"http://127.0.0.1:{self._port}/{node.number}",
            engine="odm",
            engine_version="3.5",
            capacity=_capacity(node),
            options=_OPTIONS,
        )
        async with turn:
            answer = await node.http.post(
                "/federation/nodes",
                content=request.model_dump_json(),
                headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            )
        node.joined = JoinAnswer.model_validate(answer.raise_for_status().json())

    async def _report(self, node: _Node) -> None:
        assert node.joined is not None
        path = f"/federation/nodes/{node.joined.node_id}/heartbeat"
        headers = {"Authorization": f"Bearer {node.joined.secret}", "Content-Type": "application/json"}
        pause_s = node.joined.heartbeat_s
        await asyncio.sleep(random.uniform(0, pause_s))
        while True:
            heartbeat = Heartbeat(capacity=_capacity(node), attempts=list(node.held.values()))
            try:
                answer = await node.http.post(path, content=heartbeat.model_dump_json(), headers=headers)
            except httpx.TransportError as trouble:
                print(f"{node.name}: {trouble!r}", flush=True)
                continue
            told = HeartbeatAnswer.model_validate(answer.raise_for_status().json())
            for key in told.stop:
                node.held.pop(key.uuid, None)
            await asyncio.sleep(min(pause_s, told.busy_s) if node.held else pause_s)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the router asks of a node: `GET /{number}/federation/identity`, `POST /{number}/task/new`."""
        assert scope["type"] == "http"
        node = self._nodes[int(scope["path"].split("/")[1])]
        if scope["method"] == "GET":
            (nonce,) = parse_qs(scope["query_string"].decode())["nonce"]
            identity = Identity(name=node.name, proof=identity_proof(self._token, node.name, nonce))
            await _send(send, identity.model_dump_json())
        else:
            uuid = dict(scope["headers"])[b"set-uuid"].decode()
            attempt = json.loads(await _body(receive))["attempt"]
            node.held[uuid] = AttemptReport(uuid=uuid, attempt=attempt, state=State.RUNNING, progress=10.0)
            await _send(send, json.dumps({"uuid": uuid}))


def _client(url: str) -> httpx.AsyncClient:
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=60))

    transport = NodeTransport(verify=False, client=session)  # loopback, without TLS
    return httpx.AsyncClient(base_url=url, timeout=60, transport=transport)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _send(send: Send, document: str) -> None:
    data = document.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _capacity(node: _Node) -> Capacity:
    memory = 64 * 2**30
    return Capacity(slots=node.slots, cpu_cores=16, total_memory_bytes=memory, available_memory_bytes=memory)


if __name__ == "__main__":
    uvloop.run(Fleet(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])).run())
