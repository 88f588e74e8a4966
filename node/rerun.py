"""Going on from a stage of an earlier attempt (`rerun-from`), and what is said where that cannot be. Pure."""

from collections.abc import Sequence

from common.nodeodm.options import Setting
from common.tasks import RERUN_OPTIONS


def is_rerun(option: Setting) -> bool:
    """Whether this option is of that kind."""
    return option.name in RERUN_OPTIONS


def without_rerun(options: Sequence[Setting]) -> tuple[Setting, ...]:
    """The options of a run that begins at the start."""
    return tuple(each for each in options if not is_rerun(each))


def with_rerun(options: Sequence[Setting]) -> tuple[Setting, ...]:
    """The options of a run that goes on: of an empty choice the engine wants to hear nothing."""
    return tuple(each for each in options if not is_rerun(each) or each.value)


def from_the_start(asked: Setting, attempt: int, reason: str = "was not kept") -> str:
    """What the console says where the workspace of the attempt before this one is not there to go on in."""
    if attempt <= 1:
        return f"[INFO] {asked.name} {asked.value}: this task has not run before, so this run begins at the start"
    workspace = f"the workspace of attempt {attempt - 1}"
    return f"[INFO] {asked.name} {asked.value}: {workspace} {reason}, so this run begins at the start"


def goes_on(asked: Setting, attempt: int, images_count: int) -> str:
    """What the console says where it is."""
    return (
        f"[INFO] {asked.name} {asked.value}: this run goes on in the workspace of attempt {attempt}, with the "
        f"{images_count} images that are there"
    )
