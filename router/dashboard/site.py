"""The dashboard as one application beside the API: its routes, and what holds for every request."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from common.bodies import BodyLimit
from common.nodeodm.assets import Assets
from common.nodeodm.front import FrontPage
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import DOWNLOAD_LINK_S
from common.storage import Storage
from common.tokens import Caller
from router.access import Access
from router.browsing import TaskDesk
from router.dashboard.actions import Act, Actions, answer, refusal
from router.dashboard.door import HOME, LOGIN, Door, Guests, is_own, no_guests
from router.dashboard.fleet import Fleet
from router.dashboard.live import Gone, Pulse, Watch
from router.dashboard.pages import HEADERS, Pages
from router.dashboard.pictures import NoPicture, Pictures
from router.dashboard.sessions import Sessions
from router.dashboard.tries import Tries
from router.dashboard.views.events import EventsView
from router.dashboard.views.nodes import NodesView, NodeView
from router.dashboard.views.overview import OverviewView
from router.dashboard.views.task import Products, TaskView, downloads
from router.dashboard.views.tasks import TasksView
from router.dashboard.views.tenants import TenantsView
from router.dashboard.views.view import View
from router.database import Database
from router.events import EventLog
from router.federated import FederatedTasks
from router.nodes import Nodes
from router.overview import Overviews
from router.queue import Queue
from router.snapshot import Snapshot
from router.tenants import Tenants
from router.timeline import Timelines
from router.usability import Examiner
from router.visits import Visitor

MOST_BODY_BYTES = 64 * 1024
"""Of a form."""
_EVENT_STREAM = "text/event-stream"
Answering = Callable[[Request, Caller], Awaitable[Response]]


class Dashboard:
    """Everything below `/dashboard`."""

    def __init__(
        self,
        *,
        secret_key: str,
        session_lasts: timedelta,
        pulse: Pulse,
        access: Access,
        database: Database,
        snapshot: Snapshot,
        storage: Storage,
        queue: Queue,
        nodes: Nodes,
        visitor: Visitor,
        tasks: FederatedTasks,
        desk: TaskDesk,
        events: EventLog,
        overviews: Overviews,
        tenants: Tenants,
        timelines: Timelines,
        outages: tuple[type[Exception], ...],
        guests: Guests = no_guests,
    ) -> None:
        """What the router's API is made of; `outages`: what its parts raise while something is away."""
        self._pulse = pulse
        self._outages = outages
        self._storage = storage
        self._tasks = tasks
        self._assets = Assets(storage)
        self._products = Products(self._assets)
        self._pictures = Pictures(storage, self._assets)
        self._pages = Pages()
        self._actions = Actions(nodes, Examiner(nodes, visitor), tasks, desk, access)
        sessions = Sessions(secret_key, access.holder, session_lasts)
        self._door = Door(access.gate, sessions, Tries(), events, self._pages, guests)
        fleet = Fleet(nodes, database, snapshot, queue, pulse)
        self._views: dict[str, View] = {
            HOME: OverviewView(self._pages, overviews),
            f"{HOME}/nodes": NodesView(self._pages, fleet),
            f"{HOME}/nodes/{{name}}": NodeView(self._pages, fleet, events),
            f"{HOME}/tasks": TasksView(self._pages, desk),
            f"{HOME}/tasks/{{uuid}}": TaskView(self._pages, tasks, timelines, self._products),
            f"{HOME}/tenants": TenantsView(self._pages, tenants, access.documents, pulse),
            f"{HOME}/events": EventsView(self._pages, events),
        }
        self.app: ASGIApp = BodyLimit(self._application(), MOST_BODY_BYTES, (HOME,))

    def _application(self) -> Starlette:
        read, write = ["GET"], ["POST"]
        files = FrontPage(Path(__file__).with_name("files"))
        views = [Route(path, self._guarded(self._showing(view)), methods=read) for path, view in self._views.items()]
        routes: Sequence[Route] = [
            Route(LOGIN, self._door.login_page, methods=read),
            Route(LOGIN, self._door.login, methods=write),
            Route(f"{HOME}/logout", self._door.logout, methods=write),
            Route(f"{HOME}/files/{{name}}", files.file, methods=read),
            *views,
            Route(f"{HOME}/tasks/{{uuid}}/preview", self._guarded(self._preview), methods=read),
            Route(f"{HOME}/tasks/{{uuid}}/download/{{asset:path}}", self._guarded(self._download), methods=read),
            Route(f"{HOME}/nodes/{{name}}/{{action}}", self._acting(self._actions.node), methods=write),
            Route(f"{HOME}/tasks/{{uuid}}/{{action}}", self._acting(self._actions.task), methods=write),
            Route(f"{HOME}/tokens", self._acting(self._actions.make_token), methods=write),
            Route(f"{HOME}/tokens/{{name}}/revoke", self._acting(self._actions.revoke_token), methods=write),
        ]
        troubles: dict[Any, Any] = {
            HTTPException: self._unrouted,
            Exception: self._broken,
            **dict.fromkeys(self._outages, self._away),
        }
        return Starlette(routes=routes, exception_handlers=troubles)

    def _guarded(self, answering: Answering) -> Callable[[Request], Awaitable[Response]]:
        """For administrators; anybody else is asked to sign in."""

        async def guarded(request: Request) -> Response:
            caller = await self._door.identity_of(request)
            if caller is None:
                return RedirectResponse(LOGIN, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})
            request.state.caller = caller
            return await answering(request, caller)

        return guarded

    def _acting(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        """For requests of our own pages, by administrators."""

        async def acting(request: Request) -> Response:
            if not is_own(request):
                return refusal("This request did not come from the dashboard's own pages.", HTTPStatus.FORBIDDEN)
            caller = await self._door.identity_of(request)
            if caller is None:
                return refusal("Your session is over. Sign in again.", HTTPStatus.UNAUTHORIZED)
            return await answer(act, request, caller)

        return acting

    def _showing(self, view: View) -> Answering:
        """A page, or, asked for as such, the stream of what changes on it."""

        async def showing(request: Request, caller: Caller) -> Response:
            if _EVENT_STREAM in request.headers.get("accept", ""):
                return self._stream(view, request)
            try:
                screen = await view.screen(request)
            except Gone as gone:
                return self._told("Not found", str(gone), HTTPStatus.NOT_FOUND)
            frame = {"screen": screen, "section": view.section, "caller": caller, **view.frame(request)}
            frame["may_sign_out"] = self._door.has_session(request)
            return self._pages.answer(view.template, frame, headers={"vary": "accept, cookie"})

        return showing

    def _stream(self, view: View, request: Request) -> Response:
        async def may_look() -> bool:
            return await self._door.identity_of(request) is not None

        watch = Watch(lambda: view.screen(request), may_look, self._pulse, self._outages)
        headers = {**HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(watch.stream(), media_type=_EVENT_STREAM, headers=headers)

    async def _download(self, request: Request, caller: Caller) -> Response:
        """Sends the browser to S3, with a URL made for this very request."""
        try:
            task = await self._tasks.task(caller, request.path_params["uuid"])
            found = await self._assets.find(task, request.path_params["asset"])
        except Refused as refused:
            return self._told("Not found", str(refused), HTTPStatus.NOT_FOUND)
        url = await self._storage.run(self._storage.presigned_get, found, DOWNLOAD_LINK_S, found.name)
        return RedirectResponse(url, HTTPStatus.FOUND, {"cache-control": "no-store", "referrer-policy": "no-referrer"})

    async def _preview(self, request: Request, caller: Caller) -> Response:
        """A small picture of the orthophoto."""
        try:
            task = await self._tasks.task(caller, request.path_params["uuid"])
            picture = await self._pictures.of(task, downloads(await self._products.of(task)))
        except (Refused, NoPicture) as none:
            return refusal(str(none), HTTPStatus.NOT_FOUND)
        return Response(picture, media_type="image/webp", headers={**HEADERS, "cache-control": "private, max-age=600"})

    async def _unrouted(self, request: Request, problem: Exception) -> Response:
        del request
        assert isinstance(problem, HTTPException)
        status = problem.status_code
        text = "There is no such page." if status == HTTPStatus.NOT_FOUND else str(problem.detail)
        return self._told(HTTPStatus(status).phrase, text, status)

    async def _away(self, request: Request, problem: Exception) -> Response:
        """Something is away: a person is told so, and the page tries again by itself."""
        del problem
        text = "The database or S3 does not answer. This page tries again by itself."
        if request.method == "POST":
            return refusal("The database or S3 does not answer. Try again in a while.", HTTPStatus.SERVICE_UNAVAILABLE)
        return self._told(
            "Not available now", text, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "5", "refresh": "5"}
        )

    async def _broken(self, request: Request, problem: Exception) -> Response:
        """A fault of our own: its traceback goes to the log."""
        del problem
        text = "The router made a mistake; its log tells which. Tell whoever runs it."
        if request.method == "POST":
            return refusal(text, HTTPStatus.INTERNAL_SERVER_ERROR)
        return self._told("Something went wrong", text, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _told(self, title: str, text: str, status: int, headers: dict[str, str] | None = None) -> Response:
        return self._pages.answer("message.html", {"title": title, "text": text}, status, headers)


class Beside:
    """Two applications on one address: what is below a path, and everything else."""

    def __init__(self, below: str, inner: ASGIApp, other: ASGIApp) -> None:
        """`inner` answers `below` and all beneath it."""
        self._below = below
        self._beneath = below + "/"
        self._inner = inner
        self._other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request over."""
        path: str = scope.get("path", "")
        if path != self._below and not path.startswith(self._beneath):
            await self._other(scope, receive, send)
            return
        # No name has a NUL, and no database takes one: it is not found.
        await self._inner({**scope, "path": path.replace("\0", "\ufffd")}, receive, send)
