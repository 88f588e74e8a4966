"""Who may call what, for the routes beside the NodeODM API. These answer with real status codes."""

from dataclasses import dataclass

from fastapi import HTTPException, Request, status

from common.tokens import Caller, Gate, Kind


@dataclass(frozen=True, slots=True)
class Guard:
    """Finds the caller of a request, or refuses it."""

    gate: Gate

    def caller(self, request: Request, *kinds: Kind) -> Caller:
        """The caller, if it is of one of these kinds. An administrator may do everything."""
        bearer = request.headers.get("authorization", "")
        token = bearer[7:].strip() if bearer[:7].lower() == "bearer " else request.query_params.get("token")
        caller = self.gate.caller(token)
        if caller is None:
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "No known token came with this request. Send one as `Authorization: Bearer …`.",
            )
        if caller.kind not in (*kinds, Kind.ADMIN):
            wanted = " or ".join([*kinds, Kind.ADMIN])
            raise HTTPException(
                status.HTTP_403_FORBIDDEN,
                f"This is a {caller.kind} token; here a token of kind {wanted} is needed.",
            )
        return caller
