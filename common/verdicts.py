"""How an engine failed → a sentence that a user understands, and whether to try again (contract 3.3). Pure.

A node of ours knows its engine's exit code; a foreign one tells what NodeODM makes of it. Both mean the same.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.tasks import Cause

LONGEST_ERROR = 1_500
"""Characters of an error: it lives in an annotation."""
OUT_OF_MEMORY = 137
_BY_EXIT_CODE: Mapping[int, str] = {
    1: "Cannot process dataset",
    134: "Cannot process dataset",
    139: "Cannot process dataset",
    OUT_OF_MEMORY: "Not enough memory",
    132: "Unsupported CPU",
    3: "Installation issue",
}
_CAUSES: Mapping[int, Cause] = {132: Cause.INFRASTRUCTURE, 3: Cause.INFRASTRUCTURE, 143: Cause.INFRASTRUCTURE}
"""Exit codes that say more about the machine, or about what stopped the engine, than about the dataset."""
_MEMORY_WORDS = ("MemoryError", "std::bad_alloc", "Failed to allocate memory", "Child returned 137")
_ADVICE: Mapping[str, str] = {
    "Not enough memory": "Use fewer images, a lower quality, or a node with more memory",
}
_CODE_IN_WORDS = re.compile(r"^Processing failed \((\d+)\)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a run failed: in a user's words, and as what decides whether it is tried again."""

    text: str
    cause: Cause


def verdict(exit_code: int, error_lines: Sequence[str]) -> Verdict:
    """Of an engine: NodeODM's words for the exit code, then its own last complaint.

    `exit_code` as Python has it: a negative one is the signal that killed the engine.
    """
    code = 128 - exit_code if exit_code < 0 else exit_code
    if any(word in line for line in error_lines for word in _MEMORY_WORDS):
        code = OUT_OF_MEMORY
    told = _BY_EXIT_CODE.get(code, f"Processing failed ({code})")
    reason = _last_complaint(error_lines) or _ADVICE.get(told, "")
    cause = Cause.MEMORY if code == OUT_OF_MEMORY else _CAUSES.get(code, Cause.ENGINE)
    return Verdict((f"{told}: {reason}" if reason else told)[:LONGEST_ERROR], cause)


def exit_code_of(words: str) -> int | None:
    """The exit code that NodeODM says this of; None where it says something else."""
    found = _CODE_IN_WORDS.match(words)
    if found is not None:
        return int(found.group(1))
    return next((code for code, told in _BY_EXIT_CODE.items() if words.startswith(told)), None)


def _last_complaint(error_lines: Sequence[str]) -> str:
    complaints = [line.removeprefix("[ERROR]").strip() for line in error_lines]
    return next((complaint for complaint in reversed(complaints) if complaint), "")
