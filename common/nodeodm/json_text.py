"""JSON from clients, as JavaScript would read it, and text that everything behind us can hold. Pure."""

import json
from typing import Any


def read_json(raw: str | bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read JSON. Raises `ValueError` for what is none, also for what Python's reader lets pass or cannot bear."""
    try:
        return cleaned(json.loads(raw, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def cleaned(value: Any) -> Any:  # noqa: ANN401
    """The same with text that databases and answers can hold: no NUL, no half of a character."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    if isinstance(value, dict):
        return {cleaned(name): cleaned(each) for name, each in value.items()}
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
