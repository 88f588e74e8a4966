"""Figures for Prometheus: what router and node count alike, in a registry that each program has for itself.

Whoever does something counts it in plain numbers; here these are declared, read when somebody asks, and told. No label
holds a uuid, a tenant or anything else that clients choose: each has a few values, or one for each node.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter, time

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.counting import REFUSED, SECONDS, Durations, S3Traffic
from common.logs import about, task_in_path
from common.tasks import ENDED, Cause, State
from common.tracing import request_began

OWN = "Each replica tells of itself: add them up."
"""How replicas stand to a figure; the last sentence of its help."""
SAME = "Every replica tells the same: take the largest, not the sum."
LEADER = "Only the replica that leads counts, the others stay where they are: add them up."

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"
Sample = tuple[Sequence[str], float]
"""The values of a figure's labels, and its own."""
Source = Callable[[], Iterable[Sample]]
DurationsSource = Callable[[], Iterable[tuple[Sequence[str], Durations]]]


@dataclass(frozen=True, slots=True)
class Figure:
    """What can be told: declared before it has any value."""

    name: str
    """As it is scraped."""
    help: str
    labels: tuple[str, ...] = ()
    is_histogram: bool = False

    @property
    def kind(self) -> str:
        """Prometheus' word for it. The names of counters end in `_total`, as everywhere."""
        if self.is_histogram:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    def family(self) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
        """As the library takes it."""
        if self.is_histogram:
            return HistogramMetricFamily(self.name, self.help, labels=self.labels)
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(self.name, self.help, labels=self.labels)


class Readings(Collector):
    """Figures that are read when somebody asks for them. All are declared first; their sources come later."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        """`figures`: all that there will be."""
        self.figures = {each.name: each for each in figures}
        self._sources: dict[str, Source] = {}
        self._durations: dict[str, DurationsSource] = {}

    def read(self, name: str, source: Source) -> None:
        """Where its values come from. None at all is a figure that is not known now."""
        assert name in self.figures, name
        self._sources[name] = source

    def read_one(self, name: str, source: Callable[[], float | None]) -> None:
        """Where the value of a figure without labels comes from; None is one that is not known now."""
        self.read(name, lambda: () if (value := source()) is None else [((), value)])

    def read_counts(self, name: str, counts: Mapping[str, int], always: Iterable[str]) -> None:
        """A figure with one label, from what is counted by its values. `always`: those that are there at once."""
        known = dict.fromkeys(always, 0)
        self.read(name, lambda: [((value,), count) for value, count in (known | dict(counts)).items()])

    def read_durations(self, name: str, source: DurationsSource) -> None:
        """Where a histogram comes from."""
        assert self.figures[name].is_histogram, name
        self._durations[name] = source

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked when they are declared."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them that have a source."""
        for name, source in self._sources.items():
            family = self.figures[name].family()
            assert not isinstance(family, HistogramMetricFamily)
            for labels, value in source():
                family.add_metric(labels, value)
            yield family
        for name, durations in self._durations.items():
            histogram = self.figures[name].family()
            assert isinstance(histogram, HistogramMetricFamily)
            for labels, found in durations():
                histogram.add_metric(labels, found.buckets(), found.seconds)
            yield histogram


class Requests:
    """The requests that a program has answered, by method, route and how they ended."""

    def __init__(self) -> None:
        """None yet."""
        self.durations: dict[tuple[str, str, str], Durations] = {}
        self._received: dict[str, int] = {}

    def of(self, method: str, route: str, ended: str) -> Durations:
        """Those of one kind."""
        return self.durations.setdefault((method, route, ended), Durations(SECONDS))

    def answered(self, scope: Scope, status: int, received: int, seconds: float) -> None:
        """A request is over. `status` 0: its connection was dropped; `received`: bytes of its body."""
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        self.of(method, route, _ended(scope, status)).count(seconds)
        if received:
            self._received[route] = self._received.get(route, 0) + received

    def bodies(self) -> list[Sample]:
        """Bytes of bodies, by route."""
        return [((route,), received) for route, received in self._received.items()]


def _route(scope: Scope) -> str:
    """The template of a request's route; all that lead nowhere are one."""
    return getattr(scope.get("route"), "path", None) or _OTHER


def _ended(scope: Scope, status: int) -> str:
    if not status:
        return "dropped"
    return "refused" if REFUSED in scope else f"{status // 100}xx"


class Measured:
    """Wraps an application: every request is counted once it is over."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        """`requests` does the counting."""
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, received = perf_counter(), 0, 0
        request_began.set(time())

        async def receiving() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with about(task_in_path(scope["path"])):
                await self._app(scope, receiving, sending)
        finally:
            self._requests.answered(scope, status, received, perf_counter() - began)


FIGURES = (
    Figure("scaleodm_build_info", f"1, and what runs here. {OWN}", ("program", "version", "python")),
    Figure(
        "scaleodm_http_request_duration_seconds",
        "Requests answered, by route and by how they ended: a class of statuses; refused, with status 200, as "
        "NodeODM has it; or dropped, where there was no true answer. Uploads last as long as clients send. "
        f"{OWN}",
        ("method", "route", "status"),
        is_histogram=True,
    ),
    Figure(
        "scaleodm_http_received_bytes_total", f"Bytes of requests' bodies: of uploads, above all. {OWN}", ("route",)
    ),
    Figure(
        "scaleodm_s3_requests_total",
        "Requests to S3, repeated ones too, by operation and by class of status, or none where there was no answer. A "
        "4xx is often as good an answer as any: that something is not there. What clients load by links is not among "
        f"them, nor what runs move. {OWN}",
        ("operation", "result"),
    ),
    Figure(
        "scaleodm_s3_bytes_total",
        f"Bytes that went up to S3, and that came down from it, in the bodies of those requests. {OWN}",
        ("direction",),
    ),
    Figure("scaleodm_uploaded_files_total", f"Files that came whole through this program. {OWN}"),
    Figure(
        "scaleodm_webhook_calls_total",
        "Calls of webhooks: delivered; failed, to be made again; given_up, the last one of a webhook that was never "
        f"delivered. {LEADER}",
        ("result",),
    ),
)
"""Those that every program tells."""


class Metrics:
    """The figures of one program."""

    def __init__(self, program: str, figures: Iterable[Figure]) -> None:
        """`program`: whose they are; `figures`: its own, beside those that every program has."""
        self.registry = CollectorRegistry()
        self.readings = Readings([*FIGURES, *figures])
        self.requests = Requests()
        self.s3 = S3Traffic()
        self.registry.register(self.readings)
        ProcessCollector(registry=self.registry)
        self._read_what_is_counted_here(program)

    def _read_what_is_counted_here(self, program: str) -> None:
        readings, requests, s3 = self.readings, self.requests, self.s3
        build = (program, version("scaleodm"), sys.version.split()[0])
        readings.read("scaleodm_build_info", lambda: [(build, 1.0)])
        readings.read_durations("scaleodm_http_request_duration_seconds", requests.durations.items)
        readings.read("scaleodm_http_received_bytes_total", requests.bodies)
        readings.read("scaleodm_s3_requests_total", s3.requests)
        readings.read("scaleodm_s3_bytes_total", lambda: [(("up",), s3.up), (("down",), s3.down)])

    def watch(self, files: Callable[[], int], webhooks: Mapping[str, int]) -> None:
        """Who knows the rest: how many files have come, and how calls of webhooks ended."""
        self.readings.read_one("scaleodm_uploaded_files_total", files)
        self.readings.read_counts("scaleodm_webhook_calls_total", webhooks, ("delivered", "failed", "given_up"))

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """What a scrape gets, and its media type, by what it says that it accepts."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


def by_state(counts: Mapping[State, int]) -> list[Sample]:
    """Tasks by state, every state among them that a task can have."""
    states = [State.STAGING, State.QUEUED, State.PLACED, State.RUNNING, *sorted(ENDED)]
    return [((state.value,), counts.get(state, 0)) for state in states]


def ends(counts: Mapping[tuple[State, Cause | None], int]) -> list[Sample]:
    """Ends by outcome and cause; every pair that there can be is there from the start."""
    known: dict[tuple[State, Cause | None], int] = dict.fromkeys([(state, None) for state in sorted(ENDED)], 0)
    known |= dict.fromkeys([(State.FAILED, cause) for cause in Cause], 0)
    return [((state.value, cause_label(cause)), count) for (state, cause), count in (known | dict(counts)).items()]


def cause_label(cause: Cause | None) -> str:
    """A cause as the value of a label; none where nobody has told one."""
    return cause.value.replace(" ", "_") if cause is not None else "none"
