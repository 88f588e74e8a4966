"""`scaleodm`: one command for everything. What it can do lies in `common.command`."""

import os
import sys
from collections.abc import Sequence

_PROGRAMS = ("router", "node")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    if len(given) == 1 and given[0] in _PROGRAMS:
        # Straight there: images of a router or node need nothing of the command line.
        os.execv(sys.executable, [sys.executable, "-m", given[0]])  # noqa: S606 - our own program, no shell
    try:
        from common.command.app import run
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        sys.stderr.write("The command line is not installed here. Install: pip install 'scaleodm[cli]'\n")
        return 2
    return run(given)
