"""Following one task: until it ends, line by line, and its products to this machine."""

import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.command.api import Api, ConnectionBroken, patiently, read, told
from common.command.bars import Bars, stage
from common.command.endings import Exit, Trouble
from common.tasks import NOT_RUNNING, Code

POLL_S = 1.0
SLOWEST_POLL_S = 5.0
_ENDED = (Code.COMPLETED, Code.FAILED, Code.CANCELED)
_LAST_LINES = -60
_BLOCK = 1 << 20


def code_of(info: dict[str, Any]) -> Code:
    """The status code of a task's info."""
    return Code(info["status"]["code"])


def has_ended(info: dict[str, Any]) -> bool:
    """Whether nothing of it will change any more."""
    return code_of(info) in _ENDED


def verdict(info: dict[str, Any]) -> None:
    """Raise `Trouble` unless the task is completed."""
    code = code_of(info)
    if code is Code.COMPLETED:
        return
    reason = info["status"].get("errorMessage")
    word = {Code.FAILED: "failed", Code.CANCELED: "was canceled"}.get(code, "has not ended")
    more = f": {str(reason).rstrip('.')}." if reason else "."
    raise Trouble(Exit.FAILED, f"Task {info['uuid']} {word}{more} Its console: scaleodm logs {info['uuid']}")


def wait(api: Api, uuid: str, bars: Bars, note: Callable[[str], None]) -> dict[str, Any]:
    """Until the task ends; gives its last info. Outages of the router are borne."""
    pause = POLL_S
    while True:
        info = patiently(lambda: api.info(uuid, _LAST_LINES), note)
        if has_ended(info):
            bars.show("processing", 100, code_of(info).name.lower())
            return info
        bars.show("processing", min(99.0, float(info["progress"])), _at(info))
        time.sleep(pause)
        pause = min(SLOWEST_POLL_S, pause * 1.1)


def _at(info: dict[str, Any]) -> str:
    if code_of(info) is Code.QUEUED:
        return "queued"
    return stage(info.get("output", ())) or ("started" if info["processingTime"] >= 0 else "")


def lines(
    api: Api, uuid: str, follow: bool, last: int | None, note: Callable[[str], None]
) -> Iterator[tuple[int, str]]:
    """Console lines with their numbers; with `follow` also those to come, until the task ends."""
    number = 0
    took = NOT_RUNNING
    first = patiently(lambda: api.info(uuid, 0), note) if follow else api.info(uuid, 0)
    info, came = first, first["output"]
    if last is not None:
        number = max(0, len(came) - last)
        came = came[number:]
    while True:
        for text in came:
            yield number, text
            number += 1
        if not follow or (has_ended(info) and not came):
            return
        if not came:
            time.sleep(POLL_S)
        took = info["processingTime"]
        info = patiently(lambda: api.info(uuid, number), note)  # noqa: B023 - called at once
        if took > info["processingTime"] and not has_ended(info):
            note("It begins anew; its console, too.")
            number = 0
            info = patiently(lambda: api.info(uuid, 0), note)
        came = info["output"]


def download(api: Api, uuid: str, out: Path, bars: Bars) -> Path:
    """The products, unpacked in a folder of their own below `out`: whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    final = out / uuid
    if final.exists():
        raise Trouble(Exit.USAGE, f"{final} is there already. Remove it, or choose another folder.")
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=out))
    try:
        archive = draft / "all.zip"
        api.repeated(lambda: _fetch(api, uuid, archive, bars))
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(draft)
        archive.unlink()
        draft.chmod(0o777 & ~_umask())
        draft.rename(final)
    except zipfile.BadZipFile:
        raise Trouble(Exit.FAILED, f"The archive of task {uuid} cannot be unpacked. Try again.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    bars.show("download", 100)
    return final


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fetch(api: Api, uuid: str, path: Path, bars: Bars) -> None:
    """The client leaves our token behind when it is sent on to S3."""
    url = f"{api.place.url}/task/{uuid}/download/all.zip"
    with told(api.place), api.http.stream("GET", url, follow_redirects=True) as answer, path.open("wb") as file:
        if answer.headers.get("content-type", "").startswith("application/json") or not answer.is_success:
            answer.read()
            read(answer, f"GET /task/{uuid}/download/all.zip", api.place)
        whole = int(answer.headers.get("content-length", 0))
        for block in answer.iter_raw(_BLOCK):
            file.write(block)
            bars.show("download", min(99.0, 100 * answer.num_bytes_downloaded / whole) if whole else 0)
        if whole and answer.num_bytes_downloaded != whole:
            raise ConnectionBroken(Exit.UNREACHABLE, f"The download broke off at {answer.num_bytes_downloaded} bytes.")
