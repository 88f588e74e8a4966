"""Connections that break on the way: what is safe to repeat is repeated, and what is followed goes on."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.command.shown import Column, ago, cleaned, drawn, lasting
from tests.common.command.running import Shell
from tests.common.command.standins import BROKEN, Answer, Serve, as_json

BREAK: Answer = (BROKEN, {}, b"")


def test_an_upload_whose_connections_break_arrives_whole(bare: Shell, photos: Path, serve: Serve) -> None:
    """Each request breaks once, also that which opens it and that which commits it."""
    asked: Counter[str] = Counter()

    def answer(method: str, path: str) -> Answer | None:
        what = f"{method} {path.rpartition('/')[0] if 'upload' in path or 'commit' in path else path}"
        asked[what] += 1
        if method == "GET":
            return as_json([])
        if asked[what] <= (2 if "upload" in path else 1):
            return BREAK
        return as_json({"success": True} if "upload" in path else {"uuid": "u"})

    done = bare("submit", str(photos), "--url", serve(answer)).went_well()
    assert len(done.out.strip()) == 36
    assert asked == {
        "GET /options": 1,
        "POST /task/new/init": 2,
        "POST /task/new/upload": 4,
        "POST /task/new/commit": 2,
    }


def test_a_refused_upload_is_not_tried_again(bare: Shell, photos: Path, serve: Serve) -> None:
    """The server's own sentence is told."""
    asked: Counter[str] = Counter()

    def answer(method: str, path: str) -> Answer | None:
        asked[path.split("/")[-1]] += 1
        if method == "GET":
            return as_json([])
        return as_json({"error": "This node is full."} if "init" in path else {"uuid": "u"})

    bare("submit", str(photos), "--url", serve(answer)).refused(1, "This node is full.")
    assert asked == {"options": 1, "init": 1}


def test_a_console_begins_anew_with_the_next_attempt(bare: Shell, serve: Serve) -> None:
    """A task whose node was lost: its next attempt has a console of its own, which is shown from its beginning."""
    lines = {1: ["first a", "first b", "first c"], 2: ["second a", "second b"]}
    # Attempt, code and processing time, one after the other; None for a connection that breaks.
    answers = iter([(1, 20, 900), None, (2, 20, -1), (2, 20, -1), (2, 20, 5), (2, 40, 9), (2, 40, 9)])

    def answer(method: str, path: str) -> Answer | None:
        del method
        if "with_output" not in path:
            return as_json(info(2, 40, 9, 0))
        said = next(answers)
        return BREAK if said is None else as_json(info(*said, int(path.rpartition("=")[2])))

    def info(attempt: int, code: int, took: int, begin: int) -> dict[str, Any]:
        return {"uuid": "u", "status": {"code": code}, "processingTime": took, "output": lines[attempt][begin:]}

    done = bare("logs", "-f", "u" * 36, "--url", serve(answer)).went_well()
    assert done.out.splitlines() == [*lines[1], *lines[2]]
    assert "It begins anew" in done.err


def test_what_answers_and_is_no_router_is_told(bare: Shell, serve: Serve) -> None:
    """Some web page; an error page of a proxy."""
    page = bare("tasks", "--url", serve(lambda *_: (200, {}, b"<h1>hello</h1>")))
    page.refused(3, "with status 200 and nothing readable")
    bare("nodes", "--url", serve(lambda *_: (502, {}, b"Bad gateway"))).refused(3, "with status 502")
    bare("tokens", "--url", serve(lambda *_: None)).refused(3, "This command needs a router")


COLUMNS = (
    Column("task", least=8),
    Column("state"),
    Column("name", least=6),
    Column("node", spare=True),
    Column("empty"),
)
ROWS = [["0123456789abcdef", "running", "a field \N{CJK UNIFIED IDEOGRAPH-6D4B}", "node-1", ""]]


@pytest.mark.parametrize("width", [20, 24, 40, 60, 200])
def test_a_table_fits_the_terminal(width: int) -> None:
    """What can be is shortened, what can be spared is left out, and a column without values is none."""
    console = Console(width=width, record=True, force_terminal=True)
    with console.capture() as said:
        console.print(drawn(COLUMNS, ROWS, width))
    told = Console(width=width).render_str(said.get()).plain
    assert "running" in told or width < 24
    assert "empty" not in told
    assert ("node-1" in told) is (width >= 40)
    assert ("0123456789abcdef" in told) is (width >= 60)


def test_lengths_of_time_are_told_as_people_do() -> None:
    """Two units at most; of how long ago, one."""
    assert [lasting(each) for each in (0, 59, 61, 3600, 90_061, -5)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 d 1 h",
        "0 s",
    ]
    assert ago(1_000, 3_700.0 + 1) == "1 h ago"
    assert ago("2026-01-01T00:00:00+00:00", 1767225600.0) == "0 s ago"


def test_what_a_terminal_would_obey_is_shown_and_not_done() -> None:
    """Escape sequences, a bell, text that runs backwards."""
    assert cleaned("a\x1b[2Jb\x07\u202ec\nd") == "a\ufffd[2Jb\ufffd\ufffdc d"
