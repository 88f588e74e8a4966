"""How a pod or a Job stands or ended → a state and a sentence that a user understands. Pure.

`common.verdicts` for engines; `kubernetes-facts.md` for what pods and Jobs really say, traps included.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from common.tasks import Cause
from common.verdicts import LONGEST_ERROR, OUT_OF_MEMORY, Verdict, verdict
from node.manifests import (
    ALREADY_PUBLISHED,
    DOWN,
    ENGINE,
    FETCH,
    IMAGES,
    INPUT_AT_FAULT,
    OUTDATED,
    PUBLISH,
    UP,
    finished_condition,
)
from node.runs import ENGINE_SHARE, Phase, RunStatus

PUBLISH_PROGRESS = 93.0
POD_BEHIND_MS = 10_000
"""How long the pod's end is waited for after the Job's."""
_CANNOT_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable"})
_NEVER_STARTS = frozenset(
    {"InvalidImageName", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_FAILED_CONTAINER = re.compile(r"Container (\S+) for pod \S+ failed with exit code (\d+)")
_KILLED = (1, 137, 143)
"""Exit codes of an engine, or of a stage of ours, that was told to stop: ODM's own for SIGTERM is 1 (contract 9.4)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the node itself has seen of a run, beside what the API server tells now."""

    engine_percent: float = 0.0
    publish_percent: float = 0.0
    error_lines: tuple[str, ...] = ()
    quota: str | None = None
    """Why the Job controller could not make a pod, as its event says."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may still mend itself is waited for."""

    pull_s: float
    kueue: bool = False


def judged(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], seen: Seen, patience: Patience, now_ms: int
) -> RunStatus | None:
    """Where the run of a Job stands, whose task is to run. None: it was ended from outside, and shall start again."""
    pod = _newest(pods)
    status = _status_so_far(pod, seen)
    condition = finished_condition(job)
    if condition is not None and _is_behind(pod, condition, now_ms):
        return status
    if condition is not None and (condition["type"] == "Complete" or _had_nothing_to_do(condition, pod)):
        return replace(
            status, phase=Phase.COMPLETED, progress=100.0, ended_ms=_ms(job["status"].get("completionTime")) or now_ms
        )
    if condition is not None:
        return _job_failed(condition, job, pod, status, seen)
    if job["spec"].get("suspend"):
        return replace(status, waiting="Kueue has not admitted the Job yet.") if patience.kueue else None
    if pod is None:
        return replace(status, waiting=seen.quota or "Kubernetes has not made the pod yet.")
    return _fatal(pod, status, seen, patience, now_ms) or replace(status, waiting=_waiting(pod))


def _had_nothing_to_do(condition: Mapping[str, Any], pod: Mapping[str, Any] | None) -> bool:
    """Whether an earlier attempt of the same run had published already (`common.fencing`)."""
    found = _FAILED_CONTAINER.search(str(condition.get("message") or ""))
    codes = [terminated["exitCode"] for name, terminated in _ends(pod or {}) if name in (FETCH, PUBLISH)]
    told = int(found.group(2)) if found is not None and found.group(1) in (FETCH, PUBLISH) else 0
    return ALREADY_PUBLISHED in (*codes, told)


def _is_behind(pod: Mapping[str, Any] | None, condition: Mapping[str, Any], now_ms: int) -> bool:
    """Whether the pod's end, which explains the Job's, has yet to reach us: two watches run at their own paces."""
    if pod is None or condition.get("reason") == "DeadlineExceeded":
        return False
    ended_ms = _ms(condition.get("lastTransitionTime")) or now_ms
    has_ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not has_ended and now_ms - ended_ms < POD_BEHIND_MS


def _status_so_far(pod: Mapping[str, Any] | None, seen: Seen) -> RunStatus:
    """Phase and progress by what the pod's containers have done."""
    engine, publish = _container(pod, ENGINE), _container(pod, PUBLISH)
    began_ms = _ms(_started(engine))
    status = RunStatus(
        Phase.FETCH,
        began_ms,
        images_count=_word(pod, FETCH, IMAGES),
        engine_ended_ms=_ms((_terminated(engine) or {}).get("finishedAt")),
        progress=seen.engine_percent * ENGINE_SHARE,
        down_bytes=_word(pod, FETCH, DOWN) + _word(pod, PUBLISH, DOWN),
        up_bytes=_word(pod, FETCH, UP) + _word(pod, PUBLISH, UP),
    )
    if _started(publish) is not None:
        return replace(status, phase=Phase.PUBLISH, progress=max(PUBLISH_PROGRESS, seen.publish_percent))
    return replace(status, phase=Phase.ENGINE) if began_ms is not None else status


def _word(pod: Mapping[str, Any] | None, container: str, what: str) -> int:
    """What a container that ended well has left word of; 0 where it has not, as those of earlier releases."""
    terminated = _terminated(_container(pod, container))
    if terminated is None or terminated["exitCode"] != 0:
        return 0
    try:
        return int(json.loads(str(terminated.get("message") or "{}")).get(what, 0))
    except (ValueError, AttributeError):
        return 0


def _job_failed(
    condition: Mapping[str, Any],
    job: Mapping[str, Any],
    pod: Mapping[str, Any] | None,
    status: RunStatus,
    seen: Seen,
) -> RunStatus | None:
    ended_ms = _ms(condition.get("lastTransitionTime"))
    reason = condition.get("reason", "")
    if reason == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        text = f"The run took longer than {seconds} seconds, which is this node's limit, and was ended."
        return _failed(status, Verdict(text, Cause.ENGINE), ended_ms)
    if was_ended_from_outside(pod):
        return None
    explained = _explain(pod, seen) if pod is not None else _explain_without_pod(condition, seen)
    unexplained = Verdict(f"The run failed: {condition.get('message') or reason}", Cause.INFRASTRUCTURE)
    return _failed(status, explained or unexplained, ended_ms)


def was_ended_from_outside(pod: Mapping[str, Any] | None) -> bool:
    """Whether somebody deleted the pod while it worked. Its engine then ends as if it had failed (exit code 1)."""
    if pod is None or not pod["metadata"].get("deletionTimestamp"):
        return False
    codes = [terminated["exitCode"] for _, terminated in _ends(pod) if terminated["exitCode"] != 0]
    return all(code in _KILLED for code in codes)


def _fatal(pod: Mapping[str, Any], status: RunStatus, seen: Seen, patience: Patience, now_ms: int) -> RunStatus | None:
    """What ends a run although Kubernetes would still try: another pod would end in the same way."""
    engine = _container(pod, ENGINE)
    terminated = _terminated(engine)
    if terminated is not None and terminated.get("reason") == "OOMKilled" and terminated["exitCode"] != 0:
        return _failed(status, _engine_error(terminated, seen), _ms(terminated.get("finishedAt")))
    if is_disk_full(pod):
        return _failed(status, _disk_full(pod), now_ms)
    blocked = _blocked(pod)
    if (
        blocked is not None
        and now_ms - (_ms(pod["metadata"].get("creationTimestamp")) or now_ms) > patience.pull_s * 1000
    ):
        return _failed(status, Verdict(f"The run could not start: {blocked}", Cause.INFRASTRUCTURE), now_ms)
    return None


def is_disk_full(pod: Mapping[str, Any]) -> bool:
    """Over an emptyDir's limit a pod is evicted without a DisruptionTarget condition (kubernetes-facts, trap 3)."""
    status = pod.get("status") or {}
    disrupted = any(each["type"] == "DisruptionTarget" for each in status.get("conditions") or [])
    return status.get("reason") == "Evicted" and not disrupted


def _disk_full(pod: Mapping[str, Any]) -> Verdict:
    told = str(pod["status"].get("message") or "").strip().rstrip(".")
    text = f"Not enough scratch disk: {told}. Use fewer images, or optimize-disk-space."
    return Verdict(text, Cause.INFRASTRUCTURE)


def _explain(pod: Mapping[str, Any], seen: Seen) -> Verdict | None:
    """Why a pod failed."""
    if is_disk_full(pod):
        return _disk_full(pod)
    for name, terminated in _ends(pod):
        code = terminated["exitCode"]
        if code == 0:
            continue
        if name == ENGINE:
            return _engine_error(terminated, seen)
        told = str(terminated.get("message") or "").strip() or f"{name} ended with exit code {code}"
        if terminated.get("reason") == "OOMKilled":
            return Verdict(f"{name} ran out of memory", Cause.MEMORY)
        return Verdict(told[:LONGEST_ERROR], _cause_of_stage(name, code))
    whole = (pod.get("status") or {}).get("message")
    return Verdict(str(whole)[:LONGEST_ERROR], Cause.INFRASTRUCTURE) if whole else None


def _explain_without_pod(condition: Mapping[str, Any], seen: Seen) -> Verdict | None:
    """The pod is gone: what the Job controller says of it, and the lines that the node has seen."""
    found = _FAILED_CONTAINER.search(str(condition.get("message") or ""))
    if found is None:
        return None
    name, code = found.group(1), int(found.group(2))
    if name == ENGINE:
        return verdict(code, seen.error_lines)
    return Verdict(f"{name} ended with exit code {code}; see the console", _cause_of_stage(name, code))


def _cause_of_stage(name: str, code: int) -> Cause:
    """What an exit code of one of our own stages says."""
    if code == OUTDATED:
        return Cause.OUTDATED
    if code != INPUT_AT_FAULT:
        return Cause.INFRASTRUCTURE
    return Cause.INPUT if name == FETCH else Cause.ENGINE


def _engine_error(terminated: Mapping[str, Any], seen: Seen) -> Verdict:
    lines = seen.error_lines or tuple(
        line for line in str(terminated.get("message") or "").splitlines() if line.startswith("[ERROR]")
    )
    code = OUT_OF_MEMORY if terminated.get("reason") == "OOMKilled" else int(terminated["exitCode"])
    return verdict(code, lines)


def _waiting(pod: Mapping[str, Any]) -> str | None:
    """Why a pod does not get on; None while it does."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"No machine can take it yet: {condition.get('message') or condition.get('reason')}"
    if status.get("phase") == "Failed":
        return f"The pod was lost ({status.get('reason') or 'failed'}); another one follows."
    return _blocked(pod)


def _blocked(pod: Mapping[str, Any]) -> str | None:
    """An image that cannot be pulled, a Secret that is not there."""
    for status in _container_statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, told = waiting.get("reason"), str(waiting.get("message") or "").strip()[:300]
        if reason in _CANNOT_PULL:
            return f"The image {status.get('image')} cannot be pulled ({reason}): {told}"
        if reason in _NEVER_STARTS:
            return f"{status['name']}: {reason}: {told}"
    return None


def _failed(status: RunStatus, why: Verdict, ended_ms: int | None) -> RunStatus:
    return replace(status, phase=Phase.FAILED, error=why.text[:LONGEST_ERROR], cause=why.cause, ended_ms=ended_ms)


def current_pod(pods: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest pod of a Job: after a disruption there may be several."""
    return _newest(pods)


def _newest(pods: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), default=None)


def _container_statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _container(pod: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    found = (each for each in _container_statuses(pod or {}) if each["name"] == name)
    return next(found, {})


def _started(container: Mapping[str, Any]) -> str | None:
    state = container.get("state") or {}
    moment = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return str(moment) if moment else None


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (container.get("state") or {}).get("terminated")
    return found


def has_ended(pod: Mapping[str, Any], container: str) -> bool:
    """Whether this container of the pod has ended."""
    return _terminated(_container(pod, container)) is not None


def has_started(pod: Mapping[str, Any], container: str) -> bool:
    """Whether this container of the pod is running, or has ended."""
    return _started(_container(pod, container)) is not None


def _ends(pod: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    ended = ((each["name"], _terminated(each)) for each in _container_statuses(pod))
    return [(name, terminated) for name, terminated in ended if terminated is not None]


def _ms(moment: object) -> int | None:
    """A time of the API server's (RFC 3339) in milliseconds since the epoch."""
    if not moment:
        return None
    return int(datetime.fromisoformat(str(moment)).timestamp() * 1000)
