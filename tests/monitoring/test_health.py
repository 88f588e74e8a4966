"""`/healthz` and `/readyz`: what fails is named in time, and readiness fails for this replica's own faults alone."""

import asyncio
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.embedded.children import free_port
from common.embedded.stack import Stack
from common.health import Finding, Probe, State, readiness
from node.health import router
from router.api.health import leader, memory, migrations
from tests.kubernetes_node import KubernetesNode
from tests.lone_node import lone_node, moto_environment


def asked(url: str, status: int = 200) -> dict[str, Any]:
    """What `/readyz` tells, which it does in time."""
    began = time.monotonic()
    answer = httpx.get(f"{url}/readyz", timeout=10)
    assert time.monotonic() - began < 8, "2 s, and what a loaded machine adds"
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def states(told: dict[str, Any]) -> dict[str, str]:
    """Each dependency's state."""
    return {name: each["state"] for name, each in told["dependencies"].items()}


def test_programs_in_good_health_say_so(federation: Stack, kubernetes_node: KubernetesNode) -> None:
    """With each thing that they need; no token is asked for."""
    told = asked(federation.router_url)
    assert (told["status"], told["program"]) == ("ok", "router")
    assert states(told) == dict.fromkeys(("database", "migrations", "leader", "memory", "s3"), "ok")
    for url in (*federation.node_urls.values(), kubernetes_node.url):
        told = asked(url)
        assert (told["status"], told["program"]) == ("ok", "node")
        assert states(told) == dict.fromkeys(("backend", "s3", "router"), "ok")
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok", "program": "node"}
    assert told["dependencies"]["backend"]["says"] == "The Kubernetes API answers."


@contextmanager
def deaf_server() -> Iterator[int]:
    """A port that takes connections, and on which nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_s3_that_is_away_is_named_and_the_node_stays_in_service(tmp_path: Path) -> None:
    """It is away for every other replica as well; what is known is still told. No address is."""
    port = free_port()
    with lone_node(tmp_path, moto_environment(f"http://127.0.0.1:{port}")) as node:
        told = asked(node.url)
        assert told["status"] == "degraded"
        assert states(told) == {"backend": "ok", "s3": "failing", "router": "ok"}
        assert str(port) not in str(told)
        assert "staging/" not in str(told)
        assert httpx.get(f"{node.url}/healthz").status_code == 200


def test_s3_that_hangs_holds_no_probe_up(tmp_path: Path) -> None:
    """Nor do many probes ask it many times."""
    # Looking for stale uploads would be held up as well, and with it the end of the node.
    settings = {"SCALEODM_NODE_CLEANUP_UPLOADS_MIN": "0"}
    with deaf_server() as port, lone_node(tmp_path, moto_environment(f"http://127.0.0.1:{port}") | settings) as node:
        first = asked(node.url)
        assert states(first)["s3"] == "failing"
        assert "has not answered for" in first["dependencies"]["s3"]["says"]
        assert states(asked(node.url))["s3"] == "failing"


def test_a_node_whose_own_folder_is_gone_takes_itself_out_of_service(tmp_path: Path, moto_url: str) -> None:
    """That is this replica's alone; another may do well."""
    with lone_node(tmp_path, moto_environment(moto_url)) as node:
        assert states(asked(node.url))["backend"] == "ok"
        shutil.rmtree(tmp_path / "node" / "tasks")
        deadline = time.monotonic() + 10
        while httpx.get(f"{node.url}/readyz").status_code == 200:
            assert time.monotonic() < deadline, "an answer is good for two seconds"
            time.sleep(0.1)
        told = asked(node.url, 503)
        assert told["status"] == "unready"
        assert told["dependencies"]["backend"] == {
            "state": "failing",
            "says": "The node's folder cannot be written (No such file or directory).",
        }


# What needs no server


def test_what_fails_makes_a_program_degraded_and_only_what_is_its_own_unready() -> None:
    """What cannot be told is no fault."""
    good, bad = Finding("a", State.OK, "fine"), Finding("b", State.FAILING, "away")
    own, unknown = Finding("c", State.FAILING, "broken", vital=True), Finding("d", State.UNKNOWN, "not known")
    assert readiness("node", [good]).status == "ok"
    assert readiness("node", [good, unknown]).status == "ok"
    assert readiness("node", [good, bad]).status == "degraded"
    assert readiness("node", [bad, own]).status == "unready"


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        ("2", State.OK, "those of this release"),
        ("1", State.FAILING, "start a router of it"),
        (None, State.FAILING, "at nothing"),
        ("3", State.OK, "newer release"),
    ],
)
def test_migrations(found: str | None, state: State, says: str) -> None:
    """Tables of a newer release are met during every update, and serve."""
    told = migrations(found, "2", frozenset({"1", "2"}))
    assert told.state is state
    assert says in told.says


def test_leader_and_memory_and_router() -> None:
    """Each with what it means."""
    assert leader(is_ours=True, leaderless=timedelta(hours=1)).says == "This replica leads."
    assert leader(is_ours=False, leaderless=timedelta(seconds=-3)).state is State.OK
    assert "led for 60 s" in leader(is_ours=False, leaderless=timedelta(seconds=60)).says
    assert memory(5.0).state is State.OK
    assert memory(90.0).vital
    assert router(joins=False, unheard_s=None).state is State.OK
    assert router(joins=True, unheard_s=None).state is State.FAILING
    assert router(joins=True, unheard_s=3.0).state is State.OK
    assert "for 40 s" in router(joins=True, unheard_s=40.0).says


async def test_a_probe_asks_once_however_many_want_to_know() -> None:
    """And again only when its answer has aged."""
    asks = 0

    async def ask() -> Sequence[Finding]:
        nonlocal asks
        asks += 1
        await asyncio.sleep(0.05)
        return [Finding("a", State.OK, "fine")]

    probe = Probe(["a"], ask)
    found = await asyncio.gather(*(probe.findings() for _ in range(50)))
    assert {each[0].says for each in found} == {"fine"}
    await probe.findings()
    assert asks == 1
