"""The engines that process images: how each is called, and what it offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.nodeodm.options import Option, Setting


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine with ODM's command line (contract 9.1)."""

    name: str
    """As `/info` tells it."""
    version: str
    """At most 32 characters: WebODM stores no more."""
    command: tuple[str, ...]
    """The argv that options are appended to."""
    options: tuple[Option, ...]
    """What it honours. An option that is not here is not silently ignored: it is not offered."""


def argv(
    command: Sequence[str], projects: Path, dataset: str, settings: Sequence[Setting], files: Mapping[str, Path]
) -> list[str]:
    """The argument list for one project. No shell ever sees it (contract 7.2)."""
    arguments = [part for setting in settings for part in _argument(setting)]
    arguments += [f"--{flag}={path}" for flag, path in files.items()]
    return [*command, *arguments, "--project-path", str(projects), dataset]


def _argument(setting: Setting) -> list[str]:
    """`true` is a bare flag and `false` nothing; a value is glued on, for it may begin with a dash."""
    if isinstance(setting.value, bool):
        return [f"--{setting.name}"] if setting.value else []
    return [f"--{setting.name}={setting.value}"]
