"""NodeODM's way of reading and writing, as tables and properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nodeodm.messages import (
    LONGEST_NAME_BYTES,
    clean_name,
    date_created,
    first_line,
    is_true,
    is_valid_uuid,
    next_name,
    outputs_from,
    task_info,
    task_name,
)
from common.nodeodm.options import Setting
from common.tasks import State, Task


def task(**changes: object) -> Task:
    """A task."""
    fields: dict[str, object] = {
        "uuid": "u",
        "tenant": "t",
        "name": "n",
        "created_ms": 1,
        "state": State.RUNNING,
        "input": "s3://b/i/",
        "output": "s3://b/o/",
    }
    return Task(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.contract("2.6 with_output")
@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("", 0),
        ("0", 0),
        ("3", 3),
        ("-3", 7),
        ("2.9", 2),
        ("-2.9", 8),
        ("99", 10),
        ("-99", 0),
        ("abc", 0),
        ("5abc", 0),
        ("NaN", 0),
        (" 4 ", 4),
        ("1e1", 10),
        ("0x5", 5),
        ("0b11", 3),
        ("Infinity", 10),
        ("-Infinity", 0),
        ("1e999", 10),
        ("+2", 2),
    ],
)
def test_slices_begin_where_javascript_begins_them(raw: str, wanted: int) -> None:
    """`Array.slice` of ten elements."""
    assert first_line(raw, 10) == wanted


@given(st.text(), st.integers(0, 1000))
def test_a_slice_always_begins_within_the_list(raw: str, total: int) -> None:
    """Whatever the query says."""
    assert 0 <= first_line(raw, total) <= total


@given(st.integers(-2000, 2000), st.integers(0, 100))
def test_whole_numbers_slice_as_pythons_do(start: int, total: int) -> None:
    """The two languages agree there."""
    lines = list(range(total))
    assert lines[first_line(str(start), total) :] == lines[start:]


def test_info_has_the_fields_of_the_contract() -> None:
    """Contract 2.6: no `errorMessage` and no `output` unless there is one."""
    running = task(began_ms=1_000, options=(Setting("dsm", True),))
    info = task_info(running, now_ms=4_000)
    assert info["processingTime"] == 3_000
    assert info["status"] == {"code": 20}
    assert info["options"] == [{"name": "dsm", "value": True}]
    assert "output" not in info
    failed = task(state=State.FAILED, error="why")
    assert task_info(failed, 0, [])["status"] == {"code": 30, "errorMessage": "why"}
    assert task_info(failed, 0, [])["output"] == []


@pytest.mark.contract("2.10 safe names")
@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("a.jpg", "a.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("body.json", "_body.json"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("folder/", "unnamed"),
        ("a\x00b\n.jpg", "ab.jpg"),
        ("снимок 📷.jpg", "снимок 📷.jpg"),
    ],
)
def test_uploaded_names_are_made_safe(raw: str, wanted: str) -> None:
    """Contract 2.10."""
    assert clean_name(raw) == wanted


@given(st.text())
def test_a_name_is_always_one_that_a_file_can_have(raw: str) -> None:
    """Whatever the client calls it."""
    name = clean_name(raw)
    assert name not in {"", ".", ".."}
    assert "/" not in name
    assert "\\" not in name
    assert len(name.encode("utf-8", "replace")) <= LONGEST_NAME_BYTES


def test_long_names_keep_their_extension() -> None:
    """The engine goes by it."""
    assert clean_name("я" * 300 + ".jpeg").endswith("я.jpeg")


def test_taken_names_grow_underscores() -> None:
    """Contract 2.10."""
    assert [next_name("a.jpg"), next_name("a_.jpg"), next_name("README"), next_name(".hidden")] == [
        "a_.jpg",
        "a__.jpg",
        "README_",
        ".hidden_",
    ]


@pytest.mark.contract("2.15 refused")
@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("9b2b1f5e-0c7a-4c6e-8b55-6f5a4d3c2b1a", True),
        ("9B2B1F5E-0C7A-7C6E-bB55-6F5A4D3C2B1A", True),
        ("9b2b1f5e-0c7a-8c6e-8b55-6f5a4d3c2b1a", False),
        ("9b2b1f5e-0c7a-4c6e-7b55-6f5a4d3c2b1a", False),
        ("00000000-0000-0000-0000-000000000000", False),
        ("9b2b1f5e-0c7a-4c6e-8b55-6f5a4d3c2b1a\n", False),
    ],
)
def test_uuids_are_those_of_nodeodm(text: str, valid: bool) -> None:
    """Contract 2.15."""
    assert is_valid_uuid(text) is valid


@pytest.mark.contract("6.3 outputs unreadable", "2.9 skip post-processing", "2.9 date", "3.2 default")
def test_names_dates_outputs_and_flags() -> None:
    """Contract 2.9, 3.2, 6.3."""
    assert task_name("", 0) == task_name(None, 0) == "Task of 1970-01-01T00:00:00.000Z"
    assert task_name("mine", 0) == "mine"
    assert date_created("1700000000000", 5) == 1_700_000_000_000
    assert date_created("soon", 5) == date_created(None, 5) == 5
    assert outputs_from('["../../odm_report", "./a/../b", "/c", 5, ""]') == ("odm_report", "b", "c")
    assert outputs_from("nonsense") == outputs_from({}) == outputs_from(None) == ()
    assert [is_true(raw) for raw in ("true", True, "True", 1, None)] == [True, True, False, False, False]


@pytest.mark.contract("3.4 minus one", "10 11")
def test_processing_time_is_minus_one_until_the_engine_runs() -> None:
    """Contract 3.4: split-merge tells waiting from running by it."""
    assert task().processing_time_ms(99) == -1
    assert task(state=State.COMPLETED, processing_ms=7, began_ms=1).processing_time_ms(99) == 7
    assert math.isclose(task(began_ms=100).processing_time_ms(50), 0), "a clock that jumps back shows nothing absurd"
