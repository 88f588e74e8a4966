"""How large a request may be that is read as a whole. Uploads are streams, and have limits of their own."""

from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _TooLarge(Exception):
    """More came than is read."""


class BodyLimit:
    """Wraps an application: a larger body below these paths is refused with 413 before it takes memory."""

    def __init__(self, app: ASGIApp, most_bytes: int, below: tuple[str, ...]) -> None:
        """`below`: how the paths begin."""
        self._app = app
        self._most_bytes = most_bytes
        self._below = below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes."""
        if scope["type"] != "http" or not scope["path"].startswith(self._below):
            await self._app(scope, receive, send)
            return
        came = 0
        refused = False

        async def counted() -> Message:
            nonlocal came, refused
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._most_bytes:
                refused = True
                raise _TooLarge
            return message

        async def unless_refused(message: Message) -> None:
            # What the application makes of our exception is not the answer.
            if not refused:
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except _TooLarge:
            refused = True
        if refused:
            problem = f"The request is larger than {self._most_bytes} bytes, which is the most that is read here."
            answer = JSONResponse({"error": problem}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            await answer(scope, receive, send)
