"""One trace for each task, across router, node and run; and nothing at all where nobody asks for it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.embedded.stack import Stack
from common.settings import SettingsUnusable
from common.tracing import (
    NO_TRACER,
    Place,
    Span,
    attempt_place,
    handed_on,
    is_asked_for,
    run_tracer,
    start_tracing,
    task_place,
)
from tests.arrangements import ENGINE, PATIENT_ROUTER
from tests.client import Wire
from tests.kubernetes_node import node_in
from tests.kubernetes_standin import StandInCluster
from tests.monitoring.otlp import Received, Receiver, receiving
from tests.waiting import wait_until

UUID = "2b3f0b5e-7f5b-4c55-9a2e-0123456789ab"
KEY = "the-collectors-key"
STAGES = {"fetch", "engine", "publish"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A collector."""
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def traced(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A federation of one that sends its traces there, and writes its logs as JSON."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={KEY}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "SCALEODM_LOG_FORMAT": "json",
    }
    folder = tmp_path_factory.mktemp("traced")
    own = {"node-1": {"SCALEODM_NODE_SLOTS": "2"}}
    with Stack(
        folder,
        nodes=1,
        node_settings=ENGINE | settings,
        router_settings=PATIENT_ROUTER | settings,
        own_settings=own,
    ) as stack:
        yield stack


@pytest.fixture
def traced_wire(traced: Stack, http: httpx.Client) -> Wire:
    """Its NodeODM API."""
    return Wire(traced.router_url, traced.user_token, http)


def whole(receiver: Receiver, uuid: str, *names: str) -> dict[str, Received]:
    """A task's trace, once it has spans of these names."""
    wait_until(lambda: set(names) <= receiver.of(uuid).keys(), f"the spans {names} of {uuid}")
    return receiver.of(uuid)


def test_one_trace_tells_of_a_task_from_its_upload_to_its_products(traced_wire: Wire, receiver: Receiver) -> None:
    """Router, node and run tell of the same trace, whose id is the task's; what each did hangs where it belongs."""
    uuid = traced_wire.task("say hello")
    traced_wire.completed(uuid)
    of_router = ("task", "upload", "commit", "queued", "attempt 1", "deliver")
    trace = whole(receiver, uuid, *of_router, "accept", "queued on the node", "start", *STAGES)
    root, attempt = trace["task"], trace["attempt 1"]
    assert root.parent == ""
    assert {trace[name].service for name in of_router} == {"scaleodm-router"}
    assert {trace[name].service for name in ("accept", "start")} == {"scaleodm-node"}
    assert {trace[name].service for name in STAGES} == {"scaleodm-run"}
    assert {trace[name].parent for name in ("upload", "commit", "queued", "attempt 1")} == {root.id}
    below = {trace[name].parent for name in ("deliver", "accept", "queued on the node", "start", *STAGES)}
    assert below == {attempt.id}
    told = attempt.attributes
    assert (told["scaleodm.task"], told["scaleodm.node"], told["scaleodm.outcome"]) == (uuid, "node-1", "completed")
    assert root.attributes["scaleodm.images"] == 2
    assert trace["fetch"].ended <= trace["engine"].began < trace["engine"].ended <= trace["publish"].began
    assert attempt.began <= trace["fetch"].began
    assert not any(each.problem for each in trace.values())


def test_a_run_that_fails_says_so_where_it_failed(traced_wire: Wire, receiver: Receiver) -> None:
    """Engine, attempt and task are at fault; what came before is not, and what would have come after is not there."""
    uuid = traced_wire.task("exit 1")
    assert traced_wire.ended(uuid)["status"]["code"] == 30
    trace = whole(receiver, uuid, "task", "attempt 1", "fetch", "engine")
    assert {name for name, span in trace.items() if span.problem} == {"task", "attempt 1", "engine"}
    assert trace["attempt 1"].attributes["scaleodm.cause"] == "engine"
    assert "publish" not in trace


def test_a_restart_has_a_root_of_its_own_in_the_same_trace(traced_wire: Wire, receiver: Receiver) -> None:
    """Who looks the task up finds both."""
    uuid = traced_wire.task("say hello")
    traced_wire.ended(uuid)
    first = whole(receiver, uuid, "task")["task"]
    assert traced_wire.act("restart", uuid) == {"success": True}
    traced_wire.ended(uuid)
    wait_until(lambda: receiver.of(uuid)["task"].id != first.id, "another root")
    trace = whole(receiver, uuid, "restart", "attempt 2")
    assert trace["attempt 2"].parent == trace["restart"].parent == trace["task"].id


def test_a_task_that_came_to_a_node_directly_has_a_trace_as_well(
    traced: Stack, http: httpx.Client, receiver: Receiver
) -> None:
    """With the node's word for it."""
    wire = Wire(traced.node_urls["node-1"], traced.node_user_token("node-1"), http)
    uuid = wire.task("say hello")
    wire.ended(uuid)
    trace = whole(receiver, uuid, "task", "accept", "start", *STAGES)
    assert trace["task"].service == "scaleodm-node"
    assert {trace[name].parent for name in ("accept", "start", *STAGES)} == {trace["task"].id}


@pytest.mark.timeout(180)
def test_a_job_is_part_of_the_trace(
    traced: Stack, http: httpx.Client, receiver: Receiver, cluster: StandInCluster, tmp_path: Path
) -> None:
    """Its pods tell of fetching and publishing, the node of the engine; no pod is given the collector's key (I9)."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={KEY}",
        "SCALEODM_NODE_ROUTER_URL": traced.router_url,
        "SCALEODM_NODE_JOIN_TOKEN": traced.node_token,
    }
    node = node_in(cluster, traced.object_store, tmp_path, settings, name="traced-in-cluster")
    try:
        node.join(traced)
        wire = Wire(traced.router_url, traced.user_token, http)
        asked = {"nodes": json.dumps(["traced-in-cluster"])}
        uuid, _ = wire.by_reference(traced.storage(), "say hello", **asked)
        wire.completed(uuid)
        trace = whole(receiver, uuid, "task", "submit", "attempt 1", "accept", "start", *STAGES)
    finally:
        node.stop()
        # Else the next task might be placed on it, until its silence is noticed.
        admin = {"Authorization": f"Bearer {traced.admin_token}"}
        gone = f"{traced.router_url}/admin/nodes/traced-in-cluster?force=true"
        assert http.delete(gone, headers=admin).status_code == 200
    assert {trace[name].service for name in ("fetch", "publish")} == {"scaleodm-run"}
    assert trace["engine"].service == "scaleodm-node"
    assert {trace[name].parent for name in ("accept", "start", *STAGES)} == {trace["attempt 1"].id}
    assert trace["engine"].began <= trace["engine"].ended <= trace["publish"].ended


def test_the_key_is_sent_and_nothing_else_holds_it(traced: Stack, receiver: Receiver, traced_wire: Wire) -> None:
    """Neither a span nor a log line (I9), nor the engine's environment."""
    uuid = traced_wire.task("environment")
    traced_wire.ended(uuid)
    whole(receiver, uuid, "task", *STAGES)
    assert KEY in {headers.get("x-api-key") for headers in receiver.headers}
    assert not any(KEY.encode() in body or traced.user_token.encode() in body for body in receiver.bodies)
    logs = "".join(path.read_text() for path in (traced.secrets_file.parent / "logs").iterdir())
    assert KEY not in logs
    told = next(line for line in traced_wire.output(uuid) if line.startswith("environment: "))
    assert "PATH" in told.split()
    assert not [name for name in told.split() if name.startswith("OTEL_")]


def test_every_line_of_the_logs_is_json_and_says_what_it_is_about(traced: Stack, traced_wire: Wire) -> None:
    """Task, attempt and node as fields, whatever the line's words are; of the router and of the node."""
    uuid = traced_wire.task("exit 1")
    traced_wire.ended(uuid)
    folder = traced.secrets_file.parent / "logs"
    lines = {
        name: [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()]
        for name in ("router", "node-1")
    }
    of_router = [each for each in lines["router"] if each.get("task") == uuid]
    placed = next(each for each in of_router if "slots free" in each["message"])
    assert (placed["attempt"], placed["node"], placed["program"]) == (1, "node-1", "router")
    ended = next(each for each in of_router if "failed after attempt 1" in each["message"])
    assert ended["node"] == "node-1"
    assert {each["node"] for each in lines["node-1"][1:]} == {"node-1"}
    assert next(each["attempt"] for each in lines["node-1"] if each.get("task") == uuid) == 1
    for each in [*lines["router"], *lines["node-1"]]:
        assert {"time", "level", "program", "logger", "message"} <= each.keys()
        assert uuid not in each["message"] or each["task"] == uuid


def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are lost, and the program ends when it is told to."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    tracer = start_tracing("test")
    now = time.time()
    for _ in range(3000):
        tracer.record(Span("task", now, now, None, task_place(UUID, 1)))
    assert time.time() - now < 10
    before = time.monotonic()
    tracer.close(1.0)
    assert time.monotonic() - before < 5


def test_the_sampler_takes_a_trace_as_a_whole_or_leaves_it(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program decides alike, by the trace's id; so no trace is a torso."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    tracer = start_tracing("test-sampling")
    now = time.time()
    uuids = [f"{number:08x}-0000-4000-{number * 0x111 % 0x10000:04x}-000000000000" for number in range(1, 200)]
    for uuid in uuids:
        tracer.record(Span("deliver", now, now, attempt_place(uuid, 1)))
        tracer.record(Span("task", now, now, None, task_place(uuid, 1)))
    tracer.close(5.0)
    taken = [receiver.of(uuid).keys() for uuid in uuids]
    assert all(names in ({"task", "deliver"}, set()) for names in taken)
    assert 0 < sum(map(bool, taken)) < len(taken)


# What needs no server


def test_the_trace_of_a_task_is_its_uuid() -> None:
    """As W3C writes it, and read back; of a uuid that is none a digest, and never nothing."""
    place = attempt_place(UUID, 3)
    assert str(place).startswith(f"00-{UUID.replace('-', '')}-")
    assert Place.parse(str(place)) == place
    assert place.trace == task_place(UUID, 1).trace
    assert len({attempt_place(UUID, 1), attempt_place(UUID, 2), task_place(UUID, 1), task_place(UUID, 2)}) == 4
    assert attempt_place("00000000-0000-0000-0000-000000000000", 1).trace > 0
    assert attempt_place("not a uuid", 1).trace > 0


@pytest.mark.parametrize(
    "text",
    ["", "00-1-2-01", f"00-{0:032x}-{1:016x}-01", f"00-{1:032x}-{0:016x}-01", f"ff-{1:032x}-{1:016x}-01", "00-é"],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    """Whoever sends it: it may be anybody."""
    assert Place.parse(text) is None


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetrys_variables_ask_for_traces(environment: dict[str, str], asked: bool) -> None:
    """The standard ones."""
    assert is_asked_for(environment) is asked


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")],
)
def test_what_we_do_not_speak_is_told_at_the_start(name: str, value: str) -> None:
    """Rather than that traces never come."""
    with pytest.raises(SettingsUnusable, match=f"{name} is '{value}'"):
        is_asked_for({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", name: value})


def test_no_secret_is_handed_on_to_a_job() -> None:
    """Its spec is read by many (I9)."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:password@c:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces",
        "OTEL_EXPORTER_OTLP_HEADERS": "key=secret",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "key=secret",
        "OTEL_SERVICE_NAME": "node",
        "PATH": "/bin",
    }
    assert handed_on(environment) == {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}


def test_a_run_goes_on_where_traces_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an image without the extra: it says so in its own log."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "common.otlp", None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert run_tracer(str(attempt_place(UUID, 1))) is NO_TRACER
    assert "pip install 'scaleodm[tracing]'" in capsys.readouterr().err
    assert run_tracer("") is NO_TRACER


@pytest.mark.parametrize("program", ["router.app", "node.app, node.launching, node.stages.job"])
def test_nothing_of_it_is_imported_where_nobody_asks(program: str) -> None:
    """It takes a third of a second, and memory. (FastAPI looks for the bare interface by itself.)"""
    script = f"import sys, {program}; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    kinds = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "common.otlp")
    assert [name for name in told.split() if name.startswith(kinds)] == []
