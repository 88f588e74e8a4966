"""What a page shows that may change, and what of it has changed since a browser was last told. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_LINES = 1000
"""Console lines that a page shows: the last ones."""


@dataclass(frozen=True, slots=True)
class Console:
    """The end of a console that grows."""

    key: str = ""
    """Another key is another console."""
    total: int = 0
    lines: tuple[str, ...] = ()
    """The last ones of `total`."""


@dataclass(frozen=True, slots=True)
class Screen:
    """The changing parts of a page, as HTML."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """Elements by id."""
    lists: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By id of the element that holds them its children, by id and in order."""
    console: Console | None = None


def changes(before: Screen, now: Screen) -> dict[str, Any]:
    """What to tell a browser that shows `before`; empty where nothing has changed."""
    told: dict[str, Any] = {}
    if parts := {name: html for name, html in now.parts.items() if before.parts.get(name) != html}:
        told["parts"] = parts
    if lists := {
        name: _changes_of_list(before.lists.get(name), children)
        for name, children in now.lists.items()
        if _differs(before.lists.get(name), children)
    }:
        told["lists"] = lists
    if now.console is not None and (console := _changes_of_console(before.console, now.console)):
        told["console"] = console
    return told


def _differs(before: Mapping[str, str] | None, now: Mapping[str, str]) -> bool:
    return before is None or before != now or list(before) != list(now)


def _changes_of_list(before: Mapping[str, str] | None, now: Mapping[str, str]) -> dict[str, Any]:
    """The children that are new or have changed, and the order, where that is another or not known."""
    known = before or {}
    told: dict[str, Any] = {"children": {child: html for child, html in now.items() if known.get(child) != html}}
    if before is None or list(before) != list(now):
        told["order"] = list(now)
    return told


def _changes_of_console(before: Console | None, now: Console) -> dict[str, Any] | None:
    if before is None or before.key != now.key or now.total < before.total:
        return {"from": now.total - len(now.lines), "lines": list(now.lines), "anew": True}
    new = min(now.total - before.total, len(now.lines))
    return {"from": now.total - new, "lines": list(now.lines[len(now.lines) - new :])} if new else None
