"""OpenDroneMap itself, installed on this machine: `run.sh`, or whatever command runs it."""

import shlex
from pathlib import Path

from common.nodeodm.catalogue import ODM_OPTIONS
from node.engines import Engine

LONGEST_VERSION = 32
"""WebODM stores no more (contract 8.2)."""


def odm_engine(command: str) -> Engine:
    """ODM behind `command`, such as `/code/run.sh`. Its options are those of ODM 3.6.0."""
    words = shlex.split(command)
    return Engine("odm", version_beside(Path(words[-1])), tuple(words), ODM_OPTIONS)


def version_beside(program: Path) -> str:
    """The first line of ODM's VERSION file, `?` where there is none, as NodeODM has it (contract 2.3)."""
    try:
        lines = (program.parent / "VERSION").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return "?"
    return lines[0].strip()[:LONGEST_VERSION] if lines else "?"
