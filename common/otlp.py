"""Sends spans by OTLP over HTTP. The only file that knows OpenTelemetry; `common.tracing` imports it when asked to."""

import os
import threading
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from common.logs import scrubbed
from common.tracing import Place, Span

_SECOND_NS = 1_000_000_000


class _Ids(RandomIdGenerator):
    """Ids by chance, unless the next span has one of its own. For the one thread that makes spans."""

    def __init__(self) -> None:
        self.next: Place | None = None

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.next is None else self.next.span

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else self.next.trace


class _Exporter(OTLPSpanExporter):
    """One that may be shut down twice."""

    def shutdown(self) -> None:
        if not self._shutdown:
            super().shutdown()  # type: ignore[no-untyped-call]


class OtlpTracer:
    """Takes spans and sends them from a thread of its own; where nobody takes them they are lost, and nothing waits."""

    is_on = True

    def __init__(self, service: str, instance: str) -> None:
        """As OpenTelemetry's own variables say; `service` and `instance` where these name none."""
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=_resource(service, instance), id_generator=self._ids, shutdown_on_exit=False
        )
        self._exporter = _Exporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("scaleodm", version("scaleodm"))

    def record(self, span: Span) -> None:
        """Take one."""
        self._ids.next = span.place
        made = self._tracer.start_span(
            span.name,
            context=self._below(span.parent),
            attributes=dict(span.attributes),
            start_time=int(span.began * _SECOND_NS),
        )
        self._ids.next = None
        if span.problem is not None:
            made.set_status(Status(StatusCode.ERROR, scrubbed(span.problem)))
        made.end(int(max(span.began, span.ended) * _SECOND_NS))

    def close(self, within_s: float) -> None:
        """Send the rest. The library would wait for a receiver that is away until it has tried often enough."""
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(within_s)
        self._exporter.shutdown()

    def _below(self, parent: Place | None) -> Context:
        """Below a span that somebody else makes, and in a trace that is taken or left as a whole."""
        if parent is None:
            return Context()
        sampled = parent.sampled and self._takes(parent.trace)
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return set_span_in_context(
            NonRecordingSpan(SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=flags)), Context()
        )

    def _takes(self, trace: int) -> bool:
        """What the sampler of this program would say of a trace's root; all say the same, for they go by its id."""
        return self._provider.sampler.should_sample(None, trace, "task").decision is Decision.RECORD_AND_SAMPLE


def _resource(service: str, instance: str) -> Resource:
    named = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {"service.name": service, "service.version": version("scaleodm"), "service.instance.id": instance}
    if os.environ.get("OTEL_SERVICE_NAME"):
        del ours["service.name"]
    return Resource.create({name: value for name, value in ours.items() if value and f"{name}=" not in named})
