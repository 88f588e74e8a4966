"""`/healthz` and `/readyz`: is the program alive, and what of all that it needs answers (docs/monitoring.md).

Readiness takes a replica out of service, so it fails only for what this replica alone may lack. Where the database or
S3 is away, it is so for every replica, and none at all serves worse than one that answers polls from memory. What fails
is told all the same. No token is asked for, so nothing is told that needs one, and asking often costs nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastapi import APIRouter, Response, status
from pydantic import BaseModel

from common.references import Reference
from common.storage import AccessRefused, BucketMissing, Storage, StorageFault, StorageUnreachable

WITHIN_S = 2.0
"""A probe is answered by then, whatever is asked of."""
GOOD_FOR_S = 2.0
"""How long an answer is good."""


class State(StrEnum):
    """How it stands with something that is needed."""

    OK = "ok"
    FAILING = "failing"
    UNKNOWN = "unknown"
    """It cannot be told while something else fails."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How it stands with one thing, in a sentence without addresses, names of buckets or secrets."""

    name: str
    state: State
    says: str
    vital: bool = False
    """Whether this replica can serve nobody while this fails, and another one may."""


Ask = Callable[[], Awaitable[Sequence[Finding]]]


class Probe:
    """Asks for some findings: once at a time, and not again while they are good."""

    def __init__(self, names: Sequence[str], ask: Ask) -> None:
        """`names`: of the findings that `ask` gives."""
        self._names = names
        self._ask = ask
        self._asking: asyncio.Task[Sequence[Finding]] | None = None
        self._asked_at = float("-inf")

    async def findings(self) -> Sequence[Finding]:
        """The findings, within `WITHIN_S`; whoever asks meanwhile shares them."""
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now - self._asked_at > GOOD_FOR_S):
            self._asking = asyncio.create_task(_asked(self._ask), name=f"probe {', '.join(self._names)}")
            self._asked_at = now
        done, _ = await asyncio.wait({self._asking}, timeout=WITHIN_S)
        if done:
            return self._asking.result()
        waited = time.monotonic() - self._asked_at
        return [Finding(name, State.FAILING, f"It has not answered for {waited:.0f} s.") for name in self._names]


async def _asked(ask: Ask) -> Sequence[Finding]:
    return await ask()


class DependencyState(BaseModel):
    """How it stands with one thing that the program needs."""

    state: State
    says: str


class Readiness(BaseModel):
    """How it stands with the program."""

    status: str
    """`ok`; `degraded`: something fails, and it serves what it can; `unready`: it should be asked nothing now."""
    program: str
    dependencies: dict[str, DependencyState]


class Liveness(BaseModel):
    """The program answers."""

    status: str
    program: str


def readiness(program: str, findings: Sequence[Finding]) -> Readiness:
    """What the findings come to. Pure."""
    failing = [each for each in findings if each.state is State.FAILING]
    status = "unready" if any(each.vital for each in failing) else "degraded" if failing else "ok"
    told = {each.name: DependencyState(state=each.state, says=each.says) for each in findings}
    return Readiness(status=status, program=program, dependencies=told)


def health_routes(program: str, probes: Sequence[Probe]) -> APIRouter:
    """`/healthz` and `/readyz` of this program; no token, and nothing told that needs one."""
    routes = APIRouter(tags=["health"])
    unready: dict[int | str, dict[str, Any]] = {
        503: {"description": "This replica should be asked nothing now", "model": Readiness}
    }

    @routes.get("/healthz")
    async def alive() -> Liveness:
        """The program answers."""
        return Liveness(status="ok", program=program)

    @routes.get("/readyz", responses=unready)
    async def ready(response: Response) -> Readiness:
        """What the program needs, each with how it stands; 503 only where this replica can serve nobody."""
        found = await asyncio.gather(*(each.findings() for each in probes))
        told = readiness(program, [finding for some in found for finding in some])
        if told.status == "unready":
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return told

    return routes


def s3_probe(storage: Storage, staging: Reference) -> Probe:
    """Whether S3 answers, and lets us see our own staging area."""

    async def ask() -> Sequence[Finding]:
        try:
            await storage.run(storage.look, staging)
        except StorageUnreachable:
            return [Finding("s3", State.FAILING, "S3 does not answer.")]
        except AccessRefused:
            return [Finding("s3", State.FAILING, "S3 refuses our keys, or does not let them list the staging bucket.")]
        except BucketMissing:
            return [Finding("s3", State.FAILING, "The staging bucket does not exist.")]
        except StorageFault as fault:
            return [Finding("s3", State.FAILING, f"S3 answers with an error ({type(fault).__name__}).")]
        return [Finding("s3", State.OK, "S3 answers, and lists the staging bucket.")]

    return Probe(["s3"], ask)
