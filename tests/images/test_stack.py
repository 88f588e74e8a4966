"""compose.yml, running: the one address, the two routers and nodes behind it, and what of them may fail."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyodm import Node
from pyodm.api import Task

from tests.images.images import USER
from tests.images.stack import ComposeStack
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(3600)
SERVICES = ("postgres", "s3", "proxy", "router-1", "router-2", "node-1", "node-2")


def submitted(stack: ComposeStack, flight: list[str], name: str) -> Task:
    """README's example, up to its task."""
    return Node.from_url(stack.client_url).create_task(flight, {"fast-orthophoto": True}, name=name)


def node_of(stack: ComposeStack, task: Task) -> str | None:
    """Where it runs now."""
    told = stack.asked(f"/task/{task.uuid}/why", "SCALEODM_ROUTER_USER_TOKEN")
    return told["node"] if told["attempts"] and task.info().status.value == 20 else None


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_rights_and_a_read_only_root(stack: ComposeStack, service: str) -> None:
    """Seen from outside, whatever its image says."""
    container = stack.container(service)
    host = stack.engine.inspected(container)["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert [each.upper() for each in host["CapDrop"]] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    pid = stack.state(service)["Pid"]
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    user = int(status["Uid"].split()[0])
    assert user == USER if service.startswith(("router", "node")) else user != 0 or service == "s3"


def test_the_database_is_on_no_network_of_the_nodes(stack: ComposeStack) -> None:
    """Nor is any port open on the machine but the two that clients use."""
    ports = {service: sorted(port for port, bound in _ports(stack, service).items() if bound) for service in SERVICES}
    assert {service: found for service, found in ports.items() if found} == {"proxy": ["3000/tcp"], "s3": ["9000/tcp"]}
    networks = {service: _networks(stack, service) for service in ("postgres", "node-1")}
    assert not networks["postgres"] & networks["node-1"]


def _ports(stack: ComposeStack, service: str) -> dict[str, Any]:
    return dict(stack.engine.inspected(stack.container(service))["NetworkSettings"]["Ports"])


def _networks(stack: ComposeStack, service: str) -> set[str]:
    return set(stack.engine.inspected(stack.container(service))["NetworkSettings"]["Networks"])


def test_the_dashboard_is_a_path_of_the_one_address(stack: ComposeStack) -> None:
    """It asks who comes."""
    answer = httpx.get(f"{stack.url}/dashboard", follow_redirects=True, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


def test_the_command_line_is_in_the_image(stack: ComposeStack) -> None:
    """With what the container knows already, as docs/compose.md has it."""
    script = "SCALEODM_URL=http://127.0.0.1:3000 SCALEODM_TOKEN=$SCALEODM_ROUTER_ADMIN_TOKEN scaleodm nodes --json"
    said = stack.engine.docker("exec", stack.container("router-1"), "sh", "-c", script)
    assert sorted(each["name"] for each in json.loads(said)) == ["node-1", "node-2"]


def test_the_example_of_the_readme(stack: ComposeStack, flight: list[str], tmp_path: Path) -> None:
    """Images in, orthophoto out, by the unmodified PyODM."""
    task = submitted(stack, flight, "as README has it")
    task.wait_for_completion(interval=1)
    task.download_assets(str(tmp_path / "products"))
    assert (tmp_path / "products" / "odm_orthophoto" / "odm_orthophoto.tif").stat().st_size > 10_000


def test_a_task_survives_a_router_and_its_node(stack: ComposeStack, flight: list[str], tmp_path: Path) -> None:
    """Both killed while it runs: the other router answers, the other node does it, and both come back."""
    task = submitted(stack, flight, "a survivor")
    first = wait_until(lambda: node_of(stack, task), "a node runs the task", 120)
    stack.kill("router-1")
    assert task.info().uuid == task.uuid, "the other router answers at once"
    stack.kill(first)
    other = {"node-1": "node-2", "node-2": "node-1"}[first]
    task.wait_for_completion(interval=1)
    told = stack.asked(f"/task/{task.uuid}/why", "SCALEODM_ROUTER_USER_TOKEN")
    assert told["node"] == other
    assert len(told["attempts"]) == 2
    task.download_assets(str(tmp_path / "products"))
    assert (tmp_path / "products" / "odm_orthophoto" / "odm_orthophoto.tif").exists()
    stack.start("router-1")
    stack.start(first)
    wait_until(lambda: _is_healthy(stack, first), f"{first} takes part again", 60)


def _is_healthy(stack: ComposeStack, name: str) -> bool:
    return any(each["name"] == name and each["health"] == "healthy" for each in stack.asked("/admin/nodes"))


def test_a_program_that_crashes_is_started_again(stack: ComposeStack) -> None:
    """By its restart policy, without anybody."""
    before = stack.state("router-2")
    stack.engine.docker("exec", stack.container("router-2"), "python", "-c", "import os; os.kill(-1, 9)")
    wait_until(
        lambda: stack.state("router-2")["StartedAt"] != before["StartedAt"] and stack.is_healthy("router-2"),
        "router-2 is healthy again",
        120,
    )


def test_without_routers_a_connection_ends_and_no_5xx_is_said(stack: ComposeStack) -> None:
    """WebODM would give its task up after one (docs/compatibility.md); and as soon as one is back, it answers."""
    for service in ("router-1", "router-2"):
        stack.kill(service)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{stack.url}/info", timeout=30)
    stack.start("router-2")
    wait_until(lambda: _answers(stack), "the one address answers again", 30)
    stack.start("router-1")


def _answers(stack: ComposeStack) -> bool:
    try:
        return httpx.get(f"{stack.url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_polls_go_on_while_a_router_is_killed(stack: ComposeStack) -> None:
    """What can be asked twice is asked of the other; only an answer that was on its way may be cut, one for each."""
    over = threading.Event()
    failures: list[str] = []
    answered: list[int] = []

    def poll() -> None:
        with httpx.Client(timeout=30) as client:
            while not over.is_set():
                try:
                    answered.append(client.get(f"{stack.url}/healthz").status_code)
                except httpx.TransportError as failed:
                    failures.append(str(failed))

    pollers = [threading.Thread(target=poll) for _ in range(4)]
    for each in pollers:
        each.start()
    try:
        wait_until(lambda: len(answered) > 50, "polls are answered")
        stack.kill("router-1")
        before = len(answered)
        wait_until(lambda: len(answered) > before + 200, "polls go on being answered")
    finally:
        over.set()
        for each in pollers:
            each.join()
    assert [each for each in failures if "without sending complete message body" not in each] == []
    assert len(failures) <= len(pollers)
    assert set(answered) == {200}
    stack.start("router-1")


def test_no_log_has_a_secret(stack: ComposeStack) -> None:
    """After all of that."""
    said = stack.compose("logs", "--no-color")
    secrets = [value for name, value in stack.values.items() if name.startswith(("SCALEODM_", "POSTGRES_P", "AWS_S"))]
    assert len(secrets) == 6
    assert [value for value in secrets if value in said] == []


def test_the_tests_run_in_the_stack(stack: ComposeStack) -> None:
    """`docker compose run --rm test` runs them all; here the part that looks at the stack, and a story of its own."""
    said = stack.compose(
        *("--profile", "test", "run", "--rm", "-T", "test", "pytest", "-q", "-p", "no:cacheprovider"),
        *("tests/deploy/test_running_stack.py", "tests/router/test_placement.py", "tests/test_project.py"),
        within_s=1200,
    )
    assert " passed" in said
    assert " failed" not in said
    assert " skipped" not in said
