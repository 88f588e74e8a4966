"""What holds between a split task and its parts. Pure."""

from collections.abc import Iterable
from dataclasses import replace

from common.families import Family, is_current
from common.tasks import ENDED, State, Task, canceled

PARENT_OVER = "The run that sent this part of a split task is over."


def part_of(parent: Task, part: Task) -> Task:
    """A part as its parent's owner would have sent it: it goes where its parent may go, and is as urgent."""
    wishes = replace(parent.wishes, scan_depth=None, exclude=(), replaceable=True)
    return replace(part, name=f"Part of {parent.name}", tenant=parent.tenant, webhook=None, wishes=wishes)


def unwanted(parts: Iterable[Task], parent: Task | None) -> list[Task]:
    """Parts that nobody waits for any more: they are to be ended, and where their parent was removed, removed.

    The attempt that sent them is over, with its task or before its task begins anew (`common.families.is_current`).
    """
    if parent is None:
        return list(parts)
    return [part for part in parts if part.state not in ENDED and not _is_wanted(part, parent)]


def _is_wanted(part: Task, parent: Task) -> bool:
    family = Family.parse(part.family)
    return family is None or is_current(family, parent)


def ended_with_parent(part: Task) -> Task:
    """A part that nobody waits for any more."""
    return replace(canceled(part), error=PARENT_OVER)


def is_given_back(part: Task, waited_s: float, bound_s: float) -> bool:
    """Whether a part's own parent is told that it is gone, which ODM takes as a reason to try again.

    Either it has begun, lost its node, and waits for another slot for too long: for that it is not shown as 10 (I6). Or
    it was ended with an attempt that had been given up, and goes on after all: 50 would be the end of that too.
    """
    if not part.family:
        return False
    waits = part.begun and part.state is State.QUEUED and waited_s > bound_s
    return waits or (part.state is State.CANCELED and part.error == PARENT_OVER)
