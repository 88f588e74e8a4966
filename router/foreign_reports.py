"""What a foreign node tells in NodeODM's words → what the federation's own nodes would say. Pure (contract 2 and 3)."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.federation import LINES_PER_HEARTBEAT, AttemptReport, Capacity
from common.tasks import NOT_RUNNING, Cause, Code, State, Task
from common.verdicts import LONGEST_ERROR, Verdict, exit_code_of, verdict

OLDEST = (1, 5, 1)
"""The first NodeODM API that takes uploads in parts and tells console lines with a task's state (contract 8)."""
MOST_SLOTS = 10_000
WORKED = 93.0
"""Progress of a task that has ended on its node; the rest is ours to publish."""
LONGEST_LINE = 8_000
READS_S3 = "s3"
"""Capability: it takes a task by S3 reference."""
UPLOADS = "uploads"
"""Capability: it takes a task file by file."""
TELLS_SLOTS = "slots"
"""Capability: how many tasks it runs at once, it says itself."""
GIVEN_SLOTS = "slots="
"""The beginning of a capability: how many tasks it may have, an administrator has said."""
WEBHOOKS = "webhooks"
_OPTION_KEYS = ("name", "type", "value", "domain", "help")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_LONGEST_MS = 100 * 365 * 86_400_000
_MOST_IMAGES = 2**31 - 1
_UNKNOWN_BYTES = 99_999_999_999
"""What ClusterODM says instead of an amount of memory (contract 8.4)."""
_TOO_MANY_IMAGES = re.compile(r"^\d+ images uploaded, but this node can only process up to \d+")
_INPUT_WORDS = ("Could not extract", "No images in", "No usable images", "Not enough images", "seed.zip names")
_ENGINE_WORDS = ("The engine ended well but", "The run took longer than")
_NO_ACCESS = re.compile(r"^(?:Access to s3://|The bucket of s3://|s3://\S+ does not exist)")
"""A ScaleODM's words for input that it cannot reach; another node may."""
_UNKNOWN_TASK = re.compile(r"(?:not found|no task table entry)\.?$")
_PASSING = re.compile(
    r"Invalid (?:uuid|taskId|set-uuid|authentication)|slow down|no nodes|concurrent tasks|Proxy redirect error"
)
_NOTHING_CAME = ("Need at least 1 file.", "No files uploaded.")


class NotNodeOdm(Exception):
    """An answer that the NodeODM API does not have."""


@dataclass(frozen=True, slots=True)
class Info:
    """A node's `/info`, as far as it can be believed."""

    version: str
    engine: str
    engine_version: str
    max_images: int | None
    slots: int | None
    """None: it names no usable number."""
    queued: int
    """Its tasks that wait or run, whoever brought them."""
    cpu_cores: int
    total_memory_bytes: int
    available_memory_bytes: int

    @property
    def is_recent(self) -> bool:
        """Whether its version is one that we can work with."""
        found = _VERSION.fullmatch(self.version)
        return found is not None and tuple(map(int, found.groups())) >= OLDEST


def info_of(document: object) -> Info:
    """Read `/info` (contract 2.3). Raises `NotNodeOdm`."""
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("version"), str)
        or "taskQueueCount" not in document
    ):
        raise NotNodeOdm("its /info is not that of a NodeODM API, which has at least version and taskQueueCount")
    slots = _count(document.get("maxParallelTasks"))
    cores = _count(document.get("cpuCores"))
    return Info(
        version=document["version"],
        engine=_short(document.get("engine")) or "odm",
        engine_version=_short(document.get("engineVersion")) or "?",
        max_images=_count(document.get("maxImages")) or None,
        slots=slots if 1 <= slots <= MOST_SLOTS else None,
        queued=_count(document.get("taskQueueCount")),
        cpu_cores=cores if 1 <= cores <= MOST_SLOTS else 1,
        total_memory_bytes=_memory(document.get("totalMemory")),
        available_memory_bytes=_memory(document.get("availableMemory")),
    )


def options_of(document: object) -> list[dict[str, Any]]:
    """Read `/options` (contract 2.4), without what some nodes add. Raises `NotNodeOdm`."""
    if not isinstance(document, list) or not all(_is_option(each) for each in document):
        raise NotNodeOdm("its /options is not a list of NodeODM's options")
    return [{key: each[key] for key in _OPTION_KEYS} for each in document]


def _is_option(raw: object) -> bool:
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) for key in _OPTION_KEYS if key != "domain"):
        return False
    domain = raw.get("domain")
    return isinstance(domain, str) or (isinstance(domain, list) and all(isinstance(each, str) for each in domain))


def is_scaleodm(openapi: object) -> bool:
    """Whether an `/openapi.json` is that of a ScaleODM like this one, which takes tasks by S3 reference (8.5)."""
    if not isinstance(openapi, dict):
        return False
    info, paths = openapi.get("info"), openapi.get("paths")
    title = info.get("title") if isinstance(info, dict) else None
    return str(title).startswith("ScaleODM") and isinstance(paths, dict) and "/task/new/init" in paths


def slots_of(capabilities: Sequence[str], info: Info) -> int:
    """How many tasks a node may have: as many as the administrator has said, else as it says itself."""
    given = next((each.removeprefix(GIVEN_SLOTS) for each in capabilities if each.startswith(GIVEN_SLOTS)), "")
    return int(given) if given else info.slots or 1


def capacity_of(info: Info, slots: int, ours: int) -> Capacity:
    """What a node has, and how much of it is taken by tasks that are not ours."""
    return Capacity(
        slots=slots,
        direct=max(0, min(info.queued, MOST_SLOTS) - ours),
        cpu_cores=info.cpu_cores,
        total_memory_bytes=info.total_memory_bytes,
        available_memory_bytes=info.available_memory_bytes,
    )


# Tasks


def remote_uuid(mark: str, uuid: str, attempt: int) -> str:
    """The uuid of an attempt on its node: always the same, and never that of another attempt.

    `mark`: twelve hexadecimal digits at its beginning, by which our tasks are known among others.
    """
    digest = hashlib.sha256(f"{mark} {uuid} {attempt}".encode()).hexdigest()
    return f"{mark[:8]}-{mark[8:12]}-5{digest[:3]}-a{digest[3:6]}-{digest[6:18]}"


def is_ours(mark: str, uuid: str) -> bool:
    """Whether a task of a node is one of ours."""
    return uuid.lower().startswith(f"{mark[:8]}-{mark[8:12]}-")


def is_unknown(words: str) -> bool:
    """Whether a refusal says that there is no such task."""
    return _UNKNOWN_TASK.search(words) is not None


def is_passing(words: str) -> bool:
    """Whether a refusal is of this moment, and not of this task: the same node may take it another time."""
    return _PASSING.search(words) is not None


def says_nothing_came(words: str) -> bool:
    """Whether a refusal says that an upload is open and that a request brought no file."""
    return words in _NOTHING_CAME


def report_of(document: object, uuid: str, attempt: int, first_line: int) -> AttemptReport:
    """A task's info (contract 2.6) as a report of our attempt. Raises `NotNodeOdm`.

    A task that has ended well on its node is still one of ours that runs: its products are not published.
    """
    status = document.get("status") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(status, dict):
        raise NotNodeOdm("a task's info has no status")
    state = _state(status.get("code"))
    words = str(status.get("errorMessage") or "")[:LONGEST_ERROR]
    return AttemptReport(
        uuid=uuid,
        attempt=attempt,
        state=state,
        progress=100.0 if state in (State.FAILED, State.CANCELED) else min(WORKED, _percent(document.get("progress"))),
        processing_ms=_milliseconds(document.get("processingTime")),
        images_count=min(_MOST_IMAGES, _count(document.get("imagesCount"))),
        error=words or None,
        first_line=first_line,
        waiting=_waiting(state, document),
        lines=lines_of(document.get("output"))[:LINES_PER_HEARTBEAT],
    )


def _waiting(state: State, document: Mapping[str, Any]) -> str | None:
    told = document.get("waitingFor")
    if isinstance(told, str) and told:
        return told[:LONGEST_ERROR]
    return "It waits for its turn on the node." if state is State.PLACED else None


def lines_of(raw: object) -> list[str]:
    """Console lines that can be kept: one element of NodeODM's list may hold newlines, and anything else (2.7)."""
    if not isinstance(raw, list):
        return []
    texts = (str(each).replace("\x00", "").rstrip("\r\n") for each in raw)
    return [text.encode("utf-8", "replace").decode()[:LONGEST_LINE] for text in texts]


def judged(words: str | None, last_lines: Sequence[str]) -> Verdict:
    """Why a task failed on its node: NodeODM's words (contract 3.3), and the last lines of its console."""
    told = words or ""
    if _TOO_MANY_IMAGES.match(told) or _NO_ACCESS.match(told):
        return Verdict(told, Cause.REFUSED)
    if told.startswith(_INPUT_WORDS):
        return Verdict(told, Cause.INPUT)
    if told.startswith(_ENGINE_WORDS):
        return Verdict(told, Cause.ENGINE)
    code = exit_code_of(told)
    if code is not None:
        found = verdict(code, [line for line in last_lines if line.startswith("[ERROR]") or "returned" in line])
        return Verdict(told if ": " in told else found.text, found.cause)
    # It could not be staged, started, or packed.
    return Verdict(told or "The node failed after the engine had ended, and does not say why", Cause.INFRASTRUCTURE)


def upload_fields(task: Task) -> dict[str, str]:
    """The fields of `/task/new/init` (contract 2.9). Webhooks are the router's to call."""
    fields = {
        "name": task.name,
        "options": json.dumps([{"name": each.name, "value": each.value} for each in task.options]),
        "dateCreated": str(task.created_ms),
    }
    if task.skip_post_processing:
        fields["skipPostProcessing"] = "true"
    if task.outputs:
        fields["outputs"] = json.dumps(list(task.outputs))
    return fields


def order_of(task: Task, output: str) -> dict[str, object]:
    """The body of `/task/new` for a node that reads S3 (contract 8.5)."""
    asked = {
        "s3ScanDepth": task.wishes.scan_depth,
        "excludePaths": list(task.wishes.exclude) or None,
        "useDefaultExcludes": False,
        "odmImage": task.wishes.engine_image,
        "capacityType": task.wishes.capacity_type,
    }
    return {
        "name": task.name,
        "readS3Path": task.input,
        "writeS3Path": output,
        "options": [{"name": each.name, "value": each.value} for each in task.options],
        "outputs": list(task.outputs),
        "skipPostProcessing": task.skip_post_processing,
        "dateCreated": task.created_ms,
        **{name: value for name, value in asked.items() if value is not None},
    }


# Products


def product_name(member: str) -> str | None:
    """The name below the output of a member of `all.zip`; None for one that has no business there."""
    parts = member.split("/")
    if (
        not member
        or len(member.encode("utf-8", "replace")) > 900
        or "\\" in member
        or any(ord(each) < 32 for each in member)
    ):
        return None
    if any(part in ("", ".", "..") for part in parts) or parts[0] == ".scaleodm":
        return None
    return None if member in ("manifest.json", "all.zip") else member


def _state(code: object) -> State:
    states = {
        Code.QUEUED: State.PLACED,
        Code.RUNNING: State.RUNNING,
        Code.FAILED: State.FAILED,
        Code.COMPLETED: State.COMPLETED,
        Code.CANCELED: State.CANCELED,
    }
    state = next((state for known, state in states.items() if code == known), None)
    if state is None or isinstance(code, bool):
        raise NotNodeOdm(f"a task's status code is {str(code)[:20]!r}; expected 10, 20, 30, 40 or 50")
    return state


def _number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return 0.0
    return raw


def _count(raw: object) -> int:
    return max(0, int(_number(raw)))


def _percent(raw: object) -> float:
    return min(100.0, max(0.0, float(_number(raw))))


def _milliseconds(raw: object) -> int:
    number = int(_number(raw)) if isinstance(raw, int | float) else NOT_RUNNING
    return min(_LONGEST_MS, max(NOT_RUNNING, number))


def _memory(raw: object) -> int:
    bytes_ = _count(raw)
    return 0 if bytes_ == _UNKNOWN_BYTES or bytes_ >= 2**60 else bytes_


def _short(raw: object) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "", str(raw))[:32] if isinstance(raw, str) else ""
