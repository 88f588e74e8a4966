"""`docs/failure-matrix.md`, written from the tests: a class is a row, its tests are the cells, with what they say."""

import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLACE = ROOT / "docs" / "failure-matrix.md"
COLUMNS = ("new task", "running task", "poll", "cancel", "download")
MODULES = ("test_routers", "test_stores", "test_nodes")
"""In the order of their rows."""

_HEAD = """# What happens when something breaks

<!-- Written by `python -m tests.matrix` from the tests themselves; a test fails when the two differ. -->

Each cell is an automated test, whose name stands in it. Except in the last rows, what breaks is a real process of a
real federation (routers, nodes, Postgres, S3): it is killed by SIGKILL, stopped by SIGSTOP, or its bytes are lost on
the way. While it is broken, clients poll every task at every router all the time, and each row ends with a look at all
that they were told: nothing but status 200, or a dropped connection where a router was killed; a uuid that was
returned is known (I1); a task that has begun is never 10 again (I6); and it ends once.

The tests set short clocks: a node is *late* after 1.5 s of silence (usually 15 s), and *lost* after 4 to 8 s (usually
10 minutes, or a quarter of the time that the attempt has worked, whichever is longer).
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One test, and where it stands."""

    row: str
    column: str
    says: str
    test: str
    """`path::name`, or `path::class::name`, below the project's root."""

    def link(self) -> str:
        """For a document in `docs/`."""
        path, _, name = self.test.partition("::")
        return f"[`{name.rpartition('::')[2]}`](../{path})"


_JOBS, _LEASES, _BAD = (
    "tests/node/test_kubernetes.py::",
    "tests/router/test_leases.py::",
    "tests/stories/test_bad_input.py::",
)
_MEMORY, _EVICTED, _INPUT = (
    "ODM runs out of memory",
    "pod evicted, or its machine lost",
    "bad input (no images, a broken zip, an unknown bucket)",
)
ELSEWHERE = (
    Cell(
        _MEMORY,
        "running task",
        "told, and not started again as it was",
        _JOBS + "test_out_of_memory_is_told_and_not_tried_again",
    ),
    Cell(
        _MEMORY,
        "running task",
        "another attempt with half as much memory again, on a node that has it",
        _LEASES + "test_a_task_that_ran_out_of_memory_gets_more_where_there_is_more",
    ),
    Cell(
        _MEMORY,
        "running task",
        "where none has it or that is not enough either, failed with that reason",
        _LEASES + "test_each_cause_is_tried_again_as_often_as_it_is_worth",
    ),
    Cell(
        _EVICTED, "running task", "a new pod, not counted against the task", _JOBS + "test_an_eviction_is_not_counted"
    ),
    Cell(
        _EVICTED,
        "running task",
        "likewise when somebody deletes the pod",
        _JOBS + "test_a_deleted_pod_costs_time_and_nothing_else",
    ),
    Cell(_INPUT, "new task", "failed, with the reason in plain words", _BAD + "test_no_images"),
    Cell(_INPUT, "new task", "", _BAD + "test_an_empty_prefix"),
    Cell(_INPUT, "new task", "", _BAD + "test_a_broken_zip"),
    Cell(_INPUT, "new task", "", _BAD + "test_a_bucket_that_does_not_exist"),
    Cell(_INPUT, "new task", "", _BAD + "test_text_files_that_are_called_jpg"),
)
"""Cells of which other tests speak: they need no whole federation, or are told as stories."""


def cells() -> list[Cell]:
    """Every cell, row by row."""
    found = [cell for name in MODULES for row in _rows(name) for cell in _cells_of(row)]
    return [*found, *ELSEWHERE]


def named(test: str) -> Any:
    """What `path::name` names. Raises when there is nothing of that name."""
    path, *names = test.split("::")
    found: Any = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    for name in names:
        found = getattr(found, name)
    return found


def document(found: Iterable[Cell]) -> str:
    """The whole file."""
    table: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in found:
        assert cell.column in COLUMNS, f"{cell.test}: no column {cell.column!r}"
        table[cell.row][cell.column].append(cell)
    lines = [_line(["what breaks", *COLUMNS]), _line(["---"] * (len(COLUMNS) + 1))]
    lines += [_line([row, *(_told(columns[column]) for column in COLUMNS)]) for row, columns in table.items()]
    return _HEAD + "\n" + "\n".join(lines) + "\n"


def _rows(module: str) -> Iterator[type]:
    for found in vars(importlib.import_module(f"tests.matrix.{module}")).values():
        if inspect.isclass(found) and "row" in {mark.name for mark in vars(found).get("pytestmark", ())}:
            yield found


def _cells_of(row: type) -> Iterator[Cell]:
    (name,) = (mark.args[0] for mark in vars(row)["pytestmark"] if mark.name == "row")
    path = Path(inspect.getfile(row)).relative_to(ROOT).as_posix()
    # As pytest runs them: those of base classes first.
    tests = {
        name: getattr(row, name) for each in reversed(row.__mro__) for name in vars(each) if name.startswith("test_")
    }
    for test, function in tests.items():
        marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "cell"]
        assert marks, f"{row.__name__}.{test} is of no cell"
        for mark in reversed(marks):
            column, says = mark.args
            yield Cell(name, column, says, f"{path}::{row.__name__}::{test}")


def _told(found: list[Cell]) -> str:
    """A cell of the table: what its tests say, each with its name."""
    return "<br>".join(f"{cell.says}<br>{cell.link()}" if cell.says else cell.link() for cell in found) or "–"


def _line(columns: list[str]) -> str:
    return f"| {' | '.join(columns)} |"
