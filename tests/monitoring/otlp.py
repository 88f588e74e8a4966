"""A receiver of traces: OTLP over HTTP on 127.0.0.1, as any collector has it."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """A span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    """Empty for a root."""
    began: float
    ended: float
    attributes: dict[str, Any]
    problem: str
    """Empty for one that went well."""


class Receiver:
    """It answers every export with `status`."""

    def __init__(self) -> None:
        """It is there."""
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append(dict(self.headers.items()))
                if receiver.status == 200:
                    receiver.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """What came is in `spans`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Go."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: bytes) -> None:
        """Read one export."""
        self.bodies.append(body)
        export = ExportTraceServiceRequest()
        export.ParseFromString(body)
        for resource in export.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            self.spans += [_span(service, each) for scope in resource.scope_spans for each in scope.spans]

    def of(self, uuid: str) -> dict[str, Received]:
        """The spans of a task's trace, by name; of those of one name the last."""
        return {each.name: each for each in self.spans if each.trace == uuid.replace("-", "")}


def _span(service: str, span: Any) -> Received:
    return Received(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        _attributes(span.attributes),
        span.status.message,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in pairs}


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that is there, and goes at the end."""
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()
