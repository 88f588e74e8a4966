"""The stack of compose.yml under a name of its own, on free ports, with secrets from deploy/compose/new-env.sh."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from common.embedded.children import free_port
from tests.images.bases import ROOT, Bases
from tests.images.engine import Engine
from tests.images.images import PREFIX
from tests.waiting import wait_until

HEALTHY_WITHIN_S = 240.0
IMPATIENT = Path(__file__).with_name("impatient.yml")


@dataclass(frozen=True)
class ComposeStack:
    """A running stack."""

    engine: Engine
    project: str
    env_file: Path

    @property
    def values(self) -> dict[str, str]:
        """What its .env says."""
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    @property
    def url(self) -> str:
        """The one address."""
        return f"http://127.0.0.1:{self.values['ROUTER_PORT']}"

    @property
    def client_url(self) -> str:
        """What PyODM is given."""
        return f"{self.url}?token={self.values['SCALEODM_ROUTER_USER_TOKEN']}"

    def compose(self, *arguments: str, within_s: float = 600.0) -> str:
        """Run compose on it."""
        files = ["-f", str(ROOT / "compose.yml"), "-f", str(IMPATIENT)]
        own = ["--project-name", self.project, "--env-file", str(self.env_file), "--project-directory", str(ROOT)]
        return self.engine.compose_with([*files, *own, *arguments], {}, within_s)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        return self.compose("ps", "--quiet", service).strip() or self._stopped(service)

    def _stopped(self, service: str) -> str:
        labels = [f"label=com.docker.compose.{key}" for key in (f"project={self.project}", f"service={service}")]
        return self.engine.docker("ps", "--all", "--quiet", *(f"--filter={each}" for each in labels)).strip()

    def state(self, service: str) -> dict[str, Any]:
        """Its container's state as the engine has it."""
        return dict(self.engine.inspected(self.container(service))["State"])

    def is_healthy(self, service: str) -> bool:
        """Whether it runs and its health check says so."""
        return str(self.state(service).get("Health", {}).get("Status")) == "healthy"

    def kill(self, service: str) -> None:
        """As a machine that loses power; nobody starts it again but `start`."""
        self.engine.docker("kill", self.container(service))

    def start(self, service: str) -> None:
        """Once more, until it is healthy."""
        self.engine.docker("start", self._stopped(service))
        wait_until(lambda: self.is_healthy(service), f"{service} to be healthy again", HEALTHY_WITHIN_S)

    def asked(self, path: str, token: str = "SCALEODM_ROUTER_ADMIN_TOKEN") -> Any:
        """What the one address answers to a GET."""
        headers = {"Authorization": f"Bearer {self.values[token]}"}
        return httpx.get(self.url + path, headers=headers, timeout=30).raise_for_status().json()


def new_env(folder: Path, changes: dict[str, str]) -> Path:
    """A .env as the documented command makes it, with these values in place of its own."""
    path = folder / "env"
    subprocess.run(["sh", str(ROOT / "deploy/compose/new-env.sh"), str(path)], check=True, capture_output=True)
    lines = [
        f"{name}={changes[name]}" if "=" in line and (name := line.split("=", 1)[0]) in changes else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@contextlib.contextmanager
def running_stack(engine: Engine, bases: Bases, folder: Path) -> Iterator[ComposeStack]:
    """All of it, healthy; away with its volumes afterwards."""
    ports = {"ROUTER_PORT": str(free_port()), "S3_PORT": str(free_port())}
    env_file = new_env(folder, {"IMAGE_PREFIX": PREFIX} | ports | dict(bases.settings))
    stack = ComposeStack(engine, f"scaleodm-{os.getpid()}", env_file)
    try:
        _bring_up(stack)
        yield stack
    finally:
        stack.compose("--profile", "test", "down", "--volumes", "--remove-orphans", "--timeout", "20")


def _bring_up(stack: ComposeStack) -> None:
    """Until everything is healthy; what hinders it is told with what the containers have said."""
    try:
        stack.compose("up", "-d", "--no-build")
        for service in ("postgres", "s3", "router-1", "router-2", "proxy", "node-1", "node-2"):
            wait_until(partial(stack.is_healthy, service), f"{service} is healthy", HEALTHY_WITHIN_S)
        wait_until(lambda: _healthy_nodes(stack) == ["node-1", "node-2"], "both nodes have joined", 60)
    except AssertionError as failed:
        failed.add_note(stack.compose("ps") + stack.compose("logs", "--no-color", "--tail", "30"))
        raise


def _healthy_nodes(stack: ComposeStack) -> list[str]:
    return sorted(each["name"] for each in stack.asked("/admin/nodes") if each["health"] == "healthy")
