"""Files of this machine on their way to a router or node: many at once, each again when its connection breaks."""

import io
import mimetypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from common.command.api import Api
from common.command.endings import Exit, Trouble
from common.references import belongs_to_input, is_archive, is_image

AT_ONCE = 6
"""Connections: PyODM uses 10, and more than a few make nothing faster."""


def files_of(path: Path) -> list[Path]:
    """What of a folder, or which single archive, makes a task. Raises `Trouble`."""
    if path.is_file():
        if not is_archive(path.name):
            raise Trouble(
                Exit.USAGE, f"{path} is neither a folder nor an archive. Give the folder that holds your images."
            )
        return [path]
    if not path.is_dir():
        raise Trouble(Exit.USAGE, f"{path} is not there. Give a folder of images, an archive, or s3://bucket/prefix/.")
    found = sorted(each for each in path.iterdir() if each.is_file() and belongs_to_input(each.name))
    if not any(is_image(each.name) or is_archive(each.name) for each in found):
        inner = next((each.name for each in sorted(path.iterdir()) if each.is_dir()), None)
        more = f" Folders in it are not looked into; did you mean {path / inner}?" if inner else ""
        raise Trouble(Exit.USAGE, f"{path} holds no images (.jpg, .tif and the like).{more}")
    unreadable = next((each for each in found if not _can_be_read(each)), None)
    if unreadable is not None:
        raise Trouble(Exit.USAGE, f"{unreadable} cannot be read. Is it yours?")
    return found


def _can_be_read(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


class Sent:
    """How much of all is on its way, and tells so."""

    def __init__(self, whole: int, tell: Callable[[float], None]) -> None:
        """`whole` bytes; `tell` hears percents."""
        self._whole = max(1, whole)
        self._tell = tell
        self._done = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        """So many bytes more, or fewer where they go once more."""
        with self._lock:
            self._done += count
            self._tell(min(99.0, 100 * self._done / self._whole))


class _CountedFile(io.FileIO):
    """A file that tells what is read of it."""

    def __init__(self, path: Path, sent: Sent) -> None:
        super().__init__(path)
        self._sent = sent
        self.given = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes, counted."""
        block = super().read(-1 if size is None else size) or b""
        self.given += len(block)
        self._sent.add(len(block))
        return block


def send_files(api: Api, uuid: str, files: Sequence[Path], tell: Callable[[float], None]) -> None:
    """Every file of an open upload. Raises the first `Trouble`; the rest is not begun then."""
    sent = Sent(sum(each.stat().st_size for each in files), tell)
    with ThreadPoolExecutor(min(AT_ONCE, len(files)), thread_name_prefix="upload") as pool:
        under_way = [pool.submit(api.repeated, _sender(api, uuid, each, sent)) for each in files]
        try:
            for each in under_way:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tell(100)


def _sender(api: Api, uuid: str, path: Path, sent: Sent) -> Callable[[], Any]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"

    def send() -> Any:  # noqa: ANN401 - JSON
        with _CountedFile(path, sent) as file:
            try:
                return api.ask("POST", f"/task/new/upload/{uuid}", files={"images": (path.name, file, kind)})
            except Trouble:
                sent.add(-file.given)
                raise

    return send
