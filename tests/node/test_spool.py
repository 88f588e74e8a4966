"""Consoles by line number, whatever becomes of logs, streams and nodes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.cluster.spool import Spool
from node.manifests import CONSOLE_CAME_LATE

ROOM = 2**20


@pytest.fixture
def spooled() -> Iterator[Callable[..., Spool]]:
    """Makes spools, and lets go of their files as the death of a process does: nothing more is written."""
    made: list[Spool] = []

    def make(folder: Path, room: int = ROOM) -> Spool:
        made.append(Spool(folder, room))
        return made[-1]

    yield make
    for spool in made:
        for file in (spool._file, spool._journal):
            if file is not None:
                file.close()


def raw(number: int, text: str) -> bytes:
    """A line as the kubelet gives it, one every millisecond."""
    return f"2026-11-24T12:00:{number // 1000:02d}.{number % 1000:03d}Z {text}".encode()


def follow(spool: Spool, source: str, lines: list[bytes]) -> None:
    """One look at a log, from where the API server would begin: the second of the last line."""
    since = spool.begin(source)
    for line in lines:
        if since is None or line[:19].decode() >= since[:19]:
            spool.take(source.rpartition("/")[2], line)
    spool.flush()


def test_lines_come_once_however_often_the_stream_breaks_off(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """The API server begins again at the whole second."""
    spool = spooled(tmp_path)
    log = [raw(number, f"line {number}") for number in range(0, 3000, 7)]
    for end in (1, 50, 51, 300, len(log)):
        follow(spool, "pod/engine", log[:end])
    assert spool.console.lines(0) == [f"line {number}" for number in range(0, 3000, 7)]


def test_lines_of_one_moment_are_all_kept(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """Clocks are coarse somewhere."""
    spool = spooled(tmp_path)
    log = [raw(5, f"line {number}") for number in range(10)]
    follow(spool, "pod/engine", log[:4])
    follow(spool, "pod/engine", log)
    assert len(spool.console) == 10


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=30), max_size=40), st.data())
def test_a_node_killed_at_any_byte_goes_on_exactly(
    tmp_path_factory: pytest.TempPathFactory, spooled: Callable[..., Spool], texts: list[str], data: st.DataObject
) -> None:
    """Lines and journal are written one after the other; a kill may fall anywhere between."""
    texts = [" ".join(text.split()) or "-" for text in texts]
    log = [raw(number, f"{number} {text}") for number, text in enumerate(texts)]
    whole = spooled(tmp_path_factory.mktemp("whole"))
    follow(whole, "pod/engine", log)
    folder = tmp_path_factory.mktemp("killed")
    spool = spooled(folder)
    seen = data.draw(st.integers(0, len(log)))
    follow(spool, "pod/engine", log[:seen])
    for name in ("console.log", "journal.log"):
        if (path := folder / name).exists():
            content = path.read_bytes()
            path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    again = spooled(folder)
    follow(again, "pod/engine", log)
    assert again.console.lines(0) == whole.console.lines(0)
    assert again.mark.percent == whole.mark.percent


def test_what_was_rotated_away_is_still_here(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """A killed node does not need what the kubelet no longer has."""
    spool = spooled(tmp_path)
    follow(spool, "pod/fetch", [raw(1, "Fetching")])
    spool.end("pod/fetch")
    follow(spool, "pod/engine", [raw(number, f"line {number}") for number in range(10, 20)])
    again = spooled(tmp_path)
    assert again.has_followed("pod/fetch")
    follow(again, "pod/engine", [raw(number, f"line {number}") for number in range(20, 30)])
    assert again.console.lines(0) == ["Fetching", *(f"line {number}" for number in range(10, 30))]


def test_progress_and_complaints_are_read_on_the_way(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """Of the engine's lines only, and again after a restart."""
    spool = spooled(tmp_path)
    follow(
        spool, "pod/engine", [raw(1, "[INFO]    Finished opensfm stage"), raw(2, "[ERROR]   x"), raw(3, "\x1b[39m ")]
    )
    assert (spool.mark.percent, spool.mark.error_lines) == (25, ("[ERROR]   x",))
    again = spooled(tmp_path)
    assert (again.mark.percent, again.mark.error_lines) == (25, ("[ERROR]   x",))
    again.end("pod/engine")
    follow(again, "pod/publish", [raw(4, "Compressing all.zip"), raw(5, "Publishing products"), raw(6, "[ERROR]   y")])
    assert (again.mark.publish_percent, again.mark.error_lines) == (97, ("[ERROR]   x",))
    assert len(again.console) == 5


def test_a_console_without_end_stops_at_its_limit(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """And says so; complaints are still heard."""
    spool = spooled(tmp_path, 500)
    follow(spool, "pod/engine", [raw(number, f"a long line {number}") for number in range(100)])
    follow(spool, "pod/engine", [raw(200, "[ERROR]   at last")])
    lines = spool.console.lines(0)
    assert lines[-1] == "[WARNING] This console is longer than 500 bytes; the rest is left out."
    assert spool.mark.error_lines == ("[ERROR]   at last",)
    assert spool.path.stat().st_size < 700


def test_a_pod_that_takes_anothers_place_goes_on_in_the_same_console(
    tmp_path: Path, spooled: Callable[..., Spool]
) -> None:
    """Its clock may be behind."""
    spool = spooled(tmp_path)
    follow(spool, "one/engine", [raw(9000, "first")])
    spool.end("one/engine")
    follow(spool, "two/engine", [raw(1, "second")])
    assert spool.console.lines(0) == ["first", "second"]


def test_what_lies_in_s3_is_known(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """For each pod anew, since each pod's publish waits for it."""
    spool = spooled(tmp_path)
    assert spool.is_kept_whole
    follow(spool, "one/engine", [raw(1, "x")])
    assert not spool.is_kept_whole
    spool.keep(spool.path.stat().st_size, "one")
    assert (spool.is_kept_whole, spool.mark.kept_for) == (True, "one")
    follow(spool, "one/publish", [raw(2, "y")])
    assert (spool.is_kept_whole, spool.mark.kept_for) == (False, "one")
    follow(spool, "one/publish", [raw(3, CONSOLE_CAME_LATE)])
    assert spool.mark.kept_for == "", "publish has put a note over it"


def test_a_line_of_the_nodes_own_stays_where_it_was_said(tmp_path: Path, spooled: Callable[..., Spool]) -> None:
    """Also when the node is killed, and follows the log again from its mark."""
    spool = spooled(tmp_path)
    log = [raw(number, f"line {number}") for number in range(3)]
    follow(spool, "pod/engine", log)
    spool.say("Task timed out after 5 minutes.")
    again = spooled(tmp_path)
    follow(again, "pod/engine", [*log, raw(3, "line 3")])
    assert again.console.lines(0) == ["line 0", "line 1", "line 2", "Task timed out after 5 minutes.", "line 3"]
