"""Machines of their own: network namespaces on a switch of their own, made for a test and gone with it.

A machine has addresses on the switch, a loopback, and nothing else: no way to any other network, nor to this one.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.embedded.children import Child, start_child

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")
_ETC = Path("/etc/netns")


def why_impossible() -> str | None:
    """Why no namespaces can be made here; None where they can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip` here (Debian's package iproute2)"
    name = f"scaleodm-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespace can be made here: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@dataclass
class Machine:
    """One machine."""

    namespace: str
    address: str

    def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """Start a program there."""
        return start_child(name, ["ip", "netns", "exec", self.namespace, *argv], environment, log)

    def move(self, address: str) -> None:
        """Give it another address in place of the one it has."""
        _ip("-n", self.namespace, "addr", "del", f"{self.address}/24", "dev", "eth0")
        self.address = address
        self.has(address)

    def has(self, address: str) -> None:
        """It gets one more address."""
        _ip("-n", self.namespace, "addr", "add", f"{address}/24", "dev", "eth0")

    def knows(self, names: Mapping[str, str]) -> None:
        """The names that programs which are started there find, with their addresses."""
        folder = _ETC / self.namespace
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **names}.items())
        # In place: `ip netns exec` has mounted this very file.
        (folder / "hosts").write_text(lines)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread connects to within the block, it does from that machine."""
        with Path("/proc/thread-self/ns/net").open() as here, (_NAMED / self.namespace).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())


@dataclass
class Switch:
    """What the machines of one test are plugged into."""

    prefix: str = field(default_factory=lambda: f"scaleodm-{secrets.token_hex(3)}")
    machines: list[Machine] = field(default_factory=list)

    def machine(self, name: str, address: str) -> Machine:
        """A new machine with this address."""
        namespace, port = f"{self.prefix}-{name}", f"port{len(self.machines)}"
        machine = Machine(namespace, address)
        _ip("netns", "add", namespace)
        self.machines.append(machine)
        _ip("-n", self._own, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._own, "link", "set", port, "master", "switch", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        machine.has(address)
        return machine

    @property
    def _own(self) -> str:
        return f"{self.prefix}-switch"

    def plug_in(self) -> None:
        """Make the switch itself."""
        _ip("netns", "add", self._own)
        _ip("-n", self._own, "link", "add", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        _ip("-n", self._own, "link", "set", "switch", "up")

    def remove(self) -> None:
        """Everything that was made, as far as it was."""
        for namespace in (*(each.namespace for each in self.machines), self._own):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
            shutil.rmtree(_ETC / namespace, ignore_errors=True)
        with contextlib.suppress(OSError):
            _ETC.rmdir()


@contextlib.contextmanager
def switch() -> Iterator[Switch]:
    """A switch without machines."""
    made = Switch()
    try:
        made.plug_in()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
