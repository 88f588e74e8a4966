"""The NodeODM API's JSON, field by field, and its way of reading what clients send. Pure (contract 2 and 3)."""

import math
import posixpath
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from common.nodeodm.json_text import read_json
from common.nodeodm.options import parse_int
from common.references import DEFAULT_EXCLUDES
from common.tasks import ENDED, Task, Wishes

LONGEST_NAME_BYTES = 200
"""Bytes of a file name; file systems allow 255, and a name may still grow by underscores."""
MOST_PATTERNS = 100
MOST_PRIORITY = 100
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")
_UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-7][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", re.IGNORECASE)
_RESERVED_MODES = {
    "merge-existing": "To process a large area in parts, give the option split.",
    "thermal": "Thermal images can be processed as they are, with the option radiometric-calibration.",
    "city-scale": "To process a large area in parts, give the option split.",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffe\uffff]")
"""The last two are no characters in XML: S3 would store such a name, and could never be asked to delete it again."""
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
    if task.waiting is not None and task.state not in ENDED:
        info["waitingFor"] = task.waiting
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
            raw = read_json(raw)
        except ValueError:
            return ()
    if not isinstance(raw, list):
        return ()
    paths = (_relative(path) for path in raw if isinstance(path, str))
    return tuple(path for path in paths if path)


def wishes_from(fields: Mapping[str, object]) -> Wishes:
    """ScaleODM's parameters beside NodeODM's (contract 8.5). Raises `WishUnreadable`."""
    _check_mode(fields.get("processingMode"))
    return Wishes(
        scan_depth=_scan_depth(fields.get("s3ScanDepth")),
        exclude=_patterns(fields.get("excludePaths")) + (DEFAULT_EXCLUDES if _excludes_defaults(fields) else ()),
        engine_image=_image(fields.get("odmImage")),
        capacity_type=_capacity_type(fields.get("capacityType")),
        nodes=_names("nodes", fields.get("nodes")),
        avoid=_names("avoidNodes", fields.get("avoidNodes")),
        labels=_labels(fields.get("nodeLabels")),
        priority=_priority(fields.get("priority")),
        replaceable=not is_false(fields.get("replaceLost")),
    )


class WishUnreadable(Exception):
    """A parameter that NodeODM does not know has a value that cannot be used."""


def _excludes_defaults(fields: Mapping[str, object]) -> bool:
    """ScaleODM leaves products of earlier runs out unless it is told not to. What is uploaded file by file is meant."""
    is_by_reference = any(fields.get(name) for name in ("readS3Path", "zipurl"))
    return is_by_reference and not is_false(fields.get("useDefaultExcludes"))


def _check_mode(raw: object) -> None:
    """ScaleODM knows one mode, and three that it has reserved and does not do either (contract 8.5)."""
    if raw in (None, "", "standard"):
        return
    if isinstance(raw, str) and raw in _RESERVED_MODES:
        raise WishUnreadable(
            f"processingMode {raw!r} is reserved by ScaleODM, and nothing does it yet; expected standard. "
            + _RESERVED_MODES[raw]
        )
    raise WishUnreadable(f"processingMode is {str(raw)[:80]!r}; expected standard.")


def _scan_depth(raw: object) -> int | None:
    if raw in (None, "", 0, "0"):
        return None
    depth = parse_int(raw)
    if not math.isfinite(depth) or depth < 0:
        raise WishUnreadable(f"s3ScanDepth is {raw!r}; expected a number of folders such as 2, or 0 for no limit.")
    return int(depth)


def _patterns(raw: object) -> tuple[str, ...]:
    if isinstance(raw, str) and raw.strip():
        try:
            raw = read_json(raw)
        except ValueError:
            raw = [part.strip() for part in str(raw).split(",")]
    if raw in (None, "", []):
        return ()
    if not isinstance(raw, list) or not all(isinstance(each, str) and 0 < len(each) <= 256 for each in raw):
        raise WishUnreadable('excludePaths: expected a list of patterns such as ["thumbnails/**", "*.tif"].')
    if len(raw) > MOST_PATTERNS:
        raise WishUnreadable(f"excludePaths has {len(raw)} patterns; at most {MOST_PATTERNS} are taken.")
    return tuple(raw)


def _image(raw: object) -> str | None:
    if raw in (None, ""):
        return None
    if not isinstance(raw, str) or not _IMAGE.fullmatch(raw):
        raise WishUnreadable(f"odmImage is {raw!r}; expected a container image such as opendronemap/odm:3.6.0.")
    return raw


def _capacity_type(raw: object) -> str | None:
    if raw in (None, ""):
        return None
    if raw not in ("spot", "on-demand"):
        raise WishUnreadable(f"capacityType is {raw!r}; expected spot or on-demand.")
    return str(raw)


def _names(name: str, raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        try:
            raw = read_json(raw) if raw.lstrip().startswith("[") else [part.strip() for part in raw.split(",")]
        except ValueError:
            raw = "?"
    if raw in (None, "", [], [""]):
        return ()
    if not isinstance(raw, list) or len(raw) > MOST_PATTERNS or not all(_is_short_text(each) for each in raw):
        raise WishUnreadable(f'{name}: expected names of nodes such as ["oslo", "nairobi"].')
    return tuple(sorted(set(raw)))


def _labels(raw: object) -> tuple[tuple[str, str], ...]:
    if isinstance(raw, str) and raw.strip():
        try:
            raw = read_json(raw)
        except ValueError:
            raw = "?"
    if raw in (None, "", {}):
        return ()
    if not isinstance(raw, dict) or not all(_is_short_text(each) for pair in raw.items() for each in pair):
        raise WishUnreadable('nodeLabels: expected a JSON object such as {"region": "eu"}.')
    return tuple(sorted(raw.items()))


def _is_short_text(raw: object) -> bool:
    return isinstance(raw, str) and 0 < len(raw) <= 63


def _priority(raw: object) -> int:
    if raw in (None, ""):
        return 0
    number = parse_int(raw)
    if not math.isfinite(number) or abs(number) > MOST_PRIORITY:
        raise WishUnreadable(f"priority is {raw!r}; expected a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}.")
    return int(number)


def _relative(path: str) -> str:
    normal = posixpath.normpath("/" + path.replace("\\", "/").replace("\x00", ""))
    return normal.strip("/")


def date_created(raw: object, now_ms: int) -> int:
    """`dateCreated` in milliseconds; what cannot be read is now (contract 2.9)."""
    number = parse_int(raw)
    return int(number) if math.isfinite(number) and abs(number) < 2**53 else now_ms


def is_false(raw: object) -> bool:
    """Whether a flag that is set by default was taken away."""
    return raw is False or raw in ("false", "0", 0)


def is_true(raw: object) -> bool:
    """Whether a flag is set: exactly `true` (contract 2.9)."""
    return raw is True or raw == "true"
