"""Who may call what, for the routes beside the NodeODM API. These answer with real status codes."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import HTTPException, Request, status
from pydantic import StringConstraints

from common.nodeodm.description import Error
from common.recognition import NOBODY, recognised
from common.tokens import Caller, Gate, Kind

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Text that a database takes and that a line of a log can show."""
_PAGE = {"text/html": {"schema": {"type": "string"}}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "What was asked for cannot be", "model": Error},
    401: {"description": "No known token came with the request", "model": Error},
    403: {"description": "The token is of another kind", "model": Error},
    404: {"description": "What the path names is not there, or it leads nowhere", "model": Error, "content": _PAGE},
    409: {"description": "It stands against what is there", "model": Error},
    413: {"description": "The request is too large", "model": Error},
    422: {"description": "The request cannot be read", "model": Error},
    503: {"description": "Something that is needed does not answer", "model": Error},
}
"""What routes beside the NodeODM API answer when it is not 200, for their description."""


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of these statuses, as FastAPI takes it; a wrong token is always among them."""
    return {status: ANSWERS[status] for status in (401, 403, *statuses)}


def clean(text: str) -> str:
    """Postgres knows no NUL in a text, and so nothing that has one."""
    return text.replace("\x00", "")


@dataclass(frozen=True, slots=True)
class Guard:
    """Finds the caller of a request, or refuses it."""

    gate: Gate

    def token(self, request: Request) -> str | None:
        """The token that came with a request."""
        bearer = request.headers.get("authorization", "")
        return bearer[7:].strip() if bearer[:7].lower() == "bearer " else request.query_params.get("token")

    def caller(self, request: Request, *kinds: Kind) -> Caller:
        """The caller, if it is of one of these kinds. An administrator may do everything."""
        token = self.token(request)
        known = recognised(request.scope) if token is None else NOBODY
        caller = known.one_of(*kinds, Kind.ADMIN) or self.gate.caller(token) or next(iter(known.callers), None)
        if caller is None:
            advice = "Send one as `Authorization: Bearer …`."
            told = f"No known token came with this request. {known.why_not or advice}"
            raise HTTPException(status.HTTP_401_UNAUTHORIZED, told)
        if caller.kind not in (*kinds, Kind.ADMIN):
            wanted = " or ".join([*kinds, Kind.ADMIN])
            told = f"This is a {caller.kind} token; here a token of kind {wanted} is needed."
            if caller.tailnet:
                told = f"The tailnet's {caller.name} has the right {caller.kind} here; {wanted} is needed."
            raise HTTPException(status.HTTP_403_FORBIDDEN, told)
        return caller
