"""tailscaled asked over its socket: as it answers, and as it does not."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import tailscaled as client
from common.tailnet import Peer, TailscaledUnreadable
from common.tailscaled import Tailscaled, TailscaledAway, TailscaledRefuses
from tests.tailscaled import StandIn, status, tailscaled, whois


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    """A tailscaled that knows three callers."""
    peers = {
        "100.64.0.7": whois("beta", tags=("tag:scaleodm-node",)),
        "127.0.0.1:40001": whois("gamma", login="ada@example.org"),
        "fd7a:115c:a1e0::7": whois("delta", login="bob@example.org"),
    }
    with tailscaled(tmp_path / "tailscaled.sock", status("alpha", "100.64.0.1"), peers) as running:
        yield running


async def test_it_says_where_this_machine_is_and_who_calls(standin: StandIn) -> None:
    """Callers by the exact address and port of their connection."""
    async with Tailscaled(standin.path) as asked:
        assert (await asked.status()).name == "alpha.tail1234.ts.net"
        assert await asked.whois("100.64.0.7", 5000) == Peer(
            "beta.tail1234.ts.net", ("tag:scaleodm-node",), "tagged-devices"
        )
        userspace = await asked.whois("127.0.0.1", 40001)
        assert userspace is not None
        assert userspace.login == "ada@example.org"
        assert await asked.whois("127.0.0.1", 40002) is None
        six = await asked.whois("fd7a:115c:a1e0::7", 80)
        assert six is not None
        assert six.name == "delta.tail1234.ts.net"
    assert standin.asked[0] == "/localapi/v0/status?peers=false"
    assert "addr=100.64.0.7%3A5000" in standin.asked[1] or "addr=100.64.0.7:5000" in standin.asked[1]


async def test_where_there_is_none(tmp_path: Path) -> None:
    """No socket; a socket that nobody listens at any more; a file."""
    async with Tailscaled(tmp_path / "none.sock") as asked:
        with pytest.raises(
            TailscaledAway, match=r"There is no tailscaled at .*none\.sock\. Start Tailscale here, or set"
        ):
            await asked.status()
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(left))
    async with Tailscaled(left) as asked:
        with pytest.raises(TailscaledAway, match="Nobody listens at"):
            await asked.status()


async def test_where_we_may_not_ask(standin: StandIn) -> None:
    """tailscaled says so itself."""
    standin.refuses = True
    async with Tailscaled(standin.path) as asked:
        with pytest.raises(TailscaledRefuses, match=r"does not answer this user \(\d+\) on /localapi/v0/whois"):
            await asked.whois("100.64.0.7", 1)


_AS_ANYBODY = """
import asyncio, os, pathlib, sys
from common.tailnet import TailnetTrouble
from common.tailscaled import Tailscaled

async def ask(path):
    async with Tailscaled(pathlib.Path(path)) as asked:
        try:
            await asked.status()
        except TailnetTrouble as trouble:
            print(type(trouble).__name__, trouble)

async def main():
    await ask("/none.sock")  # what is imported for it may be root's own
    if os.getuid() == 0:
        os.setuid(65534)
    await ask(sys.argv[1])

asyncio.run(main())
"""


def test_a_socket_that_we_may_not_open(standin: StandIn) -> None:
    """As another user than tailscaled's, where others are shut out."""
    standin.path.chmod(0)
    asked = subprocess.run(
        [sys.executable, "-c", _AS_ANYBODY, str(standin.path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert re.search(
        r"^TailscaledRefuses .*tailscaled\.sock may not be opened by this user \(\d+\)", asked.stdout, re.MULTILINE
    )


async def test_what_is_no_tailscaled(standin: StandIn) -> None:
    """Another program's socket; a version that knows no such question."""
    async with Tailscaled(standin.path) as asked:
        for raw, told in (
            (b"<h1>hello</h1>", "is not tailscaled, or one that is too old"),
            (b"{}", "does not tell its state"),
        ):
            standin.raw = raw
            with pytest.raises(TailscaledUnreadable, match=told):
                await asked.status()
        standin.raw = None
        with pytest.raises(TailscaledUnreadable, match="gave status 400"):
            await asked.whois("", 1)


async def test_one_that_hangs_is_not_waited_for(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls does not wait for ever."""
    monkeypatch.setattr(client, "ASK_S", 0.2)
    standin.silent = threading.Event()
    async with Tailscaled(standin.path) as asked:
        with pytest.raises(TailscaledAway, match="does not answer within"):
            await asked.status()
    standin.silent.set()
