"""What is published is what is tested."""

from tests.compatibility.catalogue import CATALOGUE, SECTIONS, Kind
from tests.compatibility.document import PLACE, by_row, document, proofs, unproven

POINTS = range(1, 16)
"""Of the contract's checklist for implementers (section 11)."""
ROWS_OF_SCALEODM = 23


def test_the_published_table_is_what_the_tests_say() -> None:
    """When it is not: `python -m tests.compatibility`."""
    assert PLACE.read_text() == document(proofs()), "write it anew with: python -m tests.compatibility"


def test_every_row_is_proven_or_said_not_to_be_kept() -> None:
    """By a test that pytest collects."""
    assert unproven(proofs()) == []


def test_every_mark_names_a_row_and_no_row_that_is_not_kept() -> None:
    """A misspelled mark would prove nothing."""
    known = {row.name for row in CATALOGUE if row.kind is not Kind.NOT_KEPT}
    assert {name: tests for name, tests in by_row(proofs()).items() if name not in known} == {}


def test_rows_are_whole() -> None:
    """One of each name, in a section that is printed, and with a word why it is not the same."""
    names = [row.name for row in CATALOGUE]
    assert len(set(names)) == len(names)
    assert {row.section for row in CATALOGUE} == set(SECTIONS)
    assert [row.name for row in CATALOGUE if row.kind is not Kind.SAME and not row.why] == []
    assert sum(row.section == "10" for row in CATALOGUE) == ROWS_OF_SCALEODM


def test_every_point_of_the_checklist_is_a_row() -> None:
    """Section 11 of the contract: what has to hold for a client not to tell us from NodeODM."""
    met = {point for row in CATALOGUE if row.kind is not Kind.NOT_KEPT for point in row.checklist}
    assert met == set(POINTS)
