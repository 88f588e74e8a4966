"""Starts runs from a process that has all their code in memory already, and only forks.

A Python that imports boto3 anew takes a third of a second of processor time, a fork a few milliseconds; and what was
imported before it is one memory for all runs. `python -m node.launching` reads the folders of runs, one a line, from
its input, answers each when the run is on record, and ends with its input: with the node. Its runs go on.
"""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

import psutil
from setproctitle import setproctitle

from common.counting import S3Traffic
from common.settings import S3Settings, read_settings
from common.storage import Storage
from common.tracing import preload
from node.stages import run
from node.workspace import Workspace

_BEGUN = "begun"
_FORKS = sys.platform == "linux"
"""Elsewhere the system's own libraries may not bear to be forked."""


class RunNotStarted(OSError):
    """No process could be made for a run; the text says why."""


class Launcher:
    """Starts the runs of one node. It is safe to ask for the same run twice: a workspace has one run at most."""

    def __init__(self, forks: bool = _FORKS) -> None:
        """`forks`: False makes every run a Python of its own, which works on any system."""
        self._forks = forks
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    async def warm(self) -> None:
        """Have everything imported before the first run is asked for."""
        if self._forks:
            await asyncio.to_thread(self._warm)

    async def start(self, workspace: Workspace) -> None:
        """Start the run of this workspace; its process is on record there afterwards. Raises `RunNotStarted`."""
        # A thread, so that a caller that gives up leaves no half conversation behind.
        await asyncio.to_thread(self._fork if self._forks else self._spawn, workspace)

    def close(self) -> None:
        """Let the process end; no run is touched."""
        with self._lock:
            self._leave()

    def _warm(self) -> None:
        with self._lock:
            self._running()

    def _fork(self, workspace: Workspace) -> None:
        with self._lock:
            # A process that has died is only found out by asking.
            answer = self._ask(workspace) or self._ask(workspace)
        if answer != _BEGUN:
            raise RunNotStarted(f"No run could be started in {workspace.folder}: {answer or 'its launcher has ended'}")

    def _ask(self, workspace: Workspace) -> str:
        """The answer for one workspace; empty where nobody is there to give one."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{workspace.folder}\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._leave()
        return answer

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is not None:
            self._leave()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.launching"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        return self._process

    def _leave(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            process.terminate()

    def _spawn(self, workspace: Workspace) -> None:
        with _log_of(workspace).open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - our own module and a path of our own making
                [sys.executable, "-m", "node.stages.run", str(workspace.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        workspace.save_process(child.pid, psutil.Process(child.pid).create_time())
        # Whoever asks whether it lives takes no notice of a zombie; this is for the process table.
        threading.Thread(target=child.wait, daemon=True, name=f"run {child.pid}").start()


def main() -> None:
    """Fork a run for each folder that comes in."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    preload()
    # Nothing is moved here: each run counts from nothing.
    traffic = S3Traffic()
    storage = Storage.from_settings(read_settings(S3Settings), traffic)
    gc.freeze()
    for line in sys.stdin:
        answer = _begin(Workspace(Path(line.rstrip("\n"))), storage, traffic)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _begin(workspace: Workspace, storage: Storage, traffic: S3Traffic) -> str:
    """Fork; what the child says first, or why there is none."""
    hears, says = os.pipe()
    try:
        pid = os.fork()
    except OSError as trouble:
        os.close(hears)
        os.close(says)
        return str(trouble)
    if pid == 0:
        os.close(hears)
        _be_a_run(workspace, storage, traffic, says)
    os.close(says)
    with open(hears) as pipe:  # noqa: PTH123 - a descriptor, not a path
        return pipe.read() or f"it ended at once; {_log_of(workspace)} may say why"


def _be_a_run(workspace: Workspace, storage: Storage, traffic: S3Traffic, says: int) -> NoReturn:
    """All that the child ever does."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        setproctitle(f"scaleodm run {workspace.folder}")
        _redirect(_log_of(workspace))
        run.carry_out(workspace, storage, traffic, lambda: _say(says))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - this process is a copy of another, into whose code it must not return
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _say(says: int) -> None:
    os.write(says, _BEGUN.encode())
    os.close(says)


def _redirect(log: Path) -> None:
    """Nothing to read, and everything that is said goes to the log."""
    for path, flags, descriptors in (
        (Path(os.devnull), os.O_RDONLY, (0,)),
        (log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, (1, 2)),
    ):
        opened = os.open(path, flags, 0o644)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)


def _log_of(workspace: Workspace) -> Path:
    return workspace.folder / "run.log"


if __name__ == "__main__":
    main()
