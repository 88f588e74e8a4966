"""How an engine ended → a sentence that a user understands (contract 3.3, 9.4). Pure."""

from collections.abc import Mapping, Sequence

OUT_OF_MEMORY = 137
_BY_EXIT_CODE: Mapping[int, str] = {
    1: "Cannot process dataset",
    134: "Cannot process dataset",
    139: "Cannot process dataset",
    OUT_OF_MEMORY: "Not enough memory",
    132: "Unsupported CPU",
    3: "Installation issue",
}
_MEMORY_WORDS = ("MemoryError", "std::bad_alloc", "Failed to allocate memory", "Child returned 137")
_ADVICE: Mapping[str, str] = {
    "Not enough memory": "Use fewer images, a lower quality, or a node with more memory",
}


def verdict(exit_code: int, error_lines: Sequence[str]) -> str:
    """What the user is told: NodeODM's words for the exit code, then the engine's own last complaint.

    `exit_code` as Python has it: a negative one is the signal that killed the engine.
    """
    code = 128 - exit_code if exit_code < 0 else exit_code
    if any(word in line for line in error_lines for word in _MEMORY_WORDS):
        code = OUT_OF_MEMORY
    told = _BY_EXIT_CODE.get(code, f"Processing failed ({code})")
    reason = _last_complaint(error_lines) or _ADVICE.get(told, "")
    return f"{told}: {reason}" if reason else told


def _last_complaint(error_lines: Sequence[str]) -> str:
    complaints = [line.removeprefix("[ERROR]").strip() for line in error_lines]
    return next((complaint for complaint in reversed(complaints) if complaint), "")
