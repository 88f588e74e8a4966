"""What a command shows: tables on a terminal, tab-separated lines in a pipe, JSON where it is asked for.

Answers go to stdout, everything else to stderr. Text from outside is shown as text, whatever it holds.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What would move the cursor, colour the rest, or turn the direction of writing."""
_STYLES = {
    "healthy": "green",
    "completed": "green",
    "ok": "green",
    "running": "cyan",
    "placed": "cyan",
    "late": "yellow",
    "draining": "yellow",
    "locked": "yellow",
    "probation": "yellow",
    "canceled": "yellow",
    "lost": "red",
    "quarantined": "red",
    "failed": "red",
    "problem": "red",
}
_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    right: bool = False
    least: int | None = None
    """Characters to which it may be shortened where the terminal is narrow."""
    spare: bool = False
    """Left out where the terminal is narrow; the last ones first."""


def cleaned(text: object) -> str:
    """Text from outside, on one line, without what a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)).replace("\n", " ").replace("\t", " ")


class Output:
    """Where a command's words go."""

    def __init__(self, as_json: bool) -> None:
        """On the process's own stdout and stderr."""
        self.as_json = as_json
        self.out = Console(highlight=False, markup=False, emoji=False, file=sys.stdout)
        self.err = Console(highlight=False, markup=False, emoji=False, file=sys.stderr)

    def document(self, value: Any) -> None:  # noqa: ANN401 - whatever JSON there is
        """JSON, and nothing else."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def record(self, value: Any) -> None:  # noqa: ANN401 - likewise
        """One line of JSON, of many."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def line(self, text: str, style: str = "") -> None:
        """A line of the answer."""
        if self.out.is_terminal:
            self.out.print(Text(cleaned(text), style=style), soft_wrap=True)
        else:
            sys.stdout.write(cleaned(text) + "\n")
            sys.stdout.flush()

    def fields(self, *texts: str) -> None:
        """A line of the answer for programs: parts with tabs between."""
        sys.stdout.write("\t".join(cleaned(each) for each in texts) + "\n")
        sys.stdout.flush()

    def graded(self, grade: str, style: str, name: str, text: str) -> None:
        """A line of an examination, hanging below its own beginning where it is long."""
        if not self.out.is_terminal:
            self.fields(grade, name, text)
            return
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_column(width=len("problem"), no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(grade, style=style), Text.assemble((f"{cleaned(name)}: ", "bold"), cleaned(text)))
        self.out.print(grid)

    def note(self, text: str) -> None:
        """A line beside the answer."""
        self.err.print(Text(cleaned(text), style="dim"), soft_wrap=True)

    def trouble(self, text: str) -> None:
        """Why it did not go well."""
        self.err.print(Text(cleaned(text), style="red"), soft_wrap=True)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[object]], empty: str) -> None:
        """A table; `empty` is noted where there are no rows."""
        cells = [["" if each is None else cleaned(each) for each in row] for row in rows]
        if not self.out.is_terminal:
            for line in ([column.name for column in columns], *cells):
                self.fields(*line)
        elif cells:
            self.out.print(drawn(columns, cells, self.out.width))
        if not cells:
            self.note(empty)

    def facts(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Names and values, one a line; those that have none are left out."""
        known = [(name, cleaned(value)) for name, value in pairs if value not in (None, "", [], {})]
        width = max((len(name) for name, _ in known), default=0) + _GAP
        if not self.out.is_terminal:
            for pair in known:
                self.fields(*pair)
            return
        grid = Table.grid(padding=(0, 0))
        grid.add_column(width=width, no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in known:
            grid.add_row(Text(name, style="dim"), Text(value, style=_STYLES.get(value, "")))
        self.out.print(grid)


def drawn(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> Table:
    """What no row has is left out, and what does not fit; what can be shortened is, the widest first."""
    shown = [number for number in range(len(columns)) if any(row[number] for row in cells)]
    widths = {
        number: max(cell_len(columns[number].name), *(cell_len(row[number]) for row in cells)) for number in shown
    }
    leasts = {number: min(widths[number], columns[number].least or widths[number]) for number in shown}
    while sum(leasts[number] + _GAP for number in shown) > width + _GAP:
        spare = [number for number in shown if columns[number].spare]
        if not spare:
            break
        shown.remove(spare[-1])
    while sum(widths[number] + _GAP for number in shown) > width + _GAP:
        widest = max(shown, key=lambda number: widths[number] if widths[number] > leasts[number] else 0)
        if widths[widest] <= leasts[widest]:
            break
        widths[widest] -= 1
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for number in shown:
        justify: JustifyMethod = "right" if columns[number].right else "left"
        table.add_column(columns[number].name, justify=justify, no_wrap=True, width=widths[number])
    for row in cells:
        table.add_row(*(Text(row[number], style=_STYLES.get(row[number], ""), overflow="ellipsis") for number in shown))
    return table


def ago(moment: str | int | None, now: float | None = None) -> str:
    """How long ago a moment was: ISO 8601, or milliseconds since the epoch."""
    if moment is None:
        return ""
    at = moment / 1000 if isinstance(moment, int) else datetime.fromisoformat(moment).timestamp()
    return f"{lasting((time.time() if now is None else now) - at, 1)} ago"


def moment(raw: str | int | None) -> str:
    """A moment, in this machine's time."""
    if raw is None:
        return ""
    at = datetime.fromtimestamp(raw / 1000, UTC) if isinstance(raw, int) else datetime.fromisoformat(raw)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lasting(seconds: float, most_units: int = 2) -> str:
    """A length of time in its largest units."""
    left = max(0, round(seconds))
    told: list[str] = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or told:
            told.append(f"{count} {name}" if count else "")
        if len(told) == most_units:
            break
    return " ".join(filter(None, told)) or "0 s"
