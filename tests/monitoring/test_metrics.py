"""`/metrics` of real programs: who may read it, that it tells what happened, and that it stays small."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from common.counting import WAITS_S, Durations
from common.embedded.stack import Stack
from common.metrics import FIGURES, Figure, Measured, Metrics, cause_label, ends
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import answer_refusals
from common.scraping import Scraping, metrics_routes
from common.settings import Readers
from common.tasks import Cause, State
from common.tokens import Caller, Kind, TokenGate, hashed
from node.metrics import FIGURES as OF_NODE
from router.metrics import FIGURES as OF_ROUTER
from tests.client import Wire
from tests.kubernetes_node import TOKEN, KubernetesNode
from tests.lone_node import lone_node
from tests.monitoring.scrape import OPENMETRICS, families, labels, scraped, values
from tests.receiver import receiving
from tests.waiting import wait_until

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
METRICS_TOKEN = "opens-figures-alone"


def of_router(federation: Stack) -> str:
    """The router's figures."""
    return scraped(federation.router_url, federation.admin_token)


def of_nodes(federation: Stack) -> list[str]:
    """Each node's."""
    return [scraped(url, federation.node_user_token(name)) for name, url in federation.node_urls.items()]


def total(texts: list[str], name: str, *which: str) -> float:
    """What several programs tell of one figure, together."""
    return sum(values(text, name).get(which, 0.0) for text in texts)


def test_a_task_is_seen_in_the_figures_of_router_and_node(federation: Stack, router_wire: Wire) -> None:
    """Taken on, placed, waited, begun, ended, its bytes moved, its webhook called."""
    before, nodes_before = of_router(federation), of_nodes(federation)
    uuid = router_wire.task("say hello")
    router_wire.completed(uuid)
    after = of_router(federation)
    for name, which in (
        ("scaleodm_router_tasks_accepted_total", ("upload",)),
        ("scaleodm_router_placements_total", ()),
        ("scaleodm_router_task_wait_seconds_count", ()),
        ("scaleodm_router_tasks_ended_total", ("completed",)),
        ("scaleodm_router_attempts_ended_total", ("none", "completed")),
        ("scaleodm_http_request_duration_seconds_count", ("POST", "/task/new/commit/{uuid}", "2xx")),
    ):
        assert total([after], name, *which) == total([before], name, *which) + 1, name
    assert total([after], "scaleodm_uploaded_files_total") == total([before], "scaleodm_uploaded_files_total") + 3
    polls = ("GET", "/task/{uuid}/info", "2xx")
    name = "scaleodm_http_request_duration_seconds_count"
    assert total([after], name, *polls) > total([before], name, *polls)
    for name, which in (
        ("scaleodm_node_tasks_accepted_total", ("router",)),
        ("scaleodm_node_runs_started_total", ()),
        ("scaleodm_node_runs_ended_total", ("none", "completed")),
        ("scaleodm_node_task_wait_seconds_count", ()),
    ):
        wait_until(
            lambda name=name, which=which: (  # type: ignore[misc]
                total(of_nodes(federation), name, *which) == total(nodes_before, name, *which) + 1
            ),
            f"{name} to count the run",
        )
    moved = "scaleodm_node_run_bytes_total"
    assert total(of_nodes(federation), moved, "down") > total(nodes_before, moved, "down")
    assert total(of_nodes(federation), moved, "up") > total(nodes_before, moved, "up") + 1000


def test_what_goes_wrong_is_counted_by_what_it_was(federation: Stack, router_wire: Wire) -> None:
    """A run that fails, one that is canceled and one that is removed, a request refused with 200, one to nowhere."""
    before = of_router(federation)
    assert router_wire.ended(router_wire.task("exit 1"))["status"]["code"] == 30
    for what in ("cancel", "remove"):
        at_work = router_wire.task("sleep 20")
        router_wire.running(at_work)
        assert router_wire.act(what, at_work) == {"success": True}
    assert "error" in router_wire.get("/task/nobody-knows-it/output").json()
    router_wire.http.get(f"{router_wire.url}/nowhere/at/all")
    after = of_router(federation)
    for more, name, which in (
        (1, "scaleodm_router_attempts_ended_total", ("engine", "failed")),
        (2, "scaleodm_router_attempts_ended_total", ("none", "canceled")),
        (1, "scaleodm_router_tasks_ended_total", ("failed",)),
        (2, "scaleodm_router_tasks_ended_total", ("canceled",)),
        (1, "scaleodm_http_request_duration_seconds_count", ("GET", "/task/{uuid}/output", "refused")),
        (1, "scaleodm_http_request_duration_seconds_count", ("GET", "other", "4xx")),
    ):
        assert total([after], name, *which) == total([before], name, *which) + more, (name, which)
    assert total([after], "scaleodm_router_retries_total", "engine") == 0, "it would only fail again"


def test_what_waits_is_seen_and_why(federation: Stack, router_wire: Wire) -> None:
    """Four slots are there: the fifth task waits for one, and the figures say since when."""
    busy = [router_wire.task("sleep 60") for _ in range(4)]
    for each in busy:
        router_wire.running(each)
    waiting = router_wire.task("say hello")

    def seen() -> bool:
        text = of_router(federation)
        reasons = values(text, "scaleodm_router_unplaced_tasks")
        return reasons["no_free_slot",] == 1 and total([text], "scaleodm_router_oldest_wait_seconds") > 0.5

    wait_until(seen, "one task to be seen waiting for a slot")
    text = of_router(federation)
    assert values(text, "scaleodm_router_slots") == {(): 4.0}
    assert values(text, "scaleodm_router_slots_free") == {(): 0.0}
    assert values(text, "scaleodm_router_slots_used")["router",] == 4
    assert values(text, "scaleodm_router_node_slots_used") == {("node-1",): 2.0, ("node-2",): 2.0}
    assert total(of_nodes(federation), "scaleodm_node_slots_used", "router") == 4
    for each in [waiting, *busy]:
        router_wire.act("remove", each)
    wait_until(lambda: values(of_router(federation), "scaleodm_router_slots_free") == {(): 4.0}, "all slots to be free")


def test_webhooks_are_counted_by_how_their_calls_ended(rclone_node: Wire) -> None:
    """By a node, for its own tasks; the router counts in the same way."""
    with receiving() as receiver:
        receiver.answers = [500]
        uuid = rclone_node.task("say hello", webhook=receiver.url())
        wait_until(lambda: len(receiver.to(uuid)) == 2, "the call that failed to be made again")

    def counted() -> bool:
        found = values(scraped(rclone_node.url, METRICS_TOKEN), "scaleodm_webhook_calls_total")
        return found == {("delivered",): 1.0, ("failed",): 1.0, ("given_up",): 0.0}

    wait_until(counted, "both calls to be counted")


def test_every_figure_is_told_by_a_running_program(federation: Stack, kubernetes_node: KubernetesNode) -> None:
    """As it is declared, and none that is not: kind, help and labels."""
    texts = [of_router(federation), *of_nodes(federation), scraped(kubernetes_node.url, TOKEN)]
    told = {name: family for text in texts for name, family in families(text).items()}
    seen: dict[str, set[str]] = {}
    for text in texts:
        for name, some in labels(text).items():
            seen.setdefault(name, set()).update(some)
    declared = {figure.name: figure for figure in (*FIGURES, *OF_ROUTER, *OF_NODE)}
    assert {name for name in told if name.startswith("scaleodm_")} == {name.removesuffix("_total") for name in declared}
    for figure in declared.values():
        family = told[figure.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (figure.kind, figure.help)
        sample = f"{figure.name}_count" if figure.is_histogram else figure.name
        assert seen[sample] == set(figure.labels), figure.name


def test_figures_name_neither_tasks_nor_tenants_nor_secrets(federation: Stack, router_wire: Wire) -> None:
    """What clients choose is no label: there would be no end of series (and I9)."""
    uuid = router_wire.task("say hello", name="a name that nobody else has")
    router_wire.ended(uuid)
    router_wire.http.request("BREW", f"{router_wire.url}/task/{uuid}/info")
    for text in (of_router(federation), *of_nodes(federation)):
        assert UUID.search(text) is None
        assert "nobody else has" not in text
        assert "BREW" not in text
        for secret in (federation.admin_token, federation.user_token, federation.node_token):
            assert secret not in text
        assert len(text.splitlines()) < 1500


# Who may read


@pytest.mark.parametrize("program", ["router", "node-1"])
def test_only_who_may_do_anything_here_reads_them_as_a_rule(federation: Stack, program: str) -> None:
    """Nobody without a token, nor with a user's on a router, or with a wrong one."""
    is_router = program == "router"
    url = federation.router_url if is_router else federation.node_urls[program]
    good = federation.admin_token if is_router else federation.node_user_token(program)
    bad = [None, "wrong", federation.user_token, federation.node_token]
    for token in bad:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{url}/metrics", headers=headers)
        assert answer.status_code == 401
        assert "scaleodm_" not in answer.text
    assert httpx.get(f"{url}/metrics", params={"token": good}).status_code == 200
    openmetrics = {"Authorization": f"Bearer {good}", "Accept": OPENMETRICS}
    answer = httpx.get(f"{url}/metrics", headers=openmetrics)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.fixture(scope="module")
def rclone_node(rclone: object, tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> object:
    """A node of its own whose figures have a token of their own."""
    folder: Path = tmp_path_factory.mktemp("scraped")
    settings = {"SCALEODM_NODE_METRICS_TOKEN": METRICS_TOKEN, "SCALEODM_NODE_WEBHOOK_PRIVATE": "on"}
    environment = rclone.environment("s3://staging/")  # type: ignore[attr-defined]
    with lone_node(folder, environment | settings) as node:
        yield node.wire(http)


def test_the_token_for_figures_opens_these_and_nothing_else(rclone_node: Wire) -> None:
    """So a monitoring system holds nothing that could submit or cancel."""
    assert "scaleodm_build_info" in scraped(rclone_node.url, METRICS_TOKEN)
    told = httpx.get(f"{rclone_node.url}/info", params={"token": METRICS_TOKEN}).json()
    assert "error" in told
    assert values(scraped(rclone_node.url, METRICS_TOKEN), "scaleodm_node_router_silence_seconds") == {}


class _Program:
    """A program of two routes, measured."""

    def __init__(self, readers: Readers, token: str | None = METRICS_TOKEN) -> None:
        self.metrics = Metrics("test", [])
        gate = TokenGate(
            {
                hashed("admin"): Caller(Kind.ADMIN, "admin"),
                hashed("user"): Caller(Kind.USER, "user", tenant="t"),
            }
        )
        scraping = Scraping(readers, SecretStr(token) if token else None, gate, frozenset({Kind.ADMIN}))
        app = FastAPI()
        app.include_router(metrics_routes(self.metrics, scraping, _nothing))
        app.add_api_route("/things/{name}", _thing, methods=["GET"])
        answer_refusals(app)
        transport = httpx.ASGITransport(Measured(app, self.metrics.requests), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")


async def _nothing() -> None:
    """Everything is in memory."""


async def _thing(name: str) -> str:
    if name == "refused":
        raise Refused("no such thing")
    if name == "broken":
        raise ValueError(name)
    return name


@pytest.fixture
async def asked() -> AsyncIterator[_Program]:
    """One whose figures anybody may read."""
    program = _Program(Readers.OPEN)
    yield program
    await program.http.aclose()


async def test_requests_are_counted_by_route_and_end(asked: _Program) -> None:
    """However many different paths they have."""
    for name in ("a", "b", "refused", "broken"):
        await asked.http.get(f"/things/{name}")
    await asked.http.get("/nowhere")
    text = (await asked.http.get("/metrics")).text
    counts = values(text, "scaleodm_http_request_duration_seconds_count")
    assert counts["GET", "/things/{name}", "2xx"] == 2
    assert counts["GET", "/things/{name}", "refused"] == 1
    assert counts["GET", "/things/{name}", "5xx"] == 1
    assert counts["GET", "other", "4xx"] == 1


@pytest.mark.parametrize(
    ("readers", "token", "status"),
    [
        (Readers.OPEN, "", 200),
        (Readers.TOKEN, "", 401),
        (Readers.TOKEN, "user", 401),
        (Readers.TOKEN, "admin", 200),
        (Readers.TOKEN, METRICS_TOKEN, 200),
        (Readers.TOKEN, "é", 401),
        (Readers.OFF, METRICS_TOKEN, 404),
        (Readers.OFF, "admin", 404),
    ],
)
async def test_who_may_read_is_a_setting(readers: Readers, token: str, status: int) -> None:
    """By token, unless somebody decides otherwise."""
    program = _Program(readers)
    async with program.http as http:
        assert (await http.get("/metrics", params={"token": token})).status_code == status


async def test_without_a_token_for_it_none_is_let_in_by_chance() -> None:
    """An empty one least of all."""
    program = _Program(Readers.TOKEN, token=None)
    async with program.http as http:
        assert (await http.get("/metrics", params={"token": ""})).status_code == 401
        assert (await http.get("/metrics", headers={"Authorization": "Bearer "})).status_code == 401


def test_two_programs_in_one_process_share_no_figure() -> None:
    """Each has a registry of its own."""
    one, other = Metrics("one", []), Metrics("other", [])
    one.s3.sent(7)
    assert values(one.exposed("")[0].decode(), "scaleodm_s3_bytes_total")["up",] == 7
    assert values(other.exposed("")[0].decode(), "scaleodm_s3_bytes_total")["up",] == 0


def test_durations_lie_where_prometheus_looks_for_them() -> None:
    """Each bound counts what lies up to it, itself included."""
    found = Durations(WAITS_S)
    for seconds in (0.5, 1.0, 1.1, 1e6):
        found.count(seconds)
    buckets = dict(found.buckets())
    assert (buckets["1.0"], buckets["5.0"], buckets["86400.0"], buckets["+Inf"]) == (2, 3, 3, 4)


def test_every_end_that_there_can_be_is_there_from_the_start() -> None:
    """An alert on a rate would miss the first one otherwise."""
    found = dict(ends({(State.FAILED, Cause.LOST): 2}))
    assert found["failed", "lost"] == 2
    assert {("failed", cause_label(cause)) for cause in Cause} <= found.keys()
    assert found["completed", "none"] == 0


@pytest.mark.parametrize("figure", [*FIGURES, *OF_ROUTER, *OF_NODE], ids=lambda figure: figure.name)
def test_figures_are_named_as_prometheus_wants_them(figure: Figure) -> None:
    """With a help that ends in how replicas stand to it."""
    assert re.fullmatch(r"scaleodm_[a-z0-9_]+", figure.name)
    assert figure.help.endswith(".")
    assert re.search(r"replica|joined no router", figure.help), figure.name
