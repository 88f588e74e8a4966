"""A receiver of webhooks: a real HTTP server on 127.0.0.1 that answers well, badly or never, as tests tell it."""

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.embedded.children import free_port

HANG = "hang"
CLOSE = "close"
ENDLESS = "endless"
ENDLESS_HEADERS = "endless headers"


@dataclass(frozen=True, slots=True)
class Called:
    """One call that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def delivery(self) -> str:
        """What it names itself."""
        return self.headers["X-ScaleODM-Delivery"]


class Receiver:
    """It can be away and come back, on the same port."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """It is away."""
        self.port = free_port()
        self.calls: list[Called] = []
        self.answers: list[int | str] = []
        """What the next calls get, a status or a kind of trouble; when there is none left, 200."""
        self.always: dict[str, int | str] = {}
        """What calls of one path get, whatever else is told."""
        self._tls = tls
        self._server: ThreadingHTTPServer | None = None
        self._lets_go = threading.Event()

    def url(self, path: str = "/hook") -> str:
        """Where it is called."""
        return f"http://127.0.0.1:{self.port}{path}"

    def to(self, uuid: str) -> list[Called]:
        """The calls that told of this task."""
        return [call for call in self.calls if call.document["uuid"] == uuid]

    def come(self) -> None:
        """Listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
                """Calls are in `calls`."""

        self._lets_go.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def go(self) -> None:
        """Be away."""
        self._lets_go.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def let_go(self) -> None:
        """Drop what hangs."""
        self._lets_go.set()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.calls.append(Called(request.path, dict(request.headers.items()), body))
        answer = self.always.get(request.path) or (self.answers.pop(0) if self.answers else 200)
        request.close_connection = True
        with contextlib.suppress(ConnectionError):
            match answer:
                case "hang":
                    self._lets_go.wait()
                case "close":
                    return
                case "endless":
                    request.send_response(200)
                    request.end_headers()
                    self._pour(request, b"more " * 1000)
                case "endless headers":
                    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    self._pour(request, b"X-More: and more\r\n")
                case _:
                    request.send_response(int(answer))
                    request.send_header("Location", self.url("/elsewhere"))
                    request.send_header("Set-Cookie", "session=somebody")
                    request.send_header("Content-Length", "0")
                    request.end_headers()

    def _pour(self, request: BaseHTTPRequestHandler, what: bytes) -> None:
        while not self._lets_go.wait(0.001):
            request.wfile.write(what)


@contextlib.contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver that is there, and goes at the end."""
    receiver = Receiver(tls)
    receiver.come()
    try:
        yield receiver
    finally:
        receiver.go()
