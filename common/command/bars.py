"""How far the steps of something long are: bars on a terminal, a line now and then in a pipe."""

from collections.abc import Iterable, Sequence
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_WITHOUT_BAR = 46
"""Characters that the other columns take."""


class Bars:
    """Bars, one for each step."""

    def __init__(self, console: Console, steps: Sequence[str] = ("upload", "processing", "download")) -> None:
        """Nothing is shown yet."""
        self._console = console
        self._said = dict.fromkeys(steps, "")
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(max(4, min(40, console.width - _WITHOUT_BAR))),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._rows = {step: self._progress.add_task(step, total=100, start=False) for step in steps}

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing."""
        self._progress.stop()

    def show(self, step: str, percent: float, note: str = "") -> None:
        """A step is this far; `note` says what it is at."""
        row = self._rows[step]
        self._progress.start_task(row)
        described = escape(f"{step} {note}".strip()[:28])
        self._progress.update(row, completed=percent, description=described)
        if percent >= 100:
            self._progress.stop_task(row)
        line = f"{step} {percent // 10 * 10:.0f} % {note}".strip()
        if not self._console.is_terminal and line != self._said[step]:
            self._said[step] = line
            self._console.print(line, markup=False, soft_wrap=True)


def stage(lines: Iterable[str]) -> str:
    """The stage that an engine's last lines speak of."""
    running = [line.split()[-2] for line in lines if "] " in line and " Running " in line and line.endswith(" stage")]
    return running[-1].removeprefix("odm_") if running else ""
