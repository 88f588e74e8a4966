"""A closed load on one URL of this machine: many connections, each asking again once it is answered."""

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

CONNECTIONS = 64


@dataclass(frozen=True)
class Load:
    """What a load saw."""

    requests: int
    seconds: float
    latencies_ms: list[float]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency that this share of the requests stayed under."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def load(url: str, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Load `url`, which must be on loopback, for a bounded time. Any answer but 200 fails."""
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1", "a load goes to this machine only"
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    deadline = time.perf_counter() + seconds
    began = time.perf_counter()
    latencies = await asyncio.gather(*(_ask(parts.port or 80, request, deadline) for _ in range(connections)))
    flat = [each for some in latencies for each in some]
    return Load(len(flat), time.perf_counter() - began, flat)


async def _ask(port: int, request: bytes, deadline: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies = []
    while (now := time.perf_counter()) < deadline:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        latencies.append((time.perf_counter() - now) * 1000)
    writer.close()
    await writer.wait_closed()
    return latencies
