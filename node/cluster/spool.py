"""The console of one run, followed from its containers' logs and kept by line number in a file.

The kubelet rotates logs, and gives only what is left; so every line is kept here once it was seen. A mark beside the
lines tells how far each container was followed, and a journal tells of each line past the mark where it came from: so a
node that was killed at any moment goes on exactly where it was, and no line is ever missing or there twice.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from node.console import Console, clean_line
from node.manifests import CONSOLE_CAME_LATE, ENGINE, PUBLISH
from node.progress import Progress, advance
from node.workspace import write_json

logger = logging.getLogger(__name__)

MARK_EVERY_BYTES = 256 * 1024
ERROR_LINES = 10
_PUBLISH_PROGRESS: Mapping[str, float] = {"Compressing all.zip": 93.0, "Publishing products": 97.0}


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a run was followed."""

    bytes: int = 0
    """Size of the lines that are kept for sure."""
    followed: tuple[str, ...] = ()
    """Containers, as `pod uid/name`, whose logs were followed to their end."""
    source: str = ""
    """The container being followed, likewise."""
    moment: str = ""
    """Timestamp of the last line of it."""
    same: int = 0
    """How many lines of that very timestamp were seen."""
    stage: str = ""
    percent: float = 0.0
    publish_percent: float = 0.0
    error_lines: tuple[str, ...] = ()
    dropped: int = 0
    """Lines that found no room."""
    kept_bytes: int = -1
    """How much of the console lies in S3; -1 before any of it does."""
    kept_for: str = ""
    """The pod that it was last brought there for: each one's publish waits for it."""


class Spool:
    """One run's console, written by whoever follows it."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """`folder` is this run's own, made when missing; what an earlier life left in it is continued."""
        self._folder = folder
        self._most_bytes = most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = self._read_mark()
        self._size = self.mark.bytes
        self._marked = self.mark.bytes
        self._file: IO[bytes] | None = None
        self._journal: IO[bytes] | None = None
        self._skip = 0
        self._recover()
        self.console = Console(self.path)

    @property
    def path(self) -> Path:
        """The lines."""
        return self._folder / "console.log"

    @property
    def _journal_path(self) -> Path:
        return self._folder / "journal.log"

    @property
    def _mark_path(self) -> Path:
        return self._folder / "mark.json"

    def begin(self, source: str) -> str | None:
        """Follow this container from here on; gives the timestamp of its last line that is kept, None for the start."""
        if self.mark.source != source:
            self.mark = replace(self.mark, source=source, moment="", same=0)
        self._skip = self.mark.same if self.mark.moment else 0
        self._file = self._file or self.path.open("ab")
        self._journal = self._journal or self._journal_path.open("ab")
        return self.mark.moment or None

    def take(self, container: str, raw: bytes) -> None:
        """One line of a log with its timestamp; lines that were kept already are passed over."""
        moment, _, text = raw.partition(b" ")
        stamp = moment.decode("ascii", "replace")
        mark = self.mark
        if mark.moment and _order(stamp) < _order(mark.moment):
            return
        if stamp == mark.moment and self._skip > 0:
            self._skip -= 1
            return
        self._came_from(stamp)
        assert self._journal is not None
        begin = self._size
        for part in text.decode("utf-8", "replace").splitlines():
            self._keep(container, clean_line(part))
        self._journal.write(f"{mark.source} {stamp} {self._size - begin}\n".encode())
        if self._size - self._marked > MARK_EVERY_BYTES:
            self.save()

    def say(self, line: str) -> None:
        """A line of the node's own. It is marked at once, for no log will ever tell it again."""
        self._file = self._file or self.path.open("ab")
        self._write(clean_line(line).encode() + b"\n")
        self.save()

    def _came_from(self, stamp: str) -> None:
        mark = self.mark
        same = mark.same + 1 if stamp == mark.moment else 1
        self.mark = replace(mark, moment=stamp, same=same)

    def end(self, source: str) -> None:
        """This container's log has come to its end."""
        self.mark = replace(self.mark, followed=(*self.mark.followed, source), source="", moment="", same=0)
        self.close()

    def has_followed(self, source: str) -> bool:
        """Whether a container's log is here to its end."""
        return source in self.mark.followed

    def keep(self, size: int, pod: str) -> None:
        """The first `size` bytes of the console lie in S3, for this pod's publish to find."""
        self.mark = replace(self.mark, kept_bytes=size, kept_for=pod)
        self.save()

    @property
    def is_kept_whole(self) -> bool:
        """Whether the console lies in S3 to its last line."""
        return self.mark.kept_bytes == self._size or not self._size

    def save(self) -> None:
        """Mark how far we are; the journal begins anew."""
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._marked = self._size
        self.mark = replace(self.mark, bytes=self._size)
        write_json(self._mark_path, asdict(self.mark))
        if self._journal is not None:
            self._journal.truncate(0)

    def close(self) -> None:
        """No more lines; what is there can still be read."""
        self.save()
        for file in (self._file, self._journal):
            if file is not None:
                file.close()
        self._file = self._journal = None

    def flush(self) -> None:
        """Let readers see what was taken. Lines first: the journal never tells of one that is not there."""
        for file in (self._file, self._journal):
            if file is not None:
                file.flush()

    def _keep(self, container: str, line: str) -> None:
        if not line:
            return
        self._understand(container, line)
        data = line.encode() + b"\n"
        if self._size + len(data) > self._most_bytes:
            if not self.mark.dropped:
                self._write(
                    f"[WARNING] This console is longer than {self._most_bytes} bytes; the rest is left out.\n".encode()
                )
            self.mark = replace(self.mark, dropped=self.mark.dropped + 1)
            return
        self._write(data)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._size += len(data)

    def _understand(self, container: str, line: str) -> None:
        mark = self.mark
        if container == PUBLISH and line in _PUBLISH_PROGRESS:
            self.mark = replace(mark, publish_percent=max(mark.publish_percent, _PUBLISH_PROGRESS[line]))
        if container == PUBLISH and line == CONSOLE_CAME_LATE:
            self.mark = replace(mark, kept_for="")
        if container != ENGINE:
            return
        progress = advance(Progress(mark.stage, mark.percent), line)
        if progress.percent != mark.percent or progress.stage != mark.stage:
            mark = replace(mark, stage=progress.stage, percent=progress.percent)
        if line.startswith("[ERROR]"):
            mark = replace(mark, error_lines=(*mark.error_lines, line)[-ERROR_LINES:])
        self.mark = mark

    def _read_mark(self) -> Mark:
        try:
            document: dict[str, Any] = json.loads(self._mark_path.read_text())
        except FileNotFoundError:
            return Mark()
        lists = {name: tuple(document[name]) for name in ("followed", "error_lines")}
        return Mark(**document | lists)

    def _recover(self) -> None:
        """Go on where a killed node was: by its mark, and past that by its journal."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self.mark.bytes:
            logger.warning("%s is shorter than its mark; it is followed anew", self.path)
            self.mark, self._size, self._marked = Mark(), 0, 0
        else:
            self._replay(size)
        with self.path.open("ab") as file:
            file.truncate(self._size)
        self._journal_path.unlink(missing_ok=True)
        self.save()

    def _replay(self, size: int) -> None:
        entries = self._journal_path.read_bytes().splitlines(keepends=True) if self._journal_path.exists() else []
        with self.path.open("rb") if size else BytesIO() as lines:
            lines.seek(self._size)
            for entry in entries:
                if not entry.endswith(b"\n"):
                    return
                source, stamp, length = entry.decode().split()
                if self._size + int(length) > size:
                    return
                if source != self.mark.source:
                    self.mark = replace(self.mark, source=source, moment="", same=0)
                self._came_from(stamp)
                for line in lines.read(int(length)).decode("utf-8", "replace").splitlines():
                    self._understand(source.rpartition("/")[2], line)
                self._size += int(length)


def _order(stamp: str) -> tuple[str, str]:
    """Timestamps in the order of time: their fractions drop zeros at the end, so text alone does not do."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")
