"""What is published is what is tested."""

import pytest

from tests.matrix.document import COLUMNS, ELSEWHERE, PLACE, Cell, cells, document, named


def test_the_published_matrix_is_what_the_tests_say() -> None:
    """When it is not: `python -m tests.matrix`."""
    assert PLACE.read_text() == document(cells()), "write it anew with: python -m tests.matrix"


@pytest.mark.parametrize("cell", ELSEWHERE, ids=lambda cell: cell.test)
def test_cells_that_are_tested_elsewhere_are(cell: Cell) -> None:
    """Each names a test that pytest finds: a function of that name, in a file of tests."""
    path, _, name = cell.test.rpartition("::")
    assert named(cell.test).__name__ == name
    assert name.startswith("test_")
    assert path.rpartition("/")[2].startswith("test_")


def test_no_cell_of_a_row_is_left_out() -> None:
    """Of the rows that have a federation of their own. When all nodes are silent, what is left is as ever."""
    columns: dict[str, set[str]] = {}
    for cell in cells():
        if cell not in ELSEWHERE:
            columns.setdefault(cell.row, set()).add(cell.column)
    silent = columns.pop("every node falls silent at once")
    assert silent == {"new task", "running task", "poll"}
    assert {row: sorted(found) for row, found in columns.items()} == dict.fromkeys(columns, sorted(COLUMNS))
