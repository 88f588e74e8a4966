"""The NodeODM API as FastAPI routes over one protocol (contract 2). Node and router answer with the same code.

The handlers read requests by hand where NodeODM's habits differ from a framework's: errors are 200, a body may
be a form or JSON under the same route, odd values are not errors.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import orjson
from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from common.counting import REFUSED
from common.nodeodm import messages, pages
from common.nodeodm.assets import Assets, additional_limit
from common.nodeodm.description import described
from common.nodeodm.direct import LINK_S, MOST_BODY_BYTES, DirectUploads, names_of, wanted_files
from common.nodeodm.front import FrontPage
from common.nodeodm.intake import is_web_link
from common.nodeodm.json_text import cleaned, read_json
from common.nodeodm.options import OptionsInvalid, OptionsUnreadable, Setting, parse_options
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import OpenUpload, Submission, TaskSurface
from common.nodeodm.swagger import TAG, swagger
from common.nodeodm.uploads import FileReceiver, FormUnreadable, StagedFile, read_form
from common.recognition import NOBODY, recognised
from common.references import located, zipurl_output
from common.storage import Storage, StorageRefused
from common.tokens import TOKEN_REFUSED, Caller, Gate, Kind, token_in

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
    direct: DirectUploads
    assets: Assets = field(init=False)
    files: list[int] = field(default_factory=lambda: [0])
    """How many files have come whole."""

    def __post_init__(self) -> None:
        """Products lie in the same S3."""
        object.__setattr__(self, "assets", Assets(self.storage))

    def caller(self, request: Request) -> Caller:
        """Who calls, or `Refused`."""
        tokens = request.query_params.getlist("token")
        if not tokens and (token := token_in(request.headers.get("authorization", ""))) is not None:
            tokens = [token]
        known = NOBODY if tokens else recognised(request.scope)
        caller = known.one_of(Kind.USER, Kind.ADMIN) or self.gate.caller(tokens[0] if len(tokens) == 1 else None)
        if caller is None or not caller.may_use_tasks():
            raise Refused(TOKEN_REFUSED)
        return caller

    async def info(self, request: Request) -> Response:
        """`GET /info`."""
        self.caller(request)
        if request.query_params.get("_debugUnauthorized"):
            return Response(status_code=401)
        return Json(self.surface.node_info())

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
        found = await self.assets.find(task, request.path_params["asset"])
        head = request.method == "HEAD"
        url = await self.storage.run(self.storage.presigned_get, found, DOWNLOAD_LINK_S, found.name, head)
        return RedirectResponse(url, status_code=302, headers={"cache-control": "no-store"})

    async def task_assets(self, request: Request) -> Response:
        """`GET /task/{uuid}/assets`: what can be downloaded, as ScaleODM tells it."""
        task = await self.surface.task(self.caller(request), request.path_params["uuid"])
        query = request.query_params
        most = additional_limit(query.get("includeAdditional"), query.get("additionalLimit"))
        return Json(await self.assets.listing(task, most))

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
        opened = await self.surface.upload(caller, uuid, from_memory=True)
        received = 0

        async def receive(name: str) -> FileReceiver:
            nonlocal received
            received += 1
            return StagedFile(name, opened.inbox, self.storage, opened.prefix)

        await read_form(request.stream(), request.headers.get("content-type", ""), receive)
        self.files[0] += received
        if not received:
            raise Refused("Need at least 1 file.", no_retry=True)
        return Json({"success": True})

    async def commit(self, request: Request) -> Response:
        """`POST /task/new/commit/{uuid}`: counts what lies in staging, however it came there."""
        caller, uuid = self.caller(request), request.path_params["uuid"]
        try:
            opened = await self.surface.upload(caller, uuid)
        except Refused:  # no upload, or one that was committed before
            return Json({"uuid": await self.surface.commit(caller, uuid)})
        announced = await self.direct.settle(opened)
        uuid = await self.surface.commit(caller, uuid)
        if announced:
            await self.direct.forget(opened)
        return Json({"uuid": uuid})

    async def presign(self, request: Request) -> Response:
        """`POST /task/new/presign/{uuid}`: links by which files are sent straight to S3."""
        caller, opened, fields = await self._about_announced(request)
        most = (caller.limits.images, self.surface.node_info()["maxImages"])
        most_images = min((each for each in most if isinstance(each, int)), default=None)
        files = await self.direct.announce(opened, wanted_files(fields), most_images)
        return Json({"files": files, "expiresInSeconds": LINK_S})

    async def complete(self, request: Request) -> Response:
        """`POST /task/new/complete/{uuid}`: files whose parts have all been sent become whole."""
        _, opened, fields = await self._about_announced(request)
        return Json({"files": await self.direct.complete(opened, names_of(fields))})

    async def withdraw(self, request: Request) -> Response:
        """`POST /task/new/withdraw/{uuid}`: announced files that will not be sent after all."""
        _, opened, fields = await self._about_announced(request)
        await self.direct.withdraw(opened, names_of(fields))
        return Json({"success": True})

    async def _about_announced(self, request: Request) -> tuple[Caller, OpenUpload, Mapping[str, Any]]:
        caller = self.caller(request)
        fields = _json_object(await _bounded(request, MOST_BODY_BYTES))
        return caller, await self.surface.upload(caller, request.path_params["uuid"]), fields

    async def new(self, request: Request) -> Response:
        """`POST /task/new`: files and fields in one multipart request, or S3 references as JSON or form."""
        caller = self.caller(request)
        uuid = _asked_uuid(request)
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return Json({"uuid": await self._new_from_form(request, caller, uuid or str(uuid4()))})
        fields = await _body(request)
        traceparent = request.headers.get("traceparent", "")
        return Json({"uuid": await self._submit(caller, uuid, fields, traceparent)})

    async def _new_from_form(self, request: Request, caller: Caller, uuid: str) -> str:
        opened, received = None, 0

        async def receive(name: str) -> FileReceiver:
            nonlocal opened, received
            received += 1
            if opened is None:
                await self.surface.open_upload(caller, uuid, self.submission({}))
                opened = await self.surface.upload(caller, uuid)
            return StagedFile(name, opened.inbox, self.storage, opened.prefix)

        try:
            fields = await read_form(request.stream(), request.headers["content-type"], receive)
            self.files[0] += received
            if opened is None:
                return await self._submit(caller, uuid, fields)
            await self.surface.open_upload(caller, uuid, self.submission(fields))
            return await self.surface.commit(caller, uuid)
        except BaseException:
            if opened is not None:
                await self.surface.discard_upload(caller, uuid)
            raise

    async def _submit(self, caller: Caller, uuid: str | None, fields: Mapping[str, Any], traceparent: str = "") -> str:
        submission = self.submission(fields)
        if submission.read is None:
            raise Refused("Need at least 1 file or a zip file url.")
        return await self.surface.submit(caller, uuid, replace(submission, traceparent=traceparent))

    async def cancel(self, request: Request) -> Response:
        """`POST /task/cancel`."""
        caller, uuid, _ = await self._named_task(request)
        await self.surface.cancel(caller, uuid)
        return Json({"success": True})

    async def remove(self, request: Request) -> Response:
        """`POST /task/remove`."""
        caller, uuid, fields = await self._named_task(request)
        await self.surface.remove(caller, uuid, messages.is_true(fields.get("deleteOutput")))
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

    def _places(self, fields: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
        """Input and output as the request names them, in the S3 that it names."""
        named = [_text(fields.get(name)) for name in ("readS3Path", "zipurl", "writeS3Path")]
        if is_web_link(named[0]):
            # Without the address itself: it may be signed.
            raise Refused("readS3Path is a web address; expected s3://bucket/folder/. For an archive there use zipurl.")
        endpoint = _text(fields.get("s3Endpoint"))
        if endpoint:
            try:
                known = self.storage.endpoint_named(endpoint)
            except StorageRefused as refused:
                raise Refused(str(refused)) from refused
            named = [None if each is None else located(each, known) for each in named]
        read, zipurl, write = named
        return read, zipurl, write

    def submission(self, fields: Mapping[str, Any]) -> Submission:
        """The fields of init, or of a whole task, read as NodeODM reads them."""
        fields = cleaned(dict(fields))
        now = now_ms()
        skip = messages.is_true(fields.get("skipPostProcessing"))
        try:
            wishes = messages.wishes_from(fields)
        except messages.WishUnreadable as wrong:
            raise Refused(str(wrong)) from wrong
        read, zipurl, write = self._places(fields)
        return Submission(
            name=messages.task_name(_text(fields.get("name")), now),
            created_ms=messages.date_created(fields.get("dateCreated"), now),
            settings=self.settings(fields.get("options") or []),
            outputs=messages.outputs_from(fields.get("outputs")),
            webhook=_text(fields.get("webhook")) or None,
            skip_post_processing=skip,
            read=read or zipurl or None,
            write=write or (_beside(zipurl) if zipurl and not read else None),
            wishes=wishes,
            attempt=_count(fields.get("attempt")),
            tenant=_text(fields.get("tenant")),
            images_count=_count(fields.get("imagesCount")),
            input_bytes=_count(fields.get("inputBytes")),
            first_attempt=_count(fields.get("firstAttempt")) or 1,
            memory_factor=_factor(fields.get("memoryFactor")),
            cluster=_text(fields.get("cluster")),
        )


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _text(raw: object) -> str | None:
    return None if raw is None else str(raw)


def _beside(zipurl: str) -> str | None:
    """Where products go without `writeS3Path`; those of an input outside of S3 go to staging."""
    return None if is_web_link(zipurl) else zipurl_output(zipurl)


def _count(raw: object) -> int:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0 else 0


def _factor(raw: object) -> float:
    return float(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) and 1 <= raw <= 100 else 1.0


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
    given = parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True)
    return {cleaned(name): cleaned(values[0]) for name, values in given.items()}


async def _bounded(request: Request, most_bytes: int = BODY_LIMIT) -> bytes:
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > most_bytes:
            raise Refused("request entity too large")
    return bytes(received)


def _json_object(raw: bytes) -> Mapping[str, Any]:
    if not raw.strip():
        return {}
    try:
        value = read_json(raw)
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
    routes = APIRouter(tags=[TAG])
    front = FrontPage()
    table: list[tuple[str, list[str], Handler]] = [
        ("/info", _READ, api.info),
        ("/options", _READ, api.options),
        ("/task/list", _READ, api.tasks),
        ("/task/{uuid}/info", _READ, api.task_info),
        ("/task/{uuid}/output", _READ, api.output),
        ("/task/{uuid}/assets", _READ, api.task_assets),
        ("/task/{uuid}/download/{asset:path}", _READ, api.download),
        ("/task/new/init", ["POST"], api.init),
        ("/task/new/upload/{uuid}", ["POST"], api.upload),
        ("/task/new/commit/{uuid}", ["POST"], api.commit),
        ("/task/new/presign/{uuid}", ["POST"], api.presign),
        ("/task/new/complete/{uuid}", ["POST"], api.complete),
        ("/task/new/withdraw/{uuid}", ["POST"], api.withdraw),
        ("/task/new", ["POST"], api.new),
        ("/task/cancel", ["POST"], api.cancel),
        ("/task/remove", ["POST"], api.remove),
        ("/task/restart", ["POST"], api.restart),
        ("/auth/info", _READ, _auth_info),
        ("/auth/login", ["POST"], _auth_unavailable),
        ("/auth/register", ["POST"], _auth_unavailable),
    ]
    for path, methods, handler in table:
        for method in methods:
            routes.add_api_route(
                path,
                handler,
                methods=[method],
                response_model=None,
                include_in_schema=method != "HEAD",
                **described(path),
            )
    beside: list[tuple[str, Handler]] = [
        ("/", front.page),
        ("/page/{name}", front.file),
        ("/swagger.json", _swagger),
    ]
    for path, handler in beside:
        routes.add_api_route(path, handler, methods=_READ, response_model=None, include_in_schema=False)
    return routes


async def _swagger(request: Request) -> Response:
    """`GET /swagger.json` (contract 2.2)."""
    return Json(swagger(request.app.openapi(), API_VERSION))


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
        request.scope[REFUSED] = True
        assert isinstance(problem, Refused)
        return Json(problem.body())

    async def form_unreadable(request: Request, problem: Exception) -> Response:
        request.scope[REFUSED] = True
        return Json({"error": str(problem)})

    async def unrouted(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        if problem.detail != HTTPStatus(problem.status_code).phrase or problem.status_code not in (404, 405):
            # One of our own, which says what is not there; not the framework's for a path that nobody has.
            return Json({"error": problem.detail}, problem.status_code)
        return HTMLResponse(pages.not_found_page(request.method, request.url.path), status_code=404)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(FormUnreadable, form_unreadable)
    app.add_exception_handler(HTTPException, unrouted)
