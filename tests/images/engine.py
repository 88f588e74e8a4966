"""A container engine for the tests: the machine's own, or a dockerd of our own on a socket of our own.

Ours is started where there is none and we are root (Debian's package docker.io has it). It is away with all that it
made when the tests are over: containers, networks, bridge, rules of the firewall, files.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.embedded.children import ChildFailed, start_child

BUILD_WITHIN_S = 1800.0
"""A machine that others use too downloads and compiles for long."""
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class NoEngine(Exception):
    """There is none, and none can be started; the text says why."""


class CommandFailed(AssertionError):
    """A command of the engine's ended badly; the text has what it said."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where an engine is, and the clients that speak with it."""

    client: str
    compose: tuple[str, ...]
    host: str | None
    """Its address; None where the clients know it."""

    @property
    def is_our_own(self) -> bool:
        """Whether we have started it."""
        return self.host is not None

    def docker(self, *arguments: str, within_s: float = 120.0) -> str:
        """Run the client; gives what it says. Raises `CommandFailed`."""
        return self._run([self.client, *arguments], {}, within_s)

    def compose_with(self, arguments: Sequence[str], settings: Mapping[str, str], within_s: float = 600.0) -> str:
        """Run compose with these settings beside its file of them. Raises `CommandFailed`."""
        return self._run([*self.compose, *arguments], settings, within_s)

    def inspected(self, name: str) -> dict[str, Any]:
        """What the engine knows of an image, a container or a volume."""
        (found,) = json.loads(self.docker("inspect", name))
        return dict(found)

    def answers(self) -> bool:
        """Whether it is there."""
        with contextlib.suppress(CommandFailed):
            self.docker("version", within_s=20)
            return True
        return False

    def _run(self, argv: Sequence[str], settings: Mapping[str, str], within_s: float) -> str:
        own = {"DOCKER_HOST": self.host} if self.host else {}
        environment = dict(os.environ) | {"DOCKER_BUILDKIT": "1", "COMPOSE_ANSI": "never"} | own | dict(settings)
        done = subprocess.run(
            list(argv), env=environment, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
            raise CommandFailed(f"{' '.join(argv[:4])} … ended with {done.returncode}:\n{said}")
        return done.stdout


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """One that answers. Raises `NoEngine`."""
    client = _client()
    compose = _compose(client)
    if (here := Engine(client, compose, None)).answers():
        yield here
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise NoEngine("no container engine answers, and root with Debian's docker.io could start one")
    with _own(client, compose) as own:
        yield own


def _client() -> str:
    """A client that can build with secrets; an old one beside a new one without its plugin is the better one."""
    candidates = dict.fromkeys(each for each in (shutil.which("docker"), "/usr/bin/docker") if each)
    for each in candidates:
        if Path(each).exists() and "--secret" in _help(each):
            return each
    raise NoEngine(f"no docker client here can build with secrets (looked at: {', '.join(candidates) or 'none'})")


def _help(client: str) -> str:
    environment = dict(os.environ) | {"DOCKER_BUILDKIT": "1"}
    return subprocess.run([client, "build", "--help"], env=environment, capture_output=True, text=True).stdout


def _compose(client: str) -> tuple[str, ...]:
    if subprocess.run([client, "compose", "version"], capture_output=True).returncode == 0:
        return (client, "compose")
    if found := shutil.which("docker-compose"):
        return (found,)
    raise NoEngine("neither the plugin `docker compose` nor docker-compose is here; Debian's docker-compose will do")


@contextlib.contextmanager
def _own(client: str, compose: tuple[str, ...]) -> Iterator[Engine]:
    """A dockerd below a folder of its own."""
    # Short: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="scaleodm-images-"))
    own = Engine(client, compose, f"unix://{folder}/engine.sock")
    with _network_as_before():
        argv = ["dockerd", "--host", str(own.host), "--pidfile", f"{folder}/pid"]
        argv += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
        daemon = start_child("dockerd", argv, os.environ, folder / "log")
        try:
            try:
                daemon.wait_until(own.answers, within_s=60)
            except ChildFailed as failed:
                raise NoEngine(f"an engine of our own did not start: {failed}") from failed
            yield own
            for each in own.docker("ps", "--quiet", "--all").split():
                own.docker("rm", "--force", "--volumes", each)
        finally:
            daemon.stop()
            # One that did not end by itself leaves this mounted.
            subprocess.run(["umount", f"{folder}/exec/netns/default"], check=False, capture_output=True)
            subprocess.run(["rm", "-rf", str(folder)], check=False)


@contextlib.contextmanager
def _network_as_before() -> Iterator[None]:
    """What an engine does to the machine's network is undone."""
    rules = {each: _said([each]) for each in ("iptables-save", "ip6tables-save") if shutil.which(each)}
    forwarding = _FORWARDING.read_text()
    before = _bridges()
    try:
        yield
    finally:
        for bridge in _bridges() - before:
            subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
        for command, saved in rules.items():
            restore = command.replace("save", "restore")
            subprocess.run([restore], input=saved, text=True, check=False, capture_output=True)
        _FORWARDING.write_text(forwarding)


def _bridges() -> set[str]:
    return {path.parent.name for path in Path("/sys/class/net").glob("*/bridge")}


def _said(argv: Sequence[str]) -> str:
    return subprocess.run(list(argv), capture_output=True, text=True, check=True).stdout
