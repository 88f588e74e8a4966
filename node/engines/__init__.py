"""The engines that process images: how each is called, and what it offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from common.nodeodm.options import Option, Setting
from common.tasks import Task
from node.runs import Order


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


class EngineInUse:
    """The engine as it is known now: its real options may be learned while the node runs."""

    def __init__(self, engine: Engine) -> None:
        """`engine`: as it is known at the start."""
        self.now = engine


def order_for(task: Task, engine: Engine, max_images: int | None) -> Order:
    """What the run of a task is told."""
    return Order(
        uuid=task.uuid,
        attempt=task.attempt,
        engine=engine.name,
        engine_version=engine.version,
        command=engine.command,
        input=task.input,
        output=task.output,
        options=task.options,
        outputs=task.outputs,
        wishes=task.wishes,
        max_images=max_images,
        first_attempt=task.first_attempt,
    )


def argv(command: Sequence[str], projects: PurePath, dataset: str, settings: Sequence[Setting]) -> list[str]:
    """The argument list for one project. No shell ever sees it (contract 7.2)."""
    arguments = [part for setting in settings for part in _argument(setting)]
    return [*command, *arguments, "--project-path", str(projects), dataset]


def _argument(setting: Setting) -> list[str]:
    """`true` is a bare flag and `false` nothing; a value is glued on, for it may begin with a dash."""
    if isinstance(setting.value, bool):
        return [f"--{setting.name}"] if setting.value else []
    return [f"--{setting.name}={setting.value}"]
