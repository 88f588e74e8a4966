"""Joining a router, sending heartbeats, obeying the answers (design 4.2)."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from pydantic import ValidationError

from common.federation import (
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
from common.tasks import ACTIVE, NOT_RUNNING
from common.tokens import Caller, Kind, TokenGate, hashed
from node.engines import Engine
from node.local_tasks import LocalTasks
from node.records import Record
from node.settings import NodeSettings

logger = logging.getLogger(__name__)

RETRY_AFTER_S = (0.5, 1, 2, 5, 10, 15)
"""Waits between attempts to reach a router; the last one repeats."""
_TIMEOUT = httpx.Timeout(10.0)


class MembershipRefused(Exception):
    """The router answered, and said no."""


@dataclass(slots=True)
class _Reported:
    """What the router is known to hold of one attempt."""

    attempt: int
    next_line: int = 0


class Membership:
    """Keeps this node in the federation."""

    def __init__(self, settings: NodeSettings, tasks: LocalTasks, engine: Engine, gate: TokenGate) -> None:
        """`gate` is opened for the router once it has answered the join."""
        self._settings = settings
        self._tasks = tasks
        self._engine = engine
        self._gate = gate
        self._reported: dict[str, _Reported] = {}
        self._secret = ""

    async def run(self, own_url: str) -> None:
        """Join, then report, for ever; a router that is away or has forgotten this node is joined again."""
        failures = 0
        async with httpx.AsyncClient(base_url=str(self._settings.router_url), timeout=_TIMEOUT) as http:
            while True:
                try:
                    answer = await self._join(http, own_url)
                    failures = 0
                    await self._report(http, answer)
                except (httpx.HTTPError, MembershipRefused, ValidationError) as trouble:
                    wait = RETRY_AFTER_S[min(failures, len(RETRY_AFTER_S) - 1)]
                    failures += 1
                    logger.warning("router %s: %s; again in %.1f s", self._settings.router_url, _told(trouble), wait)
                    await asyncio.sleep(wait)

    async def _join(self, http: httpx.AsyncClient, own_url: str) -> JoinAnswer:
        assert self._settings.join_token is not None
        request = join_request(self._settings, self._engine, own_url, self._capacity())
        token = self._settings.join_token.get_secret_value()
        answer = JoinAnswer.model_validate(await _post(http, "/federation/nodes", request.model_dump_json(), token))
        self._gate.revoke(hashed(self._secret))
        self._secret = answer.secret
        self._gate.admit(hashed(answer.secret), Caller(Kind.ROUTER, "router"))
        self._reported.clear()
        logger.info("joined %s as %s (%s)", self._settings.router_url, self._settings.name, answer.node_id)
        return answer

    async def _report(self, http: httpx.AsyncClient, joined: JoinAnswer) -> None:
        path = f"/federation/nodes/{joined.node_id}/heartbeat"
        while True:
            self._tasks.news.clear()
            heartbeat = Heartbeat(capacity=self._capacity(), attempts=self._reports())
            answer = HeartbeatAnswer.model_validate(await _post(http, path, heartbeat.model_dump_json(), joined.secret))
            await self._obey(answer)
            if self._is_behind():
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tasks.news.wait(), self._pause(joined.heartbeat_s))

    def _pause(self, heartbeat_s: float) -> float:
        """Progress of running tasks is worth a quicker beat: it is what people watch."""
        running = any(record.task.state in ACTIVE for record in self._tasks.forwarded())
        return min(1.0, heartbeat_s) if running else heartbeat_s

    def _capacity(self) -> Capacity:
        memory = psutil.virtual_memory()
        return Capacity(
            slots=self._settings.slots,
            direct=self._tasks.direct_slots(),
            cpu_cores=psutil.cpu_count() or 1,
            total_memory_bytes=memory.total,
            available_memory_bytes=memory.available,
            free_disk_bytes=psutil.disk_usage(str(_existing(self._settings.data))).free,
        )

    def _reports(self) -> list[AttemptReport]:
        return [self._report_of(record) for record in self._tasks.forwarded()]

    def _report_of(self, record: Record) -> AttemptReport:
        known = self._known(record)
        lines = self._tasks.console_lines(record, known.next_line, LINES_PER_HEARTBEAT)
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
            await self._tasks.let_go(key.uuid, key.attempt)
            self._reported.pop(key.uuid, None)

    def _note(self, each: Acknowledged) -> None:
        known = self._reported.get(each.uuid)
        if known is not None and known.attempt == each.attempt:
            known.next_line = each.next_line

    def _is_behind(self) -> bool:
        """Whether the console holds a full load of lines that the router has not seen."""
        return any(
            len(self._tasks.console_lines(record, self._known(record).next_line, LINES_PER_HEARTBEAT))
            >= LINES_PER_HEARTBEAT
            for record in self._tasks.forwarded()
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
        input_at_fault=record.input_at_fault,
        first_line=first_line,
        lines=lines,
    )


def join_request(settings: NodeSettings, engine: Engine, own_url: str, capacity: Capacity) -> JoinRequest:
    """What this node says of itself."""
    return JoinRequest(
        name=settings.name,
        url=str(settings.url or own_url).rstrip("/"),
        engine=engine.name,
        engine_version=engine.version,
        capacity=capacity,
        max_images=settings.max_images,
        labels=settings.labels,
        options=[OptionMessage.model_validate(option.as_json()) for option in engine.options],
    )


async def _post(http: httpx.AsyncClient, path: str, body: str, token: str) -> object:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = await http.post(path, content=body, headers=headers)
    try:
        document: object = answer.json()
    except ValueError:
        document = {"error": f"answered {answer.status_code} with something that is not JSON"}
    if answer.status_code != httpx.codes.OK or (isinstance(document, dict) and "error" in document):
        reason = document.get("error") if isinstance(document, dict) else None
        raise MembershipRefused(f"POST {path}: {reason or answer.status_code}")
    return document


def _told(trouble: Exception) -> str:
    return str(trouble) or type(trouble).__name__


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.absolute().parent)
