"""Joining a router, sending heartbeats, obeying the answers (design 4.2)."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from pydantic import BaseModel, ValidationError

from common.errands import Errands
from common.federation import (
    LATE_BEATS,
    LINES_PER_HEARTBEAT,
    Acknowledged,
    AttemptReport,
    Capacity,
    Heartbeat,
    HeartbeatAnswer,
    JoinAnswer,
    JoinRequest,
    OptionMessage,
)
from common.nodeodm.routes import now_ms
from common.patience import comes
from common.reaching import why_unreachable
from common.tailnet import TailnetTrouble
from common.tasks import ACTIVE, NOT_RUNNING
from common.tokens import Caller, Kind, TokenGate, hashed
from node.backends import BackendAway, BackendRefused
from node.engines import Engine, EngineInUse
from node.families import FamilyTokens
from node.local_tasks import Limits, LocalTasks
from node.records import Record
from node.settings import NodeSettings
from node.whereabouts import Whereabouts

logger = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

RETRY_AFTER_S = (0.5, 1, 2, 5, 10, 15)
"""Waits between attempts to reach a router; the last one repeats."""
TELL_WORKSPACES_S = 60.0
JOIN = "/federation/nodes"
_UNKNOWN_ROUTE = (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED)
_TOKEN_ADVICE = " This node sends SCALEODM_NODE_JOIN_TOKEN, which is to be a node token of that router."  # noqa: S105
_TIMEOUT = httpx.Timeout(10.0)


class MembershipRefused(Exception):
    """The router answered, and said no."""


class NoRouter(MembershipRefused):
    """What answers at the address is none."""


class MembershipEnded(Exception):
    """An administrator has removed this node from the federation."""


@dataclass(slots=True)
class _Reported:
    """What the router is known to hold of one attempt."""

    attempt: int
    next_line: int = 0


class Membership:
    """Keeps this node in the federation."""

    def __init__(
        self,
        settings: NodeSettings,
        tasks: LocalTasks,
        engine: EngineInUse,
        gate: TokenGate,
        families: FamilyTokens,
        whereabouts: Whereabouts,
    ) -> None:
        """`gate` is opened for the router once it has answered the join; `families` are told what it answered."""
        self._whereabouts = whereabouts
        self._families = families
        self._settings = settings
        self._tasks = tasks
        self._engine = engine
        self._gate = gate
        self._reported: dict[str, _Reported] = {}
        self._workspaces_told: tuple[dict[str, int] | None, float] = (None, 0.0)
        """What the router knows to be kept here, and since when."""
        self._secret = ""
        self._session, self._beat = secrets.token_hex(8), 0
        self._leaving: set[tuple[str, int]] = set()
        self._errands = Errands(logger, (BackendAway, BackendRefused))
        self.heartbeats: Counter[str] = Counter()
        """How many were sent, by whether they were answered: `answered`, `failed`."""
        self._answered_at: float | None = None
        self._proxy = str(settings.router_proxy) if settings.router_proxy else None
        self._is_removed = False

    @property
    def unheard_s(self) -> float | None:
        """For how long no router has answered; None before one has, and once this node is removed."""
        return None if self._answered_at is None or self._is_removed else time.monotonic() - self._answered_at

    async def run(self, own_url: str) -> None:
        """Join, then report, for ever; a router that is away or has forgotten this node is joined again."""
        failures = turns = 0
        longest: float = RETRY_AFTER_S[-1]
        urls = self._settings.router_urls
        while True:
            url = urls[turns % len(urls)]
            try:
                at = await self._whereabouts.find(own_url)
                async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, proxy=self._proxy) as http:
                    answer = await self._join(http, at)
                    # A router that is back shall hear of this node before it calls it late.
                    failures, longest = 0, LATE_BEATS * answer.heartbeat_s
                    await self._report(http, answer, at)
            except MembershipEnded as ended:
                self._is_removed = True
                logger.warning("router %s: %s", url, ended)
                return
            except (httpx.HTTPError, MembershipRefused, TailnetTrouble) as trouble:
                # The other replicas of the router are tried at once, the same one again only after a while.
                turns += 1
                wait = retry_wait(failures // len(urls), longest) if turns % len(urls) == 0 else 0.0
                failures += 1
                logger.warning("router %s: %s; again in %.1f s", url, self._told_of(url, trouble), wait)
                await asyncio.sleep(wait)

    async def _join(self, http: httpx.AsyncClient, at: Sequence[str]) -> JoinAnswer:
        capacity = capacity_now(self._settings, self._tasks)
        about = join_request(self._settings, self._tasks.limits, self._engine.now, at, capacity)
        token = self._settings.join_token.get_secret_value() if self._settings.join_token else None
        proof = {} if token else {"proof_key": self._whereabouts.proof_key}
        request = about.model_copy(update={"secret": self._secret, "clock": datetime.now(UTC)} | proof)
        answer = _read(JoinAnswer, await _post(http, JOIN, request.model_dump_json(), token))
        self._gate.revoke(hashed(self._secret))
        self._secret = answer.secret
        self._families.joined(answer.node_id, answer.secret)
        self._gate.admit(hashed(answer.secret), Caller(Kind.ROUTER, "router"))
        self._reported.clear()
        self._workspaces_told = (None, 0.0)
        self._answered_at = time.monotonic()
        logger.info("joined %s as %s (%s)", http.base_url, self._settings.name, answer.node_id)
        return answer

    async def _report(self, http: httpx.AsyncClient, joined: JoinAnswer, at: Sequence[str]) -> None:
        path = f"/federation/nodes/{joined.node_id}/heartbeat"
        options = self._engine.now.options
        while True:
            self._tasks.news.clear()
            if self._engine.now.options != options or self._whereabouts.urls != at:
                return  # learned meanwhile, or moved: the router is told by joining again
            if not self._tasks.is_leading:
                # The replica that leads speaks for the node; this one has joined to know the router's secret.
                await asyncio.sleep(joined.heartbeat_s)
                continue
            answer, heartbeat = await self._told(http, path, joined.secret)
            if heartbeat.workspaces is not None:
                self._workspaces_told = (heartbeat.workspaces, time.monotonic())
            await self._obey(answer)
            if answer.removed:
                raise MembershipEnded("an administrator has removed this node; start it again to join again")
            busy_s = answer.busy_s
            if await self._is_behind():
                continue
            await comes(self._tasks.news, self._pause(joined.heartbeat_s, busy_s))

    async def _told(self, http: httpx.AsyncClient, path: str, secret: str) -> tuple[HeartbeatAnswer, Heartbeat]:
        heartbeat = await self._heartbeat()
        result = "failed"
        try:
            answer = _read(HeartbeatAnswer, await _post(http, path, heartbeat.model_dump_json(), secret))
            result = "answered"
        finally:
            self.heartbeats[result] += 1
        self._answered_at = time.monotonic()
        return answer, heartbeat

    def _told_of(self, url: str, trouble: Exception) -> str:
        """What is wrong, and what to do."""
        if isinstance(trouble, NoRouter):
            return f"this is not a ScaleODM router. {trouble} Check SCALEODM_NODE_ROUTER_URL"
        if not isinstance(trouble, httpx.HTTPError):
            return str(trouble).rstrip(".")
        whom = "the proxy of SCALEODM_NODE_ROUTER_PROXY" if self._proxy else "the router"
        return why_unreachable(self._proxy or url, trouble, "this node", whom).rstrip(".")

    async def _heartbeat(self) -> Heartbeat:
        self._beat += 1
        attempts = await self._reports()
        return Heartbeat(
            capacity=capacity_now(self._settings, self._tasks),
            session=self._session,
            beat=self._beat,
            attempts=attempts,
            workspaces=self._workspaces_to_tell(),
        )

    def _workspaces_to_tell(self) -> dict[str, int] | None:
        """What is kept here: when that has changed, and now and then, to hear which tasks are no longer known."""
        kept = dict(self._tasks.kept_workspaces())
        told, told_at = self._workspaces_told
        if kept == told and (not kept or time.monotonic() - told_at < TELL_WORKSPACES_S):
            return None
        return kept

    def _pause(self, heartbeat_s: float, busy_s: float) -> float:
        """Progress of running tasks is worth a quicker beat: it is what people watch."""
        running = any(record.task.state in ACTIVE for record in self._tasks.forwarded())
        return min(busy_s, heartbeat_s) if running else heartbeat_s

    async def _reports(self) -> list[AttemptReport]:
        return [await self._report_of(record) for record in self._records()]

    async def _report_of(self, record: Record) -> AttemptReport:
        known = self._known(record)
        lines = await self._tasks.console_lines(record, known.next_line, LINES_PER_HEARTBEAT)
        return report_of(record, known.next_line, lines, now_ms())

    def _known(self, record: Record) -> _Reported:
        known = self._reported.get(record.task.uuid)
        if known is None or known.attempt != record.task.attempt:
            known = self._reported[record.task.uuid] = _Reported(record.task.attempt)
        return known

    async def _obey(self, answer: HeartbeatAnswer) -> None:
        for each in answer.acknowledged:
            self._note(each)
        for key in answer.stop:
            logger.info("router lets go of task %s attempt %d", key.uuid, key.attempt)
            # Not waited for: a pod that is slow to go must not make this node look silent. What fails is told again.
            self._leaving.add((key.uuid, key.attempt))
            self._errands.send(f"let go {key.uuid} {key.attempt}", self._let_go(key.uuid, key.attempt))

        for uuid in answer.unknown:
            self._errands.send(f"drop the workspace of {uuid}", self._tasks.drop_workspace(uuid))

    async def _let_go(self, uuid: str, attempt: int) -> None:
        try:
            await self._tasks.let_go(uuid, attempt)
            self._reported.pop(uuid, None)
            # Its workspace may be kept now, and a restart may come at once.
            self._tasks.news.set()
        finally:
            self._leaving.discard((uuid, attempt))

    def _records(self) -> list[Record]:
        """What the router is told of: every task that it brought and has not let go of."""
        return [each for each in self._tasks.forwarded() if (each.task.uuid, each.task.attempt) not in self._leaving]

    def _note(self, each: Acknowledged) -> None:
        known = self._reported.get(each.uuid)
        if known is not None and known.attempt == each.attempt:
            known.next_line = each.next_line

    async def _is_behind(self) -> bool:
        """Whether a console holds a full load of lines that the router has not seen."""
        for record in self._records():
            lines = await self._tasks.console_lines(record, self._known(record).next_line, LINES_PER_HEARTBEAT)
            if len(lines) >= LINES_PER_HEARTBEAT:
                return True
        return False


def retry_wait(rounds: int, longest: float) -> float:
    """Seconds to wait when every replica of the router has failed so many rounds before this one; `longest` at most."""
    return min(RETRY_AFTER_S[min(rounds, len(RETRY_AFTER_S) - 1)], longest)


def capacity_now(settings: NodeSettings, tasks: LocalTasks) -> Capacity:
    """What this node has, and what of it is free."""
    memory, largest = psutil.virtual_memory(), tasks.limits.memory_bytes
    return Capacity(
        slots=settings.slots,
        direct=tasks.direct_slots(),
        cpu_cores=psutil.cpu_count() or 1,
        total_memory_bytes=largest or memory.total,
        available_memory_bytes=largest or memory.available,
        free_disk_bytes=psutil.disk_usage(str(_existing(settings.data))).free,
    )


def report_of(record: Record, first_line: int, lines: list[str], now: int) -> AttemptReport:
    """How a record's attempt stands, in the words of the federation."""
    task = record.task
    return AttemptReport(
        uuid=task.uuid,
        attempt=task.attempt,
        state=task.state,
        progress=task.progress,
        processing_ms=task.processing_time_ms(now) if task.state in ACTIVE else max(NOT_RUNNING, task.processing_ms),
        images_count=task.images_count,
        error=task.error,
        cause=record.cause,
        waiting=task.waiting,
        first_line=first_line,
        lines=lines,
    )


def join_request(
    settings: NodeSettings, limits: Limits, engine: Engine, at: Sequence[str], capacity: Capacity
) -> JoinRequest:
    """What this node says of itself. `at`: URLs by which it may be reached, the best first."""
    return JoinRequest(
        name=settings.name,
        url=at[0],
        other_urls=list(at[1:]),
        engine=engine.name,
        engine_version=engine.version,
        capacity=capacity,
        max_images=limits.max_images,
        max_images_at=dict(limits.max_images_at),
        labels=settings.labels,
        options=[OptionMessage.model_validate(option.as_json()) for option in engine.options],
    )


async def _post(http: httpx.AsyncClient, path: str, body: str, token: str | None) -> object:
    """What a router answers. Raises `MembershipRefused`, and `NoRouter` for what no router answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    answer = await http.post(path, content=body, headers=headers)
    status = answer.status_code
    try:
        document: object = answer.json()
    except ValueError:
        raise NoRouter(f"It answered POST {path} with status {status} and something that is not JSON.") from None
    if status == httpx.codes.OK and not (isinstance(document, dict) and "error" in document):
        return document
    if path == JOIN and status in _UNKNOWN_ROUTE:
        raise NoRouter(f"It answered POST {path} with status {status}.")
    reason = (_reason(document) if isinstance(document, dict) else None) or f"status {status}"
    advice = _TOKEN_ADVICE if path == JOIN and token and status == httpx.codes.UNAUTHORIZED else ""
    raise MembershipRefused(f"POST {path}: {reason}{advice}")


def _read(kind: type[M], document: object) -> M:
    """An answer, if it is a router's. What it holds is not quoted: there may be a secret in it."""
    try:
        return kind.model_validate(document)
    except ValidationError as unreadable:
        wrong = sorted({".".join(map(str, each["loc"])) or "all of it" for each in unreadable.errors()})
        raise NoRouter(f"Its answer is not what a router says (wrong or missing: {', '.join(wrong)}).") from None


def _reason(document: dict[str, Any]) -> str:
    """What a router says of why not: in NodeODM's way, or as FastAPI tells of fields that it cannot read."""
    told = document.get("error") or document.get("detail")
    if not isinstance(told, list):
        return str(told)
    return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in told)


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)
