"""Jobs and pods as an API server tells them, for tests of what is made of them."""

from typing import Any

Object = dict[str, Any]
MOMENT = "2026-11-24T12:00:00Z"
LATER = "2026-11-24T12:10:00Z"


def job(*conditions: Object, suspend: bool = False) -> Object:
    """A Job with these conditions."""
    return {
        "metadata": {"name": "odm-u-1"},
        "spec": {"suspend": suspend, "activeDeadlineSeconds": 60},
        "status": {"conditions": list(conditions), "completionTime": LATER},
    }


def condition(kind: str, reason: str = "", message: str = "") -> Object:
    """One that holds."""
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": LATER}


def running(name: str) -> Object:
    """A container at work."""
    return {"name": name, "image": "i", "state": {"running": {"startedAt": MOMENT}}}


def ended(name: str, code: int = 0, reason: str = "", message: str = "") -> Object:
    """A container that has ended."""
    terminated = {"exitCode": code, "reason": reason, "message": message, "startedAt": MOMENT, "finishedAt": LATER}
    return {"name": name, "image": "i", "state": {"terminated": terminated}}


def blocked(name: str, reason: str, message: str = "") -> Object:
    """A container that cannot start."""
    return {"name": name, "image": "i", "state": {"waiting": {"reason": reason, "message": message}}}


def pod(*containers: Object, phase: str = "", deleted: bool = False, created: str = MOMENT, **status: Any) -> Object:
    """A pod whose containers stand so."""
    metadata: Object = {"name": "p", "uid": "x", "creationTimestamp": created}
    if deleted:
        metadata["deletionTimestamp"] = LATER
    first = [each for each in containers if each["name"] != "publish"]
    last = [each for each in containers if each["name"] == "publish"]
    codes = [each["state"]["terminated"]["exitCode"] for each in containers if "terminated" in each["state"]]
    over = "Failed" if any(codes) else "Succeeded" if last and codes and len(codes) == len(containers) else "Running"
    return {
        "metadata": metadata,
        "status": {"phase": phase or over, "initContainerStatuses": first, "containerStatuses": last, **status},
    }
