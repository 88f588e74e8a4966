"""Little web servers that say what a test wants: a router with an old clock, an S3 that refuses, a node of long ago."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from common.federation import PROTOCOL

BROKEN = 0
"""In place of a status: the connection breaks, as routers have it that cannot answer."""
Answer = tuple[int, dict[str, str], bytes]
Serve = Callable[[Callable[[str, str], Answer | None]], str]


@contextmanager
def little_servers() -> Iterator[Serve]:
    """Starts them, each on a free port; gives the address. What one has no answer for is 404."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Callable[[str, str], Answer | None]) -> str:
        class Little(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                status, headers, body = answer(self.command, self.path) or (404, {}, b"<h1>no such page</h1>")
                if status == BROKEN:
                    self.close_connection = True
                    return
                self.send_response_only(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if self.command != "HEAD" else b"")

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = reply  # noqa: N815 - the base class calls them so

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Nobody reads it."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Little)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def as_json(document: object, **headers: str) -> Answer:
    """A JSON answer."""
    return 200, {"Content-Type": "application/json", **headers}, json.dumps(document).encode()


def router_answers(**changes: Any) -> Callable[[str, str], Answer | None]:
    """What a router in good health says to a doctor, but for what a test changes."""
    said: dict[str, Any] = {
        "/readyz": {"status": "ok"},
        "/federation/about": {
            "release": "0.1.0",
            "protocol": PROTOCOL,
            "time": datetime.now(UTC).isoformat(),
            "caller": {"kind": "admin", "name": "first admin", "tenant": "default"},
        },
        "/admin/nodes": [],
    }
    said["/federation/about"] |= changes.pop("about", {})
    said["/admin/nodes"] = changes.pop("nodes", [])
    date = changes.pop("date", datetime.now(UTC))

    def answer(method: str, path: str) -> Answer | None:
        found = said.get(path.partition("?")[0]) if method == "GET" else None
        return None if found is None else as_json(found, Date=format_datetime(date, usegmt=True))

    return answer
