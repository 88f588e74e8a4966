"""The federation's own figures: how well unequal nodes are used, and what a thousand of them cost one router."""

import asyncio
import heapq
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import uvloop
from pyodm import Node

from common.embedded.children import free_port, start_child
from common.embedded.stack import Stack, answers
from common.nodeodm.options import Setting
from common.tasks import State, Task
from router.tables import TaskRow
from tests.bench.load import load
from tests.client import ENDED, JPEG
from tests.conftest import STANDIN
from tests.waiting import wait_until

UNEVEN_SLOTS = (1, 2, 4, 8)
UNEVEN_TASKS, UNEVEN_S = 40, 5.0
NODES, SLOTS, KNOWN, BURST = 1_000, 12, 100_000, 10_000
LISTEN_S = 20.0
POLL_ROUNDS, POLL_S = 8, 1.0
ENGINE = {"SCALEODM_NODE_ENGINE": "odm", "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}"}


def uneven() -> None:
    """40 tasks of 5 s, submitted one after another by PyODM, over nodes with 1, 2, 4 and 8 slots."""
    slots = {f"node-{n}": {"SCALEODM_NODE_SLOTS": str(count)} for n, count in enumerate(UNEVEN_SLOTS, 1)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with Stack(scratch / "stack", nodes=len(slots), node_settings=ENGINE, own_settings=slots) as stack:
            submitted, ended = _work_off(stack, scratch, UNEVEN_TASKS, UNEVEN_S)
            _, nothing_ended = _work_off(stack, scratch, UNEVEN_TASKS, 0.0)
    makespan, submitting = max(ended), submitted[-1]
    best = list_schedule(submitted, sum(UNEVEN_SLOTS), UNEVEN_S)
    ideal = list_schedule([0.0] * UNEVEN_TASKS, sum(UNEVEN_SLOTS), UNEVEN_S)
    print(f"\n{UNEVEN_TASKS} tasks of {UNEVEN_S:.0f} s, one after another, over nodes of {UNEVEN_SLOTS} slots")
    print(f"  ideal, all there at once          {ideal:6.1f} s   {ideal / (ideal + submitting):.2f}")
    print(f"  submitting them took              {submitting:6.1f} s")
    print(f"  ideal and submitting              {ideal + submitting:6.1f} s   1.00")
    print(f"  as they came, on ideal slots      {best:6.1f} s   {best / (ideal + submitting):.2f}")
    print(f"  ours                              {makespan:6.1f} s   {makespan / (ideal + submitting):.2f}")
    print(f"  ours, against as they came        {makespan:6.1f} s   {makespan / best:.2f}")
    print(f"  ours, where tasks take 0 s        {max(nothing_ended):6.1f} s   what the processes alone take here")


def list_schedule(released: Sequence[float], slots: int, seconds: float) -> float:
    """When the last of equal tasks ends if each takes the first free slot once it is released."""
    free = [0.0] * slots
    for moment in released:
        heapq.heapreplace(free, max(free[0], moment) + seconds)
    return max(free)


def _work_off(stack: Stack, scratch: Path, count: int, seconds: float) -> tuple[list[float], list[float]]:
    """When each submit was answered, and when each task had ended, by the clock that starts with the first submit."""
    image, orders = scratch / "a.jpg", scratch / "orders.txt"
    image.write_bytes(JPEG)
    orders.write_text(f"sleep {seconds}")
    node = Node.from_url(f"{stack.router_url}?token={stack.user_token}")
    began = time.monotonic()
    submitted: list[float] = []
    ended: dict[str, float] = {}
    waiting: set[str] = set()

    def look() -> bool:
        for uuid in sorted(waiting):
            if node.get_task(uuid).info().status.value in ENDED:
                ended[uuid] = time.monotonic() - began
                waiting.remove(uuid)
        return not waiting

    for number in range(count):
        task = node.create_task([str(image), str(orders)], {}, f"task {number}", parallel_uploads=2)
        submitted.append(time.monotonic() - began)
        waiting.add(task.uuid)
    wait_until(look, "every task to end", 300)
    return submitted, list(ended.values())


def scale() -> None:
    """A router with a thousand nodes and a hundred thousand tasks, beside one with nothing."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with Stack(scratch / "empty", nodes=0) as empty, Stack(scratch / "full", nodes=0) as full:
            _Scale(scratch, empty, full).measure()


class _Scale:
    """Two stacks without nodes, of which one gets a fleet and a past."""

    def __init__(self, scratch: Path, empty: Stack, full: Stack) -> None:
        self._scratch, self._empty, self._full = scratch, empty, full
        self._http = httpx.Client(timeout=60, headers={"Authorization": f"Bearer {full.admin_token}"})

    def measure(self) -> None:
        """Everything, once."""
        print(f"\nA router with {NODES:,} nodes and {KNOWN:,} known tasks, beside one with neither")
        before = _memory(self._empty)
        self._know(self._empty, 1)
        os.kill(self._full.pid_of("router"), signal.SIGKILL)
        self._know(self._full, KNOWN)
        began = time.monotonic()
        self._full.begin_again("router")
        wait_until(lambda: answers(f"{self._full.router_url}/readyz"), "the router to have read its tasks", 300)
        print(f"  start with all those tasks        {time.monotonic() - began:6.1f} s")
        print(f"  memory of the empty one           {before / 2**20:6.0f} MiB   1.00")
        grown = _memory(self._full)
        print(f"  memory with the tasks             {grown / 2**20:6.0f} MiB   {grown / before:.2f}")
        self._compare_polls("polls, nothing else happening")
        port = free_port()
        argv = [sys.executable, "-m", "tests.bench.fleet", self._full.router_url, self._full.node_token]
        fleet = start_child(
            "fleet", [*argv, str(port), str(NODES), str(SLOTS)], os.environ, self._scratch / "fleet.log"
        )
        try:
            fleet.wait_until(lambda: self._heard() == NODES, 180)
            print(f"  memory with the nodes             {_memory(self._full) / 2**20:6.0f} MiB")
            self._listen("heartbeats of idle nodes")
            self._compare_polls("polls beside idle nodes")
            self._burst()
            self._listen(f"heartbeats, {BURST:,} tasks running")
            print(f"  memory at the end                 {_memory(self._full) / 2**20:6.0f} MiB")
        finally:
            fleet.stop()

    def _know(self, stack: Stack, count: int) -> None:
        """Ended tasks, as a past would have left them."""
        insert(stack, "completed", count, "past-")
        if count == 1:
            path = f"{stack.router_url}/task/past-1/info?token={stack.admin_token}"
            wait_until(lambda: "uuid" in self._http.get(path).json(), "the empty router to know its one task")

    def _heard(self) -> int:
        """Nodes that have reported; asked of Postgres, so that the router is left alone."""
        return int(sql(self._full, "SELECT count(*) FROM nodes WHERE heard_at > joined_at")[0][0])

    def _compare_polls(self, what: str) -> None:
        """One poll after the other, taking turns with the empty router: what disturbs one disturbs both."""
        seen: tuple[list[float], list[float]] = ([], [])
        for _ in range(POLL_ROUNDS):
            for latencies, stack in zip(seen, (self._empty, self._full), strict=True):
                url = f"{stack.router_url}/task/past-1/info?token={stack.admin_token}"
                latencies += uvloop.run(load(url, POLL_S, connections=1)).latencies_ms
        (empty, full), (empty_99, full_99) = map(statistics.median, seen), map(_percentile_99, seen)
        print(f"  {what:<34}median {full:.2f} ms, empty {empty:.2f} ms   {full / empty:.2f}")
        print(f"  {'':<34}p99    {full_99:.2f} ms, empty {empty_99:.2f} ms   {full_99 / empty_99:.2f}")

    def _listen(self, what: str) -> None:
        process = psutil.Process(self._full.pid_of("router"))
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(LISTEN_S)
        after, seconds = process.cpu_times(), time.monotonic() - began
        share = (after.user + after.system - before.user - before.system) / seconds
        print(f"  {what:<34}{share:6.2f} of a core")

    def _burst(self) -> None:
        """Tasks that wait for nothing but a slot come all at once; a slot is there for each of them."""
        process = psutil.Process(self._full.pid_of("router"))
        used, began = sum(process.cpu_times()[:2]), time.monotonic()
        insert(self._full, "staging", BURST, "burst-")
        inserted = time.monotonic() - began
        marks: dict[str, float] = {}

        def look() -> bool:
            (placed, delivered, heard), moment = _progress(self._full), time.monotonic() - began
            for name, count in (("placed", placed), ("delivered", delivered), ("heard of at work", heard)):
                if count == BURST:
                    marks.setdefault(name, moment)
            return len(marks) == 3

        wait_until(look, "the burst to be at work", 400)
        print(f"  a burst of {BURST:,} tasks (inserting them took {inserted:.1f} s)")
        for name, seconds in marks.items():
            print(f"    {name:<32}{seconds:6.1f} s   {BURST / seconds:,.0f}/s")
        print(f"    {'processor time of the router':<32}{sum(process.cpu_times()[:2]) - used:6.1f} s")


def _memory(stack: Stack) -> int:
    return int(psutil.Process(stack.pid_of("router")).memory_info().rss)


def _percentile_99(latencies_ms: list[float]) -> float:
    return statistics.quantiles(latencies_ms, n=100)[98]


def sql(stack: Stack, statement: str, *values: object) -> list[Any]:
    async def ask() -> list[Any]:
        connection = await asyncpg.connect(stack.database_url)
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()

    return asyncio.run(ask())


def insert(stack: Stack, state: str, count: int, prefix: str) -> None:
    """Rows as the router itself writes them, uuids counted from 1."""
    row = TaskRow.of(
        Task(
            uuid="",
            tenant="default",
            name="a task of the past",
            created_ms=time.time_ns() // 1_000_000,
            state=State(state),
            input="s3://staging/flight/",
            output="s3://staging/flight/output/",
            options=(Setting("fast-orthophoto", value=True), Setting("dsm", value=True)),
            images_count=500,
            input_bytes=4_000_000_000,
        )
    )
    sql(
        stack,
        "INSERT INTO tasks SELECT made.* FROM generate_series(1, $1::int) AS number, "
        "jsonb_populate_record(NULL::tasks, $2::jsonb || jsonb_build_object('uuid', $3 || number, "
        "'committed_at', clock_timestamp(), 'opened_at', clock_timestamp())) AS made",
        count,
        row.model_dump_json(),
        prefix,
    )


def _progress(stack: Stack) -> tuple[int, int, int]:
    """Of the burst: placed, delivered, and heard to be at work."""
    found = sql(
        stack,
        "SELECT count(*), count(*) FILTER (WHERE attempts.delivered), count(*) FILTER (WHERE tasks.state = 'running') "
        "FROM attempts JOIN tasks ON tasks.uuid = attempts.task_uuid",
    )
    return found[0][0], found[0][1], found[0][2]
