"""Plots, words, and what the fleet's page says of a node."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from router.dashboard.fleet import free_in, free_text, state_of, wanted
from router.dashboard.plots import Plot, Series, bars, lines, round_up, shares, ticks
from router.dashboard.words import lasting, moment, short, size
from router.estimates import Estimate
from router.usability import on_record

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
NODE: dict[str, Any] = {
    "name": "alpha", "url": "http://10.0.0.1:3001", "engine": "odm", "engineVersion": "3.5", "labels": {"region": "eu"},
    "health": "healthy", "draining": False, "locked": False, "quarantine": None, "onProbation": False,
    "slots": 2, "placed": 0, "direct": 0, "silentSeconds": 1.0,
}  # fmt: skip


def plot(values: list[float | None], **more: Any) -> Plot:
    """One series, a point a minute."""
    at = [NOON + timedelta(minutes=number) for number in range(len(values))]
    return Plot("What <it> is", NOON, NOON + timedelta(hours=1), at, [Series("used", "used", values)], **more)


@pytest.mark.parametrize(
    ("most", "top"), [(0, 4), (3, 4), (4, 4), (5, 8), (9, 10), (41, 80), (100, 100), (101, 200), (2345, 4000)]
)
def test_a_scale_ends_where_its_ticks_read_well(most: float, top: float) -> None:
    """And never below what is drawn."""
    assert round_up(most) == top


def test_a_plot_is_whole_svg_and_escapes() -> None:
    """Without a style of its own: the page's policy forbids those."""
    drawn = lines(plot([1, 2, 3]))
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == "What <it> is"
    assert "style=" not in drawn
    assert isinstance(drawn, Markup)


def test_a_gap_parts_a_line() -> None:
    """Where a value is missing, or a moment; a lone point is a dot."""
    assert str(lines(plot([1, 2, None, 3, 4]))).count("<polyline") == 2
    parted = lines(plot([1, None, 3]))
    assert (str(parted).count("<polyline"), str(parted).count("<circle")) == (0, 2)
    assert str(lines(plot([1, 2, 3], gap=timedelta(seconds=30)))).count("<circle") == 3


def test_bars_stand_on_each_other() -> None:
    """The second begins where the first ends."""
    at = [NOON]
    series = [Series("completed", "completed", [3]), Series("failed", "failed", [1])]
    drawn = str(bars(Plot("Ended", NOON, NOON + timedelta(hours=1), at, series)))
    boxes = re.findall(r'class="(completed|failed)" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', drawn)
    (first, first_y, _), (second, second_y, second_height) = boxes
    assert (first, second) == ("completed", "failed")
    assert float(second_y) + float(second_height) == pytest.approx(float(first_y), abs=0.11)


def test_causes_are_told_the_most_frequent_first() -> None:
    """Each with its count."""
    drawn = ElementTree.fromstring(shares("Failures", {"lost": 1, "engine": 1200}))
    assert [each.text for each in drawn.iter() if each.tag.endswith("text")] == ["engine", "1,200", "lost", "1"]


@pytest.mark.parametrize("hours", [1, 24, 24 * 7, 24 * 30])
def test_few_and_round_moments_are_named(hours: int) -> None:
    """Whatever the span."""
    found = ticks(NOON + timedelta(minutes=7), NOON + timedelta(minutes=7, hours=hours))
    assert 3 <= len(found) <= 7
    assert all(each.second == 0 and each.minute % 10 == 0 for each in found)


def test_texts_from_outside() -> None:
    """Escaped, on one line, not too long, and without what cannot be seen."""
    assert short("<b>\n") == Markup("&lt;b&gt; ")
    assert short("a\u202eb\x00") == Markup("a\ufffdb\ufffd")
    told = str(short('"x"' * 5000))
    assert len(told) < 6000
    assert '"x"' not in told.replace("&#34;", "")
    assert "…" in told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (59.6, "1 min"), (3599, "59 min 59 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
)
def test_lengths_of_time(seconds: float, told: str) -> None:
    """In two units."""
    assert lasting(seconds) == told


def test_amounts_and_moments() -> None:
    """Bytes; and moments that the browser shows in its own zone."""
    assert [size(count) for count in (0, 1023, 1536, 2**40 * 5000)] == ["0 B", "1023 B", "1.5 KiB", "5000 TiB"]
    assert moment(NOON, "ago") == Markup(
        '<time datetime="2026-11-28T12:00:00+00:00" data-ago>2026-11-28 12:00:00 UTC</time>'
    )
    assert moment(None) == ""


class TestNodes:
    """What is said of a node."""

    @pytest.mark.parametrize(
        ("marks", "state"),
        [
            ({}, "healthy"),
            ({"health": "late", "locked": True}, "late"),
            ({"locked": True, "draining": True}, "locked"),
            ({"draining": True}, "draining"),
            ({"quarantine": "it failed", "onProbation": True}, "quarantined"),
            ({"onProbation": True}, "probation"),
        ],
    )
    def test_the_word_that_matters_most(self, marks: dict[str, Any], state: str) -> None:
        """Silence before all."""
        assert state_of(NODE | marks) == state

    @pytest.mark.parametrize("text", ["", "ALPHA", "odm 3.5", "10.0.0", "region=eu"])
    def test_it_is_found(self, text: str) -> None:
        """By name, engine, address, label."""
        assert wanted([NODE], text, "") == [NODE]
        assert wanted([NODE], text, "lost") == []

    @pytest.mark.parametrize(
        ("marks", "expected"),
        [
            ({}, "2 of its 2 slots are free"),
            ({"health": "late", "silentSeconds": 20.4}, "last heard 20 s ago"),
            ({"health": "lost", "silentSeconds": 700.0}, "silent for 700 s"),
            ({"locked": True}, "It is locked"),
            ({"draining": True}, "It drains"),
            ({"quarantine": "it rests"}, "quarantined: it rests"),
            ({"onProbation": True}, "on probation"),
            ({"placed": 1, "direct": 1}, "All of its 2 slots are taken"),
        ],
    )
    def test_why_it_is_not_usable(self, marks: dict[str, Any], expected: str) -> None:
        """One sentence for each reason."""
        (found,) = on_record(NODE | marks)
        assert expected in found["text"]
        assert found["good"] is (marks == {})

    def test_several_reasons_are_all_told(self) -> None:
        """Mending one would not help."""
        assert len(on_record(NODE | {"locked": True, "draining": True, "health": "late"})) == 3

    def test_when_a_slot_is_free(self) -> None:
        """The first of its tasks to end, as a range."""
        full, known = NODE | {"placed": 2}, Estimate(600, 300, 1200, 5)
        assert free_text(free_in(NODE, [])) == "now"
        assert free_text(free_in(full, [(known, 60), (known, 0)])) == "in 4 to 19 min"
        assert free_text(free_in(full, [(known, 60), (None, 0)])) == "within 19 min"
        assert free_text(free_in(full, [(None, 60), (None, 0)])) == "unknown"
        assert free_text(free_in(NODE | {"direct": 2}, [])) == "unknown"
        assert free_text((7200, 18_000)) == "in 2 to 5 h"
