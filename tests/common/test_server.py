"""How a program ends that serves."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from common.embedded.children import free_port, start_child
from tests.waiting import wait_until

PROGRAM = """
import asyncio, sys
from common.logs import start_logging
from common.nodeodm.envelope import Envelope
from common.server import serve

async def app(scope, receive, send):
    print("asked", flush=True)
    await asyncio.Event().wait()

start_logging()
asyncio.run(serve(Envelope(app), "127.0.0.1", int(sys.argv[1]), lambda url: asyncio.Event().wait()))
"""


@pytest.mark.contract("1 never 5xx")
def test_a_request_that_the_end_cuts_off_is_a_dropped_connection(tmp_path: Path) -> None:
    """As an upload that still comes when its router is replaced. In the log it is a line, and no traceback."""
    port, log = free_port(), tmp_path / "log"
    child = start_child("server", [sys.executable, "-c", PROGRAM, str(port)], {}, log)
    wait_until(lambda: "listening" in log.read_text(), "it to listen")
    asking = subprocess.Popen(
        [sys.executable, "-c", f"import httpx; httpx.get('http://127.0.0.1:{port}', timeout=60)"],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: "asked" in log.read_text(), "it to be asked")
    child.process.send_signal(signal.SIGTERM)
    assert child.process.wait(30) == 0
    _, told = asking.communicate(timeout=30)
    assert "Server disconnected" in told
    lines = log.read_text().splitlines()
    assert lines[-1].endswith("dropped GET /: this program ends")
    assert not any("Traceback" in line or "ASGI callable" in line for line in lines)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}")
