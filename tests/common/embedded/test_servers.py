"""Postgres and S3 of the embedded stack: their data outlives them."""

import secrets
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from common.embedded.children import ChildFailed, free_port, port_is_free, start_child
from common.embedded.object_store import ObjectStore
from common.embedded.postgres import EmbeddedPostgres
from common.references import Reference
from tests.waiting import wait_until


async def test_postgres_keeps_its_data_when_it_is_stopped(tmp_path: Path) -> None:
    """And listens on no network address."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    connection = await asyncpg.connect(server.start())
    await connection.execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)")
    assert await connection.fetchval("SHOW listen_addresses") == ""
    await connection.close()
    server.stop()
    server.stop()
    again = EmbeddedPostgres(tmp_path / "postgres")
    connection = await asyncpg.connect(again.start())
    assert await connection.fetchval("SELECT x FROM kept") == 7
    await connection.close()
    again.stop()


def test_s3_keeps_its_objects_and_hides_its_keys(tmp_path: Path) -> None:
    """No key on a command line (I9)."""
    secret = secrets.token_hex(16)

    def store() -> ObjectStore:
        return ObjectStore(tmp_path / "s3", free_port(), "tester", secret, tmp_path / "s3.log")

    first = store()
    first.start("staging")
    first.storage().write(Reference("staging", "kept"), b"data")
    words = [word for child in psutil.Process().children() for word in child.cmdline()]
    assert any("rclone" in word for word in words)
    assert not any(secret in word for word in words)
    first.stop()
    second = store()
    second.start("staging")
    assert second.storage().read(Reference("staging", "kept")) == b"data"
    second.stop()
    assert secret not in (tmp_path / "s3.log").read_text()


def test_a_child_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Not after a minute, but at once."""
    child = start_child("a program", [sys.executable, "-c", "raise SystemExit('no such thing')"], {}, tmp_path / "log")
    with pytest.raises(ChildFailed, match=r"a program ended with code 1\.\n  no such thing"):
        child.wait_until(lambda: False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves no time to stop anything."""
    parent = f"""
import sys, time
from pathlib import Path
from common.embedded.children import start_child
child = start_child("c", [sys.executable, "-c", "import time; time.sleep(600)"], {{}}, Path({str(tmp_path / "log")!r}))
print(child.process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child to end")


def test_a_taken_port_is_known_to_be_taken() -> None:
    """Ports are remembered over restarts, and somebody else may have taken one."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not port_is_free(taken.getsockname()[1])
    assert port_is_free(free_port())
