"""What is counted in plain numbers, for whoever counts fast and knows nothing of Prometheus. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from threading import Lock

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Upper bounds of the latencies of requests."""
WAITS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
"""Upper bounds of waits."""

REFUSED = "scaleodm.refused"
"""Key of an ASGI scope: the request was refused with status 200, as NodeODM has it."""


class Durations:
    """How many durations lie between which bounds. For one thread."""

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        """None yet. `bounds` in seconds, ascending."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def count(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each bound with what lies up to it."""
        found, total = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class S3Traffic:
    """What a program asks of S3 itself (`common.storage.Traffic`), counted by many threads."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = Lock()
        self._requests: dict[tuple[str, str], int] = {}
        self.up = self.down = 0

    def sent(self, size: int) -> None:
        """A request goes out whose body has so many bytes."""
        with self._lock:
            self.up += size

    def answered(self, operation: str, status: int | None, size: int) -> None:
        """It was answered, with so many bytes to come; None: it was not."""
        key = (operation, "none" if status is None else f"{status // 100}xx")
        with self._lock:
            self.down += size
            self._requests[key] = self._requests.get(key, 0) + 1

    def requests(self) -> list[tuple[tuple[str, str], int]]:
        """How many there were, by operation and result."""
        with self._lock:
            return list(self._requests.items())
