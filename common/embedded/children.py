"""Programs that run for us: started with their output in a file, waited for, ended whole."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_WITHIN_S = 60.0
"""A loaded machine may take long; a program that has ended is noticed at once."""
GRACE_S = 15.0
_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""


class ChildFailed(Exception):
    """A program that the stack needs did not start; the text quotes what it last said."""


@dataclass(frozen=True, slots=True)
class Child:
    """One program, leader of its own process group."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_until(self, ready: Callable[[], bool], within_s: float = START_WITHIN_S) -> None:
        """Wait until `ready`; raises `ChildFailed` when the program ends first, or when the time is over."""
        deadline = time.monotonic() + within_s
        while not ready():
            if self.process.poll() is not None:
                raise ChildFailed(f"{self.name} ended with code {self.process.returncode}.{self._last_words()}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready after {within_s:.0f} s.{self._last_words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to whatever of its group is left. Safe to repeat."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "".join(f"\n  {line}" for line in (*lines, f"(all of it: {self.log})"))


def start_child(name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
    """Start a program. It hears SIGTERM when we die, however we die."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - argv lists of our own making
            list(argv),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return Child(name, process, log)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until this block is done, and raise `KeyboardInterrupt` then.

    For starting a program and noting that it was started, and for stopping: in between, a program would be left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda heard, _: caught.append(heard)) for number in numbers}
    try:
        yield
    except Exception:
        # Ctrl-C reaches the whole foreground group: what failed in here failed because of it.
        if not caught:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether we could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
