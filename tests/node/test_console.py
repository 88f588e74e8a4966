"""Console lines by number, while another process writes them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.console import Console, ConsoleWriter, clean_line


@pytest.mark.contract("2.7 cleaned")
def test_lines_are_cleaned_for_clients() -> None:
    """No colours; never the bare word that PyODM takes for a failure (contract 8.1)."""
    assert clean_line("\x1b[91m[ERROR]   x\x1b[0m \r") == "[ERROR]   x"
    assert clean_line(" error ") == "[error]"
    assert clean_line("error: x") == "error: x"
    assert clean_line("token=scaleodm-parts.u.1.n.ff said") == "token=scaleodm-parts.*** said", "nor ours (I9)"
    assert clean_line("a\x00b") == "ab", "Postgres keeps no zero bytes"


def test_a_reader_sees_whole_lines_only_as_they_come(tmp_path: Path) -> None:
    """Half a line is not there yet."""
    path = tmp_path / "deep" / "console.log"
    console = Console(path)
    assert (len(console), console.lines(0)) == (0, [])
    writer = ConsoleWriter(path)
    writer.write("one\n\n  \ntwo\n")
    assert console.lines(0) == ["one", "two"]
    with path.open("a") as raw:
        raw.write("thr")
    assert len(console) == 2
    with path.open("a") as raw:
        raw.write("ee\n")
    assert console.lines(2) == ["three"]
    assert console.lines(1, most=1) == ["two"]
    assert console.lines(9) == []
    writer.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    lines=st.lists(st.text(min_size=1).map(clean_line).filter(lambda line: len(line.splitlines()) == 1), max_size=20)
)
def test_every_line_is_found_by_its_number(tmp_path: Path, lines: list[str]) -> None:
    """Whatever letters it has."""
    path = tmp_path / "console.log"
    path.unlink(missing_ok=True)
    writer = ConsoleWriter(path)
    for line in lines:
        writer.write(line)
    writer.close()
    console = Console(path)
    for number in range(len(lines) + 1):
        assert console.lines(number) == lines[number:]
