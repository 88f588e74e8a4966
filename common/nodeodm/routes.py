"""The NodeODM API as FastAPI routes over one protocol (contract 2). Node and router answer with the same code.

The handlers read requests by hand where NodeODM's habits differ from a framework's: errors are 200, a body may
be a form or JSON under the same route, odd values are not errors.
"""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import orjson
from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from common.nodeodm import messages, pages
from common.nodeodm.options import OptionsInvalid, OptionsUnreadable, Setting, parse_options
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import Submission, TaskSurface
from common.nodeodm.uploads import FileReceiver, FormUnreadable, StagedFile, read_form
from common.references import ALL_ZIP, Reference, zipurl_output
from common.storage import Storage
from common.tokens import TOKEN_REFUSED, Caller, Gate

BODY_LIMIT = 100 * 1024
"""Bytes that a JSON or urlencoded body may have (contract 1.2)."""
DOWNLOAD_LINK_S = 3600
"""How long a download link is good for; each request gets a new one."""
API_VERSION = "2.2.4"
"""The NodeODM API that we answer as (contract 0)."""


class Json(Response):
    """JSON as NodeODM labels it (contract 1.4)."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: object) -> bytes:
        """Serialise."""
        return orjson.dumps(content)


@dataclass(frozen=True, slots=True)
class NodeOdmApi:
    """The handlers, over one surface, its callers and the S3 that uploads go to."""

    surface: TaskSurface
    gate: Gate
    storage: Storage

    def caller(self, request: Request) -> Caller:
        """Who calls, or `Refused`."""
        tokens = request.query_params.getlist("token")
        bearer = request.headers.get("authorization", "")
        if not tokens and bearer[:7].lower() == "bearer ":
            tokens = [bearer[7:].strip()]
        caller = self.gate.caller(tokens[0] if len(tokens) == 1 else None)
        if caller is None or not caller.may_use_tasks():
            raise Refused(TOKEN_REFUSED)
        return caller

    async def info(self, request: Request) -> Response:
        """`GET /info`."""
        self.caller(request)
        if request.query_params.get("_debugUnauthorized"):
            return Response(status_code=401)
        return Json(await self.surface.node_info())

    async def options(self, request: Request) -> Response:
        """`GET /options`."""
        self.caller(request)
        return Json([option.as_json() for option in self.surface.catalogue()])

    async def tasks(self, request: Request) -> Response:
        """`GET /task/list`."""
        return Json([{"uuid": uuid} for uuid in await self.surface.uuids(self.caller(request))])

    async def task_info(self, request: Request) -> Response:
        """`GET /task/{uuid}/info`."""
        caller, uuid = self.caller(request), request.path_params["uuid"]
        task = await self.surface.task(caller, uuid)
        start = _slice_start(request, "with_output")
        lines = None if start is None else await self.surface.lines(caller, uuid, start)
        return Json(messages.task_info(task, now_ms(), lines))

    async def output(self, request: Request) -> Response:
        """`GET /task/{uuid}/output`."""
        caller, uuid = self.caller(request), request.path_params["uuid"]
        await self.surface.task(caller, uuid)
        return Json(await self.surface.lines(caller, uuid, _slice_start(request, "line") or "0"))

    async def download(self, request: Request) -> Response:
        """`GET /task/{uuid}/download/{asset}`: sends the client to S3, with a URL made for this very request."""
        task = await self.surface.task(self.caller(request), request.path_params["uuid"])
        if request.path_params["asset"] != ALL_ZIP:
            raise Refused("Invalid asset")
        archive = Reference.parse(task.output) / ALL_ZIP
        if not await self.storage.run(self.storage.exists, archive):
            raise Refused("Asset not ready")
        url = await self.storage.run(self.storage.presigned_get, archive, DOWNLOAD_LINK_S, ALL_ZIP)
        return RedirectResponse(url, status_code=302, headers={"cache-control": "no-store"})

    async def init(self, request: Request) -> Response:
        """`POST /task/new/init`."""
        caller = self.caller(request)
        uuid = _asked_uuid(request)
        fields = await self._form_fields(request)
        uuid = await self.surface.open_upload(caller, uuid, self.submission(fields))
        return Json({"uuid": uuid})

    async def upload(self, request: Request) -> Response:
        """`POST /task/new/upload/{uuid}`."""
        caller, uuid = self.caller(request), request.path_params["uuid"]
        opened = await self.surface.upload(caller, uuid)
        received = 0

        async def receive(name: str) -> FileReceiver:
            nonlocal received
            received += 1
            return StagedFile(name, opened.inbox, self.storage, opened.prefix)

        await read_form(request.stream(), request.headers.get("content-type", ""), receive)
        if not received:
            raise Refused("Need at least 1 file.", no_retry=True)
        return Json({"success": True})

    async def commit(self, request: Request) -> Response:
        """`POST /task/new/commit/{uuid}`."""
        return Json({"uuid": await self.surface.commit(self.caller(request), request.path_params["uuid"])})

    async def new(self, request: Request) -> Response:
        """`POST /task/new`: files and fields in one multipart request, or S3 references as JSON or form."""
        caller = self.caller(request)
        uuid = _asked_uuid(request)
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return Json({"uuid": await self._new_from_form(request, caller, uuid or str(uuid4()))})
        fields = await _body(request)
        return Json({"uuid": await self._submit(caller, uuid, fields)})

    async def _new_from_form(self, request: Request, caller: Caller, uuid: str) -> str:
        opened = None

        async def receive(name: str) -> FileReceiver:
            nonlocal opened
            if opened is None:
                await self.surface.open_upload(caller, uuid, self.submission({}))
                opened = await self.surface.upload(caller, uuid)
            return StagedFile(name, opened.inbox, self.storage, opened.prefix)

        try:
            fields = await read_form(request.stream(), request.headers["content-type"], receive)
            if opened is None:
                return await self._submit(caller, uuid, fields)
            await self.surface.open_upload(caller, uuid, self.submission(fields))
            return await self.surface.commit(caller, uuid)
        except BaseException:
            if opened is not None:
                await self.surface.discard_upload(caller, uuid)
            raise

    async def _submit(self, caller: Caller, uuid: str | None, fields: Mapping[str, Any]) -> str:
        submission = self.submission(fields)
        if submission.read is None:
            raise Refused("Need at least 1 file or a zip file url.")
        return await self.surface.submit(caller, uuid, submission)

    async def cancel(self, request: Request) -> Response:
        """`POST /task/cancel`."""
        caller, uuid, _ = await self._named_task(request)
        await self.surface.cancel(caller, uuid)
        return Json({"success": True})

    async def remove(self, request: Request) -> Response:
        """`POST /task/remove`."""
        caller, uuid, _ = await self._named_task(request)
        await self.surface.remove(caller, uuid)
        return Json({"success": True})

    async def restart(self, request: Request) -> Response:
        """`POST /task/restart`."""
        caller, uuid, fields = await self._named_task(request)
        given = "options" in fields
        settings = self.settings(fields["options"]) if given else None
        await self.surface.restart(caller, uuid, settings)
        return Json({"success": True})

    async def _named_task(self, request: Request) -> tuple[Caller, str, Mapping[str, Any]]:
        """Body first, token second: the order in which NodeODM finds fault (contract 1.7)."""
        fields = await _body(request)
        caller = self.caller(request)
        uuid = fields.get("uuid")
        if not uuid:
            raise Refused("uuid param missing.")
        return caller, str(uuid), fields

    async def _form_fields(self, request: Request) -> Mapping[str, Any]:
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/form-data"):
            return await _body(request)
        return await read_form(request.stream(), content_type, None)

    def settings(self, raw: object) -> tuple[Setting, ...]:
        """Options of a request, checked against the catalogue."""
        try:
            return parse_options(raw, self.surface.catalogue())
        except (OptionsInvalid, OptionsUnreadable) as wrong:
            raise Refused(str(wrong)) from wrong

    def submission(self, fields: Mapping[str, Any]) -> Submission:
        """The fields of init, or of a whole task, read as NodeODM reads them."""
        now = now_ms()
        skip = messages.is_true(fields.get("skipPostProcessing"))
        read, zipurl = _text(fields.get("readS3Path")), _text(fields.get("zipurl"))
        return Submission(
            name=messages.task_name(_text(fields.get("name")), now),
            created_ms=messages.date_created(fields.get("dateCreated"), now),
            settings=self.settings(fields.get("options") or []),
            outputs=messages.outputs_from(fields.get("outputs")),
            webhook=_text(fields.get("webhook")) or None,
            skip_post_processing=skip,
            read=read or zipurl or None,
            write=_text(fields.get("writeS3Path")) or (zipurl_output(zipurl) if zipurl and not read else None),
            attempt=_count(fields.get("attempt")),
            tenant=_text(fields.get("tenant")),
            images_count=_count(fields.get("imagesCount")),
            input_bytes=_count(fields.get("inputBytes")),
        )


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _text(raw: object) -> str | None:
    return None if raw is None else str(raw)


def _count(raw: object) -> int:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0 else 0


def _slice_start(request: Request, name: str) -> str | None:
    """A slice parameter as JavaScript would see it: a repeated one is an array, which reads as NaN."""
    values = request.query_params.getlist(name)
    if not values:
        return None
    return values[0] if len(values) == 1 else "NaN"


def _asked_uuid(request: Request) -> str | None:
    asked = request.headers.get("set-uuid")
    if asked is not None and not messages.is_valid_uuid(asked):
        raise Refused(f"Invalid set-uuid: {asked}")
    return asked


async def _body(request: Request) -> Mapping[str, Any]:
    """The fields of a JSON or urlencoded body; any other kind of body has none (contract 2.13)."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type not in ("application/json", "application/x-www-form-urlencoded"):
        return {}
    raw = await _bounded(request)
    if content_type == "application/json":
        return _json_object(raw)
    return {name: values[0] for name, values in parse_qs(raw.decode("utf-8", "replace"), True).items()}


async def _bounded(request: Request) -> bytes:
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > BODY_LIMIT:
            raise Refused("request entity too large")
    return bytes(received)


def _json_object(raw: bytes) -> Mapping[str, Any]:
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
    except ValueError as wrong:
        raise Refused(f"The request body is not JSON: {wrong}. Send a JSON object such as {{}}.") from wrong
    if not isinstance(value, dict):
        raise Refused(f"The request body is JSON, but a {type(value).__name__} and not an object such as {{}}.")
    return value


Handler = Callable[[Request], Awaitable[Response]]
_READ = ["GET", "HEAD"]
_NO_AUTH = {
    "message": "Authentication not available on this node",
    "loginUrl": None,
    "registerUrl": None,
}


def nodeodm_routes(api: NodeOdmApi) -> APIRouter:
    """The routes of contract section 2."""
    routes = APIRouter(tags=["NodeODM"])
    table: list[tuple[str, list[str], Handler]] = [
        ("/info", _READ, api.info),
        ("/options", _READ, api.options),
        ("/task/list", _READ, api.tasks),
        ("/task/{uuid}/info", _READ, api.task_info),
        ("/task/{uuid}/output", _READ, api.output),
        ("/task/{uuid}/download/{asset}", _READ, api.download),
        ("/task/new/init", ["POST"], api.init),
        ("/task/new/upload/{uuid}", ["POST"], api.upload),
        ("/task/new/commit/{uuid}", ["POST"], api.commit),
        ("/task/new", ["POST"], api.new),
        ("/task/cancel", ["POST"], api.cancel),
        ("/task/remove", ["POST"], api.remove),
        ("/task/restart", ["POST"], api.restart),
        ("/", _READ, _front_page),
        ("/swagger.json", _READ, _swagger),
        ("/auth/info", _READ, _auth_info),
        ("/auth/login", ["POST"], _auth_unavailable),
        ("/auth/register", ["POST"], _auth_unavailable),
    ]
    for path, methods, handler in table:
        for method in methods:
            routes.add_api_route(
                path, handler, methods=[method], response_model=None, include_in_schema=method != "HEAD"
            )
    return routes


async def _front_page(request: Request) -> Response:
    """`GET /`: for a person who opens the address in a browser (contract 2.1)."""
    return HTMLResponse(pages.front_page(request.url.netloc))


async def _swagger(request: Request) -> Response:
    """`GET /swagger.json` (contract 2.2)."""
    del request
    return Json(pages.swagger(API_VERSION))


async def _auth_info(request: Request) -> Response:
    """`GET /auth/info` (contract 2.14)."""
    del request
    return Json(_NO_AUTH)


async def _auth_unavailable(request: Request) -> Response:
    """`POST /auth/login` and `/auth/register` (contract 2.14)."""
    del request
    return Json({"error": "Not available"})


def answer_refusals(app: FastAPI) -> None:
    """Every refusal is 200 with an error; an unknown path is NodeODM's 404 page (contract 1)."""

    async def refused(request: Request, problem: Exception) -> Response:
        del request
        assert isinstance(problem, Refused)
        return Json(problem.body())

    async def form_unreadable(request: Request, problem: Exception) -> Response:
        del request
        return Json({"error": str(problem)})

    async def unrouted(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        if problem.status_code not in (404, 405):
            return Json({"error": problem.detail}, problem.status_code)
        return HTMLResponse(pages.not_found_page(request.method, request.url.path), status_code=404)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(FormUnreadable, form_unreadable)
    app.add_exception_handler(HTTPException, unrouted)
