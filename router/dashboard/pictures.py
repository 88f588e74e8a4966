"""A small picture of a task's orthophoto, made of what the task has published.

No engine publishes a thumbnail, so one is made here: of the PNG that ODM makes on asking, or of the GeoTIFF itself
where that is not too large to fetch. Pillow does it, in a process of its own with limits of memory and time: a file
that comes from elsewhere must not be able to fell the router. Without Pillow, or for a larger file, there is none.
"""

import asyncio
import importlib.util
import logging
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.nodeodm.assets import Assets
from common.nodeodm.refusals import Refused
from common.storage import Storage, StorageFault
from common.tasks import Task

logger = logging.getLogger(__name__)

MOST_BYTES = 128 * 2**20
"""Of the file of which a preview is made."""
WITHIN_S = 30.0
_HAS_PILLOW = importlib.util.find_spec("PIL") is not None
_SOURCES = ("odm_orthophoto/odm_orthophoto.png", "odm_orthophoto/odm_orthophoto.tif")
_MOST_KEPT = 64
"""Pictures that are kept; none has more than some 300 kB."""


class NoPicture(Exception):
    """There is none; the text says why."""


def source_of(downloads: Sequence[Mapping[str, Any]]) -> str | None:
    """Of which product a preview can be made, if of any."""
    if not _HAS_PILLOW:
        return None
    sizes = {each["asset"]: each["size"] for each in downloads}
    return next((name for name in _SOURCES if 0 < sizes.get(name, 0) <= MOST_BYTES), None)


class Pictures:
    """Previews, one made at a time, the latest kept."""

    def __init__(self, storage: Storage, assets: Assets) -> None:
        """`assets` tells where a product lies in `storage`."""
        self._storage = storage
        self._assets = assets
        self._turn = asyncio.Lock()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    async def of(self, task: Task, downloads: Sequence[Mapping[str, Any]]) -> bytes:
        """A WebP picture. Raises `NoPicture`."""
        key = (task.uuid, task.attempt)
        async with self._turn:
            if key not in self._kept:
                self._kept[key] = await self._make(task, downloads)
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    async def _make(self, task: Task, downloads: Sequence[Mapping[str, Any]]) -> bytes:
        name = source_of(downloads)
        if name is None:
            raise NoPicture("There is no orthophoto, or it is too large for a preview.")
        with tempfile.TemporaryDirectory(prefix="scaleodm-preview-") as folder:
            file = Path(folder) / Path(name).name
            try:
                found = await self._assets.find(task, name)
                await self._storage.run(self._storage.download, found, file)
            except (Refused, StorageFault, OSError) as trouble:
                raise NoPicture(str(trouble)) from trouble
            return await _reduced(file)


async def _reduced(file: Path) -> bytes:
    """What the child process makes of the file. It gets no environment: there are secrets in ours."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "router.dashboard.reducing",
        str(file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            picture, said = await child.communicate()
    except TimeoutError:
        raise NoPicture(f"The preview was not made within {WITHIN_S:.0f} s.") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0 or not picture:
        logger.info("no preview of %s: %s", file.name, said.decode(errors="replace").strip()[-300:])
        raise NoPicture("The orthophoto is of a kind of which no preview can be made.")
    return picture
