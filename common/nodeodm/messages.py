"""The NodeODM API's JSON, field by field, and its way of reading what clients send. Pure (contract 2 and 3)."""

import json
import math
import posixpath
import re
from datetime import UTC, datetime

from common.nodeodm.options import parse_int
from common.tasks import Task

LONGEST_NAME_BYTES = 200
"""Bytes of a file name; file systems allow 255, and a name may still grow by underscores."""
_UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-7][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_JS_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_JS_RADIX = re.compile(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+")


def node_info(
    *,
    version: str,
    task_queue_count: int,
    total_memory: int,
    available_memory: int,
    cpu_cores: int,
    max_images: int | None,
    max_parallel_tasks: int,
    engine: str,
    engine_version: str,
) -> dict[str, object]:
    """`GET /info` (contract 2.3). Memory in bytes; `max_images` None means no limit."""
    return {
        "version": version,
        "taskQueueCount": task_queue_count,
        "totalMemory": total_memory,
        "availableMemory": available_memory,
        "cpuCores": cpu_cores,
        "maxImages": max_images,
        "maxParallelTasks": max_parallel_tasks,
        "engineVersion": engine_version,
        "engine": engine,
    }


def task_info(task: Task, now_ms: int, output: list[str] | None = None) -> dict[str, object]:
    """`GET /task/{uuid}/info` (contract 2.6); `output` only where lines were asked for."""
    status: dict[str, object] = {"code": int(task.code)}
    if task.error is not None:
        status["errorMessage"] = task.error
    info: dict[str, object] = {
        "uuid": task.uuid,
        "name": task.name,
        "dateCreated": task.created_ms,
        "processingTime": task.processing_time_ms(now_ms),
        "status": status,
        "options": [setting.as_json() for setting in task.options],
        "imagesCount": task.images_count,
        "progress": task.progress,
    }
    if output is not None:
        info["output"] = output
    return info


def first_line(raw: str, total: int) -> int:
    """Where `Array.slice(raw)` of JavaScript begins in a list of `total` elements (contract 2.6)."""
    start = _to_integer(raw)
    return int(max(0.0, total + start)) if start < 0 else int(min(start, total))


def _to_integer(raw: str) -> float:
    """JavaScript's ToIntegerOrInfinity of a string: what is no number is 0."""
    text = raw.strip()
    if _JS_RADIX.fullmatch(text):
        return int(text, 0)
    if text.lstrip("+-") == "Infinity" and len(text) <= 9:
        return -math.inf if text.startswith("-") else math.inf
    if not _JS_NUMBER.fullmatch(text):
        return 0
    number = float(text)
    return number if math.isinf(number) else math.trunc(number)


def is_valid_uuid(text: str) -> bool:
    """Whether NodeODM takes this as a `set-uuid` (contract 2.15)."""
    return _UUID.fullmatch(text) is not None


def clean_name(raw: str) -> str:
    """The name under which an uploaded file is kept: its base name, whatever path it came with (contract 2.10)."""
    name = _CONTROL.sub("", raw.replace("\\", "/").rpartition("/")[2]).strip()
    if name in {"", ".", ".."}:
        name = "unnamed"
    if name.lower() == "body.json":
        name = "_body.json"
    return _shortened(name)


def _shortened(name: str) -> str:
    if len(name.encode()) <= LONGEST_NAME_BYTES:
        return name
    stem, extension = _split(name)
    room = max(1, LONGEST_NAME_BYTES - len(extension.encode()))
    return stem.encode()[:room].decode("utf-8", "ignore") + extension.encode()[:LONGEST_NAME_BYTES].decode(
        "utf-8", "ignore"
    )


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem else (name, "")


def next_name(name: str) -> str:
    """The name to try when this one is taken: `a.jpg`, `a_.jpg`, `a__.jpg` (contract 2.10)."""
    stem, extension = _split(name)
    return f"{stem}_{extension}"


def task_name(raw: str | None, now_ms: int) -> str:
    """The task's name, never empty: WebODM and PyODM need one (contract 3.2)."""
    if raw:
        return raw
    moment = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return f"Task of {moment.replace('+00:00', 'Z')}"


def outputs_from(raw: object) -> tuple[str, ...]:
    """The `outputs` of a task: relative paths that stay in the project (contract 6.3)."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError:
            return ()
    if not isinstance(raw, list):
        return ()
    paths = (_relative(path) for path in raw if isinstance(path, str))
    return tuple(path for path in paths if path)


def _relative(path: str) -> str:
    normal = posixpath.normpath("/" + path.replace("\\", "/").replace("\x00", ""))
    return normal.strip("/")


def date_created(raw: object, now_ms: int) -> int:
    """`dateCreated` in milliseconds; what cannot be read is now (contract 2.9)."""
    number = parse_int(raw)
    return int(number) if math.isfinite(number) and abs(number) < 2**53 else now_ms


def is_true(raw: object) -> bool:
    """Whether a flag is set: exactly `true` (contract 2.9)."""
    return raw is True or raw == "true"
