"""OpenDroneMap itself: installed on this machine (`run.sh`, or whatever command runs it), or in a container image."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.nodeodm.catalogue import ODM_OPTIONS
from common.nodeodm.options import Option
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


_NOT_OFFERED = frozenset(
    (
        *("-h", "name", "--project-path", "--cmvs-maxImages", "--time", "--zip-results", "--pmvs-num-cores"),
        *("--start-with", "--gcp", "--images", "--geo", "--align", "--split-image-groups", "--copy-to"),
        *("--rerun-all", "--rerun", "--slam-config", "--video", "--version"),
    )
)
"""Arguments of ODM's that are not the client's to give (contract 9.6)."""


def image_engine(image: str, command: str | None) -> Engine:
    """ODM in a container image, by its entry point, or by `command` where that is given."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return Engine("odm", (tag or "?")[:LONGEST_VERSION], tuple(shlex.split(command or "")), ODM_OPTIONS)


def options_of_parser(actions: Sequence[Mapping[str, Any]]) -> tuple[Option, ...]:
    """ODM's own parser as a catalogue, as NodeODM reads it (contract 9.6).

    `actions`: flag, type (the Python type's name), default, choices, metavar and help of each.
    """
    return tuple(_option_of(action) for action in actions if action["flag"] not in _NOT_OFFERED)


def _option_of(action: Mapping[str, Any]) -> Option:
    name, default = str(action["flag"]).lstrip("-"), action["default"]
    domain = str(action["metavar"]).strip("<>")
    if isinstance(default, bool):
        return Option(name, "bool", str(default).lower(), "", action["help"])
    if action["choices"]:
        members = tuple(action["choices"])
        # A stage to run from need not be given: clients expect to find that among its values.
        return Option(name, "enum", str(default), members if default else ("", *members), action["help"])
    kind = action["type"] if action["type"] in ("int", "float") else "string"
    return Option(name, kind, str(default), domain, action["help"])
