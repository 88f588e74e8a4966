"""A web server of strangers, for what is fetched from one: each path answers as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Page:
    """One answer."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """Bytes after which the connection is dropped."""


class Web:
    """The server, and what it was asked."""

    def __init__(self) -> None:
        """Knows no page yet."""
        self.pages: dict[str, list[Page]] = {}
        self.asked: list[tuple[str, str]] = []
        """Path with query, and the header Host."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append((self.path, self.headers.get("Host", "")))
                pages = web.pages.get(self.path.partition("?")[0], [Page(status=404)])
                page = pages.pop(0) if len(pages) > 1 else pages[0]
                self.send_response(page.status)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body[: page.cut_at])

            def log_message(self, *_: object) -> None:
                """Tests say what they need themselves."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def url(self, path: str) -> str:
        """Where a page is."""
        return f"http://127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Serve."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def web_server() -> Iterator[Web]:
    """A running one."""
    web = Web()
    web.start()
    try:
        yield web
    finally:
        web.stop()
