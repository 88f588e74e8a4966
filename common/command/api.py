"""A router or a node seen from a command: requests that either give what was asked for, or raise `Trouble`."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from common.command.endings import Exit, Trouble
from common.command.place import Place
from common.reaching import causes, why_unreachable
from common.tokens import TOKEN_REFUSED

R = TypeVar("R")
ATTEMPTS = 5
"""A router drops connections rather than answer what it cannot: what is safe to repeat is repeated so often."""
_PAGE = 1000
"""A router gives no more of a list at once."""
_NOT_FOUND = " not found"
_PATIENCE = httpx.Timeout(60, connect=10)
_CODES = {
    HTTPStatus.UNAUTHORIZED: Exit.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: Exit.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: Exit.MISSING,
    HTTPStatus.UNPROCESSABLE_ENTITY: Exit.USAGE,
}


class NoSuchRequest(Trouble):
    """Whatever answers there has no such request: a node, or a router of an older release."""


class Api:
    """One address."""

    def __init__(self, place: Place, proxy: str | None = None) -> None:
        """Nothing is asked yet. The token goes in a header, where no log and no error text shows it."""
        self.place = place
        headers = {"Authorization": f"Bearer {place.token}"} if place.token else {}
        self.http = httpx.Client(timeout=_PATIENCE, headers=headers, proxy=proxy)

    def get(self, path: str, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """The JSON of a GET; repeated when its connection breaks."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return self.repeated(lambda: self.ask("GET", path, params=wanted))

    def pages(self, path: str, what: str, limit: int, **wanted: object) -> list[dict[str, Any]]:
        """The first `limit` of a list that comes page by page, which the answers hold under the name `what`."""
        found: list[dict[str, Any]] = []
        after = None
        while len(found) < limit:
            page = self.get(path, limit=min(_PAGE, limit - len(found)), after=after, **wanted)
            found += page[what]
            after = page["next"]
            if after is None:
                break
        return found

    def ask(self, method: str, path: str, **content: Any) -> Any:  # noqa: ANN401 - JSON
        """The JSON of one request."""
        with told(self.place):
            return read(self.http.request(method, self.place.url + path, **content), f"{method} {path}", self.place)

    def repeated(self, request: Callable[[], R]) -> R:
        """The same request again while connections break. That nobody listens is told at once."""
        for attempt in Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=0.3, max=5),
            retry=retry_if_exception_type(ConnectionBroken),
            reraise=True,
        ):
            with attempt:
                return request()
        raise AssertionError("tenacity gives up by raising")

    def act(self, path: str, fields: Mapping[str, Any]) -> None:
        """Cancel, remove, restart."""
        self.ask("POST", path, json=dict(fields))

    def info(self, uuid: str, with_output: int | None = None) -> dict[str, Any]:
        """`/task/{uuid}/info`."""
        found: dict[str, Any] = self.get(f"/task/{uuid}/info", with_output=with_output)
        return found

    def close(self) -> None:
        """Give the connections back."""
        self.http.close()


class ConnectionBroken(Trouble):
    """The connection broke: it may go well the next time."""


@contextmanager
def told(place: Place) -> Iterator[None]:
    """What goes wrong on the way, in words."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as trouble:
        if any(isinstance(each, ssl.SSLError) for each in causes(trouble)):
            raise Trouble(Exit.UNREACHABLE, why_unreachable(place.url, trouble)) from None
        raise Trouble(
            Exit.UNREACHABLE,
            f"Nobody answers at {place.url} (from {place.origin}): {why(trouble)}. Is it running, and is this its "
            "address?",
        ) from None
    except httpx.TransportError as trouble:
        raise ConnectionBroken(
            Exit.UNREACHABLE, f"The connection to {place.url} broke: {why(trouble)}. Try again."
        ) from None
    except httpx.InvalidURL:
        raise Trouble(Exit.USAGE, f"{place.url!r} is no address; expected such as http://router:3000.") from None


def why(trouble: Exception) -> str:
    """What the network said, without the library's own words around it."""
    text = str(trouble) or type(trouble).__name__
    return text.partition("] ")[2].lower() or text.rstrip(".")


def read(answer: httpx.Response, request: str, place: Place) -> Any:  # noqa: ANN401 - whatever JSON there is
    """The JSON of an answer. Raises `Trouble` for what is none, and for every refusal."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    refusal = _refusal(document)
    status = answer.status_code
    if status == HTTPStatus.OK and document is not None and refusal is None:
        return document
    if refusal is None:
        raise _stranger(status, request, place)
    if status == HTTPStatus.OK:
        raise Trouble(_code_of(refusal), _advised(refusal, place))
    raise Trouble(_CODES.get(HTTPStatus(status), Exit.FAILED), _advised(refusal, place))


def _stranger(status: int, request: str, place: Place) -> Trouble:
    if status == HTTPStatus.NOT_FOUND:
        return NoSuchRequest(
            Exit.UNREACHABLE,
            f"{place.url} does not know {request}: it is a node, a router of an older release, or something else. "
            "This command needs a router.",
        )
    return Trouble(Exit.UNREACHABLE, f"{place.url} answered {request} with status {status} and nothing readable.")


def _refusal(document: object) -> str | None:
    if not isinstance(document, dict):
        return None
    if "error" in document:
        return str(document["error"])
    detail = document.get("detail")
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail)
    return None if detail is None else str(detail)


def _code_of(refusal: str) -> Exit:
    """NodeODM answers everything with 200: what it means stands in the text (contract 1.1)."""
    if refusal == TOKEN_REFUSED:
        return Exit.NOT_ALLOWED
    return Exit.MISSING if refusal.endswith(_NOT_FOUND) else Exit.FAILED


def _advised(refusal: str, place: Place) -> str:
    if refusal.endswith(_NOT_FOUND):
        return f"There is no task {refusal.removesuffix(_NOT_FOUND)} at {place.url}. `scaleodm tasks` lists them."
    if "tailnet" in refusal:
        return refusal
    if "token" not in refusal.lower() or ("No known token" not in refusal and refusal != TOKEN_REFUSED):
        return refusal
    if place.token is None:
        return f"{place.url} wants a token. Set SCALEODM_TOKEN, or run `scaleodm login {place.url}`."
    return f"{place.url} does not know this token (address from {place.origin}). Ask its administrator for one."


def patiently(look: Callable[[], R], tell: Callable[[str], None], within_s: float = 600) -> R:
    """Look again while nobody answers: what is followed goes on without us."""
    deadline: float | None = None
    while True:
        try:
            return look()
        except Trouble as trouble:
            now = time.monotonic()
            deadline = deadline or now + within_s
            if trouble.code is not Exit.UNREACHABLE or isinstance(trouble, NoSuchRequest) or now > deadline:
                raise
            tell(f"{trouble} Trying again for {deadline - now:.0f} s …")
            time.sleep(min(5, max(0.1, deadline - now)))
