"""One trace for each task, across router, node and run, where OpenTelemetry's own variables ask for it.

The trace and the spans that others hang below have ids that follow from the task's uuid. So nobody has to keep them: a
router that comes back, another replica and a node all mean the same span, and each is told once, when it has ended.
Nothing of OpenTelemetry is imported unless it is asked for (`common.otlp`).
"""

import hashlib
import importlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from common.settings import SettingsUnusable

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_HANDED_ON = (
    *_ENDPOINTS,
    *_PROTOCOLS,
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
)
"""Variables that hold no secret, as headers do."""
Attributes = Mapping[str, str | int | float | bool]
TRACES_WITHIN_S = 2.0
"""How long a program that ends waits for its last spans to be taken."""
request_began: ContextVar[float | None] = ContextVar("request began", default=None)
"""When the request that is answered here came, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Place:
    """A span that others hang below."""

    trace: int
    span: int
    sampled: bool = True

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """Read W3C's `traceparent`; None where it is none."""
        found = _PARENT.fullmatch(text)
        if found is None or not int(found[1], 16) or not int(found[2], 16):
            return None
        return cls(int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & 1))

    def __str__(self) -> str:
        """As W3C's `traceparent`."""
        return f"00-{self.trace:032x}-{self.span:016x}-{int(self.sampled):02x}"


def task_place(uuid: str, first_attempt: int) -> Place:
    """The root of a task's trace. A restart has one of its own: `first_attempt` is its first attempt's number."""
    return Place(_trace_of(uuid), _span_of(uuid, f"run {first_attempt}"))


def attempt_place(uuid: str, attempt: int) -> Place:
    """The span of one attempt."""
    return Place(_trace_of(uuid), _span_of(uuid, f"attempt {attempt}"))


def _trace_of(uuid: str) -> int:
    """The uuid itself, so that whoever knows the task finds its trace; of one that is not usual, a digest."""
    try:
        number = UUID(uuid).int
    except ValueError:
        number = 0
    return number or int(hashlib.sha256(uuid.encode()).hexdigest()[:32], 16)


def _span_of(uuid: str, what: str) -> int:
    return int(hashlib.sha256(f"{what} of {uuid}".encode()).hexdigest()[:16], 16) or 1


@dataclass(frozen=True, slots=True)
class Span:
    """Something that is over. Moments in seconds since the epoch."""

    name: str
    began: float
    ended: float
    parent: Place | None
    """None: it is the root of its trace."""
    place: Place | None = None
    """Its own, where others hang below it."""
    attributes: Attributes = field(default_factory=dict)
    problem: str | None = None
    """Why it did not go well."""


def of_attempt(uuid: str, attempt: int) -> Attributes:
    """What every span of an attempt says."""
    return {"scaleodm.task": uuid, "scaleodm.attempt": attempt}


class Tracer(Protocol):
    """Takes spans."""

    @property
    def is_on(self) -> bool:
        """Whether anybody wants them."""
        ...

    def record(self, span: Span) -> None:
        """Take one, at no cost to who tells it."""
        ...

    def close(self, within_s: float) -> None:
        """Send what has been taken, as far as that can be done in so many seconds."""
        ...


class NoTracer:
    """Nobody has asked for traces."""

    is_on = False

    def record(self, span: Span) -> None:
        """Forget it."""

    def close(self, within_s: float) -> None:
        """There is nothing to be sent."""


NO_TRACER = NoTracer()


@contextmanager
def timed(tracer: Tracer, name: str, parent: Place | None, attributes: Attributes) -> Iterator[None]:
    """A span of what is done within; an exception is its problem, and goes on."""
    began, problem = time.time(), None
    try:
        yield
    except BaseException as raised:
        problem = str(raised) or type(raised).__name__
        raise
    finally:
        if tracer.is_on and parent is not None:
            tracer.record(Span(name, began, time.time(), parent, attributes=attributes, problem=problem))


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces. Raises `SettingsUnusable` where they ask for other ones."""
    if not any(environment.get(name) for name in _ENDPOINTS):
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if exporter != "otlp":
        raise SettingsUnusable(f"OTEL_TRACES_EXPORTER is {exporter!r}; expected otlp, or none for no traces.")
    named = next((name for name in _PROTOCOLS if environment.get(name)), None)
    if named is not None and environment[named] != _SPOKEN:
        raise SettingsUnusable(f"{named} is {environment[named]!r}; traces are sent by {_SPOKEN} alone.")
    return True


def start_tracing(service: str, instance: str = "") -> Tracer:
    """What takes spans, as the environment asks. Raises `SettingsUnusable`.

    `service`: the program; `instance`: which one of several, such as a node's name.
    """
    if not is_asked_for(os.environ):
        return NO_TRACER
    try:
        from common.otlp import OtlpTracer  # few ask for it, and every run would wait for it
    except ModuleNotFoundError as missing:
        raise SettingsUnusable(
            f"{next(name for name in _ENDPOINTS if os.environ.get(name))} asks for traces, but {missing.name} is not "
            "installed. Install it (pip install 'scaleodm[tracing]'), or unset the variable."
        ) from missing
    return OtlpTracer(service, instance)


def preload() -> None:
    """Have what traces need in memory, where they are asked for: for a process that will be forked."""
    with suppress(SettingsUnusable, ModuleNotFoundError):
        if is_asked_for(os.environ):
            importlib.import_module("common.otlp")


def run_tracer(traceparent: str) -> Tracer:
    """What takes the spans of a run. That traces cannot be sent from where it runs is no reason to fail it."""
    if not traceparent:
        return NO_TRACER
    try:
        return start_tracing("scaleodm-run")
    except SettingsUnusable as unusable:
        sys.stderr.write(f"{unusable}\n")
        return NO_TRACER


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """OpenTelemetry's variables that a Job's pods are given: those that hold no secret (I9)."""
    given = {name: environment[name] for name in _HANDED_ON if name in environment}
    return {name: value for name, value in given.items() if not (name in _ENDPOINTS and "@" in value)}
