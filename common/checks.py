"""What an examination finds: one line for each thing looked at. Pure.

Router and node examine themselves (`python -m router.checks`, `python -m node.checks`), each with what only it can
import; they print what they find as JSON, a line each, for `scaleodm doctor`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

MOST_SKEW_S = 60.0
"""S3 refuses what was signed 15 minutes away from its own clock; long before that, something is wrong."""


class Grade(StrEnum):
    """How it stands with one thing."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, and nothing to be done."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    grade: Grade
    text: str
    advice: str = ""
    """What to do."""


def ok(name: str, text: str) -> Check:
    """As it should be."""
    return Check(name, Grade.OK, text)


def note(name: str, text: str) -> Check:
    """Worth knowing."""
    return Check(name, Grade.NOTE, text)


def problem(name: str, text: str, advice: str = "") -> Check:
    """Something is wrong."""
    return Check(name, Grade.PROBLEM, text, advice)


def clock(name: str, ahead_s: float, of: str = "this machine's") -> Check:
    """How far a clock is ahead of ours."""
    if abs(ahead_s) <= MOST_SKEW_S:
        return ok(name, f"its clock is {abs(ahead_s):.1f} s from {of}")
    way = "ahead of" if ahead_s > 0 else "behind"
    return problem(
        name,
        f"its clock is {abs(ahead_s):.0f} s {way} {of}",
        "Set both by NTP: S3 refuses what is signed at another time.",
    )


def written(checks: Iterable[Check]) -> str:
    """As lines of JSON."""
    return "".join(json.dumps(asdict(each)) + "\n" for each in checks)


def parsed(text: str) -> list[Check]:
    """Read back what `written` made; what is no such line is let pass."""
    lines = (line for line in text.splitlines() if line.startswith('{"name"'))
    return [Check(**(document | {"grade": Grade(document["grade"])})) for document in map(json.loads, lines)]
