"""Who may come in, and by which requests: signing in and out, and whether a request was made by our own pages."""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from common.tokens import Caller, Gate, Kind, hashed
from router.dashboard.pages import Pages
from router.dashboard.sessions import Sessions
from router.dashboard.tries import Tries
from router.dashboard.words import counted
from router.events import EventLog

HOME = "/dashboard"
LOGIN = "/dashboard/login"
Guests = Callable[[Request], Awaitable[Caller | None]]
_MOST_TOKEN = 4096


async def no_guests(request: Request) -> Caller | None:
    """Nobody comes in without a session."""
    del request
    return None


class Door:
    """Lets administrators in."""

    def __init__(
        self, gate: Gate, sessions: Sessions, tries: Tries, events: EventLog, pages: Pages, guests: Guests = no_guests
    ) -> None:
        """`guests`: whoever is known by other means than a session, such as a tailnet's login."""
        self._gate = gate
        self._sessions = sessions
        self._tries = tries
        self._events = events
        self._pages = pages
        self._guests = guests

    async def identity_of(self, request: Request) -> Caller | None:
        """The administrator who makes this request; None for anybody else. Everything else asks here."""
        by_session = self._sessions.caller(request.cookies.get(self._sessions.cookie), time.time())
        return by_session or await self._guests(request) or _anybody(self._gate)

    def has_session(self, request: Request) -> bool:
        """Whether there is something to sign out of."""
        return self._sessions.caller(request.cookies.get(self._sessions.cookie), time.time()) is not None

    async def login_page(self, request: Request) -> Response:
        """`GET /dashboard/login`."""
        if await self.identity_of(request) is not None:
            return RedirectResponse(HOME, HTTPStatus.SEE_OTHER)
        return self._login("")

    async def login(self, request: Request) -> Response:
        """`POST /dashboard/login`: a token for a session."""
        if not is_own(request):
            return self._login("The sign-in did not come from this page. Try again here.", HTTPStatus.FORBIDDEN)
        address = address_of(request)
        wait_s = self._tries.wait_s(address, time.monotonic())
        if wait_s > 0:
            problem = (
                f"Too many wrong tokens came from your address. Try again in {counted(int(wait_s) + 1, 'second')}."
            )
            return self._login(problem, HTTPStatus.TOO_MANY_REQUESTS, {"retry-after": str(int(wait_s) + 1)})
        async with request.form(max_files=0, max_fields=2, max_part_size=_MOST_TOKEN) as form:
            token = str(form.get("token", "")).strip()
        caller = self._gate.caller(token) if token else None
        if caller is None or caller.kind is not Kind.ADMIN:
            return await self._refused(address, caller)
        await self._events.signed_in(caller, address)
        answer = RedirectResponse(HOME, HTTPStatus.SEE_OTHER)
        self._give(answer, request, self._sessions.begin(hashed(token), time.time()))
        return answer

    async def logout(self, request: Request) -> Response:
        """`POST /dashboard/logout`."""
        answer = RedirectResponse(LOGIN, HTTPStatus.SEE_OTHER)
        if is_own(request):
            answer.delete_cookie(self._sessions.cookie, path=HOME)
        return answer

    async def _refused(self, address: str, caller: Caller | None) -> Response:
        self._tries.failed(address, time.monotonic())
        if caller is None:
            why = "This token does not open the dashboard. Check it, and try again."
        else:
            why = f"This is a {caller.kind} token. The dashboard is opened by one of kind admin."
        await self._events.refused(address, "an unknown token" if caller is None else f"a {caller.kind} token")
        return self._login(why, HTTPStatus.UNAUTHORIZED)

    def _login(self, problem: str, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
        return self._pages.answer("login.html", {"problem": problem}, status, headers)

    def _give(self, answer: Response, request: Request, session: str) -> None:
        answer.set_cookie(
            self._sessions.cookie,
            session,
            max_age=int(self._sessions.lasts.total_seconds()),
            path=HOME,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def _anybody(gate: Gate) -> Caller | None:
    """Whom the gate lets in without a token: nobody, unless authentication is switched off."""
    caller = gate.caller(None)
    return caller if caller is not None and caller.kind is Kind.ADMIN else None


def is_own(request: Request) -> bool:
    """Whether one of our own pages made this request, by what browsers say of it and no page can change.

    `Sec-Fetch-Site` holds behind a proxy too, which may give us another host name than the browser knows. It is left
    out where the page came over plain http from another machine; then the two names are compared.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and origin.partition("://")[2] == request.headers.get("host")


def address_of(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client is not None else "an unknown address"
