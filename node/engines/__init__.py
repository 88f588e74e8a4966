"""The engines that process images: how each is called, and what it offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.nodeodm.options import Option, Setting


class EngineUnknown(Exception):
    """No engine of this name is known here."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine with ODM's command line (contract 9.1)."""

    name: str
    """As `/info` tells it."""
    version: str
    """At most 32 characters: WebODM stores no more."""
    command: tuple[str, ...]
    """The argv that the options are appended to."""
    options: tuple[Option, ...]
    """What it honours. An option that is not here is not silently ignored: it is not offered."""

    def argv(self, projects: Path, dataset: str, settings: Sequence[Setting], files: Mapping[str, Path]) -> list[str]:
        """The argument list for one project. No shell ever sees it (contract 7.2)."""
        offered = {option.name for option in self.options}
        arguments = [part for setting in settings if setting.name in offered for part in _argument(setting)]
        for flag, path in files.items():
            arguments += [f"--{flag}", str(path)]
        return [*self.command, *arguments, "--project-path", str(projects), dataset]


def _argument(setting: Setting) -> list[str]:
    """`true` is a bare flag and `false` nothing; a value is glued on, for it may begin with a dash."""
    if isinstance(setting.value, bool):
        return [f"--{setting.name}"] if setting.value else []
    return [f"--{setting.name}={setting.value}"]


def engine_named(name: str) -> Engine:
    """The engine of this name."""
    from node.engines.orthomosaic import ORTHOMOSAIC

    known = {ORTHOMOSAIC.name: ORTHOMOSAIC}
    if name not in known:
        raise EngineUnknown(f"No engine is named {name!r}; known are: {', '.join(known)}. Set SCALEODM_NODE_ENGINE.")
    return known[name]
