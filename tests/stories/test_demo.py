"""`make demo` as a newcomer runs it, and as a newcomer interrupts it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until

SCALEODM = Path(sys.executable).with_name("scaleodm")


def left_behind(environment: dict[str, str]) -> list[str]:
    """Processes of the demo that still run: their command lines name its temporary folder."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and environment["TMPDIR"] in " ".join(process.info["cmdline"] or [])
    ]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An empty home, and a temporary folder of its own, with a path as short as temporary folders have."""
    (tmp_path / "home").mkdir()
    with tempfile.TemporaryDirectory(prefix="sodm-", dir="/tmp") as folder:
        yield os.environ | {"HOME": str(tmp_path / "home"), "TMPDIR": folder}
        assert not list(Path(folder).glob("scaleodm-demo-*")), "the demo cleans up behind itself"


def start(environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """The demo, in a pipe."""
    return subprocess.Popen(
        [str(SCALEODM), "demo", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(180)
def test_the_demo_makes_an_orthophoto_and_leaves_nothing_running(environment: dict[str, str], tmp_path: Path) -> None:
    """Exit code 0, products, the node's name and the reason."""
    with start(environment, "--out", str(tmp_path / "out")) as process:
        output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, output
    (products,) = (tmp_path / "out").iterdir()
    assert (products / "odm_orthophoto/odm_orthophoto.tif").stat().st_size > 100_000
    assert "It ran on node-" in output
    assert str(products) in output
    wait_until(lambda: not left_behind(environment), "every process to be gone")
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "moment", ["starting Postgres", "starting S3", "starting router", "2 nodes joined", "processing 20 %"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    """At whatever moment: no process, no half product."""
    with start(environment, "--out", str(tmp_path / "out")) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                break
        process.send_signal(number)
        rest = process.stdout.read()
        process.wait(60)
    assert process.returncode == 130, rest
    assert "nothing is left running" in rest
    wait_until(lambda: not left_behind(environment), "every process to be gone")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "/no/such/folder"], "is not a folder"),
        (["--images", "EMPTY"], "holds 0 images; at least 2"),
        (["--option", "dsm"], "expected NAME=VALUE"),
    ],
)
def test_bad_input_is_told_before_anything_starts(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], told: str
) -> None:
    """One sentence, exit code 2."""
    given = [str(tmp_path / "home") if argument == "EMPTY" else argument for argument in arguments]
    with start(environment, *given) as process:
        output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 2
    assert told in " ".join(output.split())
    assert "starting" not in output
