"""Workspaces of runs that have ended, kept for a while: a restart may go on in one (`rerun-from`).

Each is a folder of its own, `<kept>/<uuid>/`, with the engine's project and a note of what it is. It comes here and
leaves again by renaming, within one filesystem: whole or not at all, whatever dies when.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from node.workspace import Inputs, Workspace, write_json

logger = logging.getLogger(__name__)

_NOTE = "kept.json"
_PROJECT = "project"
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Kept:
    """One workspace that was kept."""

    uuid: str
    attempt: int
    """The attempt that worked in it last."""
    tenant: str
    forwarded: bool
    """The router knows of the task."""
    since_ms: int
    bytes: int
    inputs: Inputs


def to_drop(kept: Iterable[Kept], now_ms: int, keep_h: float, most_bytes: int) -> list[Kept]:
    """Those whose time is over, and beyond that the oldest ones, until the rest has room in `most_bytes`."""
    dropped, used, is_full = [], 0, False
    for each in sorted(kept, key=lambda each: each.since_ms, reverse=True):
        is_full = is_full or used + each.bytes > most_bytes
        if is_full or now_ms - each.since_ms > keep_h * HOUR_MS:
            dropped.append(each)
        else:
            used += each.bytes
    return dropped


class KeptWorkspaces:
    """The kept workspaces of one node. What changes files blocks: it is for threads."""

    def __init__(self, folder: Path, keep_h: float, most_bytes: int) -> None:
        """`folder` must be on the filesystem of the workspaces themselves. Nothing is kept with `keep_h` 0."""
        self._folder = folder
        self._keep_h = keep_h
        self._most_bytes = most_bytes
        self._kept: dict[str, Kept] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            self._find(path)

    def _find(self, path: Path) -> None:
        """A workspace of an earlier life of this node; what did not become one goes."""
        try:
            self._kept[path.name] = _kept_of(json.loads((path / _NOTE).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)

    def all(self) -> list[Kept]:
        """Every one."""
        return list(self._kept.values())

    def keep(self, workspace: Workspace, uuid: str, attempt: int, tenant: str, forwarded: bool, now_ms: int) -> None:
        """Take the project of a run that has ended out of its workspace, unless there is a later one, or none at all.

        Without all of its images it is of no use; then it goes.
        """
        project, inputs = workspace.project(uuid), workspace.inputs()
        known = self._kept.get(uuid)
        if known is not None and known.attempt > attempt:
            inputs = None
        if inputs is None or not self._keep_h or not project.is_dir():
            shutil.rmtree(project, ignore_errors=True)
            return
        self.drop(uuid)
        draft = self._folder / f"{uuid}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        kept = Kept(uuid, attempt, tenant, forwarded, now_ms, size_of(project), inputs)
        project.rename(draft / _PROJECT)
        write_json(draft / _NOTE, asdict(kept))
        draft.rename(self._folder / uuid)
        self._kept[uuid] = kept
        logger.info("the workspace of task %s attempt %d is kept (%.1f GiB)", uuid, attempt, kept.bytes / 2**30)

    def give(self, workspace: Workspace, uuid: str, attempt: int, tenant: str) -> bool:
        """Move the workspace of an earlier attempt of this task into that of a new one; whether there was one."""
        kept = self._kept.get(uuid)
        if kept is None or kept.attempt >= attempt or kept.tenant != tenant:
            return False
        del self._kept[uuid]
        shutil.rmtree(workspace.reused, ignore_errors=True)
        workspace.reused.parent.mkdir(parents=True, exist_ok=True)
        (self._folder / uuid).rename(workspace.reused)
        return True

    def drop(self, uuid: str) -> None:
        """Delete one, if it is there."""
        if self._kept.pop(uuid, None) is not None:
            shutil.rmtree(self._folder / uuid, ignore_errors=True)

    def clean(self, now_ms: int) -> None:
        """Delete those whose time is over, and the oldest ones where they take more than they may.

        They may take so many bytes, and never more than half of what the disk would have free without them.
        """
        taken = sum(each.bytes for each in self._kept.values())
        room = (shutil.disk_usage(self._folder).free + taken) // 2
        for each in to_drop(self.all(), now_ms, self._keep_h, min(self._most_bytes, room)):
            logger.info("the kept workspace of task %s goes (%.1f GiB)", each.uuid, each.bytes / 2**30)
            self.drop(each.uuid)


def reused_by(workspace: Workspace, uuid: str) -> Kept | None:
    """The workspace that a new attempt was given, and whose project is from now on its own. Safe to repeat."""
    try:
        kept = _kept_of(json.loads((workspace.reused / _NOTE).read_text()))
    except FileNotFoundError:
        return None
    project = workspace.project(uuid)
    if (workspace.reused / _PROJECT).exists():
        shutil.rmtree(project, ignore_errors=True)
        project.parent.mkdir(parents=True, exist_ok=True)
        (workspace.reused / _PROJECT).rename(project)
    return kept if project.is_dir() else None


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    found = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 - a hundred thousand of them
    return found


def _kept_of(document: dict[str, object]) -> Kept:
    inputs = document["inputs"]
    assert isinstance(inputs, dict)
    return Kept(**document | {"inputs": Inputs(**inputs)})  # type: ignore[arg-type]
