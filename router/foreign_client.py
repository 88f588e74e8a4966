"""The NodeODM API of a foreign node, from the client's side (contract 2): what is asked, and what went wrong in words.

NodeODM takes its token only in the query, so no URL of a request may get into an error text here.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from common.nodeodm.client import NodeAnswerUnreadable, NodeRefused, NodeUnreachable, TokenRefused
from common.reaching import why_unreachable
from router.foreign_reports import NotNodeOdm, is_unknown, lines_of, says_nothing_came

ASK_S = 10.0
MOST_ANSWER_BYTES = 32 * 2**20
"""Of one answer that is kept in memory; a console's new lines are the largest."""
_UPLOAD_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_BREAKS = 8
"""How often in a row a download may break without having got further."""
_FROM_THE_START = 5
"""How often it may begin anew, at a node that knows no ranges (contract 2.8)."""
_CONNECTS = 3


class TaskUnknown(NodeRefused):
    """The node has no such task."""


def new_http() -> httpx.AsyncClient:
    """Connections to foreign nodes. NodeODM closes idle ones after 5 s (contract 1.5): ours must go before that."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(ASK_S, connect=5.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2.0),
    )


class ForeignClient:
    """One foreign node. Raises `NodeUnreachable`, `NodeRefused` and what derives from it, `NodeAnswerUnreadable`."""

    def __init__(self, url: str, token: str | None, http: httpx.AsyncClient) -> None:
        """`url` without a token."""
        self.url = url.rstrip("/")
        self._token = {"token": token} if token else {}
        self._http = http

    async def info(self) -> object:
        """`GET /info`."""
        return await self._ask("GET", "/info")

    async def options(self) -> object:
        """`GET /options`."""
        return await self._ask("GET", "/options")

    async def openapi(self) -> object:
        """`GET /openapi.json`, by which a ScaleODM is known; None where there is no such thing."""
        try:
            return await self._ask("GET", "/openapi.json")
        except (NodeAnswerUnreadable, NodeRefused):
            return None

    async def tasks(self) -> list[str]:
        """The uuids of every task that the token may see."""
        found = await self._ask("GET", "/task/list")
        if not isinstance(found, list):
            raise NotNodeOdm("its /task/list is not a list")
        return [str(each["uuid"]) for each in found if isinstance(each, dict) and "uuid" in each]

    async def task(self, uuid: str, first_line: int | None = None) -> object:
        """A task's info, with its console from `first_line` on. Raises `TaskUnknown`."""
        query = {} if first_line is None else {"with_output": str(first_line)}
        return await self._ask("GET", f"/task/{uuid}/info", query)

    async def has(self, uuid: str) -> bool:
        """Whether the node knows the task; an upload that is not committed is none."""
        try:
            await self.task(uuid)
        except TaskUnknown:
            return False
        return True

    async def lines(self, uuid: str, first_line: int) -> list[str]:
        """Console lines from a number on; a negative one counts from the end."""
        return lines_of(await self._ask("GET", f"/task/{uuid}/output", {"line": str(first_line)}))

    async def submit(self, uuid: str, order: Mapping[str, object]) -> None:
        """`POST /task/new` by S3 reference; the same again starts nothing new (design 4.5)."""
        answer = await self._ask("POST", "/task/new", headers={"set-uuid": uuid}, json=dict(order))
        self._check_uuid(answer, uuid)

    async def init(self, uuid: str, fields: Mapping[str, str]) -> None:
        """`POST /task/new/init`."""
        parts = {name: (None, value) for name, value in fields.items()}
        answer = await self._ask("POST", "/task/new/init", headers={"set-uuid": uuid}, files=parts)
        self._check_uuid(answer, uuid)

    async def is_open(self, uuid: str) -> bool:
        """Whether an upload is open under this uuid: one that is refuses an empty request in its own words."""
        try:
            await self._ask("POST", f"/task/new/upload/{uuid}", files={"nothing": (None, "")})
        except NodeRefused as refused:
            return says_nothing_came(str(refused))
        return True

    async def discard(self, uuid: str) -> None:
        """Have an upload's files deleted: NodeODM does so when options come that it cannot read (contract 2.9)."""
        try:
            await self.init(uuid, {"options": "{"})
        except NodeRefused:
            return

    async def upload(self, uuid: str, name: str, size: int, blocks: Callable[[], AsyncIterator[bytes]]) -> None:
        """One file, in one request, block by block.

        Only a connection that did not come about is tried again: NodeODM keeps what came of a file that broke off, and
        the same file under another name beside it (contract 2.10).
        """
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name.replace(chr(34), "%22")}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        async def body() -> AsyncIterator[bytes]:
            yield head
            async for block in blocks():
                yield block
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
        }
        for tries_left in reversed(range(_CONNECTS)):
            try:
                answer = await self._send(
                    "POST", f"/task/new/upload/{uuid}", content=body(), headers=headers, timeout=_UPLOAD_TIMEOUT
                )
            except httpx.ConnectError as trouble:
                if not tries_left:
                    raise self._unreachable(trouble) from trouble
                await asyncio.sleep(0.5)
            except httpx.HTTPError as trouble:
                raise self._unreachable(trouble) from trouble
            else:
                break
        if not isinstance(answer, dict) or not answer.get("success"):
            raise NodeAnswerUnreadable(f"{self.url} took a file and did not say `success`.")

    async def commit(self, uuid: str) -> None:
        """`POST /task/new/commit`."""
        self._check_uuid(await self._ask("POST", f"/task/new/commit/{uuid}"), uuid)

    async def remove(self, uuid: str) -> None:
        """End a task and have it forgotten; one that is not there is so already. A form: ClusterODM reads no JSON."""
        try:
            await self._ask("POST", "/task/remove", data={"uuid": uuid})
        except TaskUnknown:
            return
        except NodeRefused as refused:
            if not is_unknown(str(refused)) and "Invalid route" not in str(refused):
                raise

    async def fetch_archive(self, uuid: str, path: Path, progressed: Callable[[float], None]) -> None:
        """`all.zip` into a file; goes on where it broke off, where the node knows ranges. `progressed`: 0 to 1."""
        breaks = restarts = 0
        while True:
            have = _size(path)
            try:
                await self._fetch_from(uuid, path, have, progressed)
            except (httpx.TransportError, httpx.StreamError) as trouble:
                now = _size(path)
                breaks = 0 if now > have else breaks + 1
                restarts += now < have or not have
                if breaks >= _BREAKS or restarts >= _FROM_THE_START:
                    raise self._unreachable(trouble) from trouble
                await asyncio.sleep(min(15.0, 0.5 * 2**breaks))
            else:
                return

    async def _fetch_from(self, uuid: str, path: Path, have: int, progressed: Callable[[float], None]) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        request = self._http.stream(
            "GET",
            f"{self.url}/task/{uuid}/download/all.zip",
            params=self._token,
            headers=headers,
            timeout=_UPLOAD_TIMEOUT,
            follow_redirects=True,
        )
        async with request as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                _drop(path)
                raise httpx.ReadError("the archive has changed")
            if "json" in answer.headers.get("content-type", ""):
                self._read(answer.status_code, await _bounded(answer))
                raise NodeAnswerUnreadable(f"{self.url} answered a download with JSON.")
            if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise NodeAnswerUnreadable(f"{self.url} answered a download with {answer.status_code}.")
            begin = _range_begin(answer) if answer.status_code == httpx.codes.PARTIAL_CONTENT else 0
            if begin not in (0, have):
                raise NodeAnswerUnreadable(f"{self.url} sent another range than it was asked for.")
            total = begin + int(answer.headers.get("content-length", 0))
            with path.open("r+b" if begin else "wb") as file:
                file.seek(begin)
                # As it comes: blocks of one size would be held back, and lost when it breaks off.
                async for block in answer.aiter_raw():
                    await asyncio.to_thread(file.write, block)
                    progressed(file.tell() / total if total else 0.0)

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None, **content: Any) -> object:  # noqa: ANN401 - as httpx takes it
        try:
            async with asyncio.timeout(3 * ASK_S):
                return await self._send(method, path, query, **content)
        except (httpx.HTTPError, TimeoutError) as trouble:
            raise self._unreachable(trouble) from trouble

    async def _send(self, method: str, path: str, query: Mapping[str, str] | None = None, **content: Any) -> object:  # noqa: ANN401 - likewise
        parameters = {**self._token, **(query or {})}
        async with self._http.stream(method, self.url + path, params=parameters, **content) as answer:
            return self._read(answer.status_code, await _bounded(answer))

    def _read(self, status: int, body: bytes) -> object:
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise TokenRefused("Invalid authentication token")
        try:
            document: object = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and document.get("error") is not None:
            words = str(document["error"])[:1_500]
            if words.startswith("Invalid authentication"):
                raise TokenRefused(words)
            raise TaskUnknown(words) if is_unknown(words) else NodeRefused(words)
        if status != httpx.codes.OK or not isinstance(document, dict | list):
            raise NodeAnswerUnreadable(f"{self.url} answered {status}; expected 200 and JSON.")
        return document

    def _check_uuid(self, answer: object, uuid: str) -> None:
        if not isinstance(answer, dict) or answer.get("uuid") != uuid:
            raise NodeAnswerUnreadable(f"{self.url} did not take the uuid that it was given.")

    def _unreachable(self, trouble: Exception) -> NodeUnreachable:
        return NodeUnreachable(why_unreachable(self.url, trouble))


async def _bounded(answer: httpx.Response) -> bytes:
    received = bytearray()
    async for block in answer.aiter_bytes():
        received += block
        if len(received) > MOST_ANSWER_BYTES:
            raise NodeAnswerUnreadable(f"An answer is longer than {MOST_ANSWER_BYTES >> 20} MiB.")
    return bytes(received)


def _range_begin(answer: httpx.Response) -> int:
    _, _, told = answer.headers.get("content-range", "").partition("bytes ")
    begin = told.partition("-")[0]
    return int(begin) if begin.isdigit() else -1


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)
