"""What the chaos story is made of: clients that fail over, pollers, a watch over the runs, and a hand that kills."""

import os
import queue
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
from pyodm import Node
from pyodm.api import Task
from pyodm.exceptions import NodeConnectionError, TaskFailedError
from requests.exceptions import ChunkedEncodingError

from common.embedded.stack import Stack
from tests.client import ENDED

CLIENTS = 16
PATIENCE_S = 240.0
"""How long a client asks again while nobody answers it; longer than everything is ever away."""
POLL_WITHIN_S = 20.0
MOST_KILLS = 2
"""A run that is ended from outside three times is taken for one that lacks memory, and not every task may be that."""
LEGAL = re.compile(r"(20 )?(10 )?(20 )?([34]0 )?(50 )?")
"""Codes that one router shows of a task, each told once: staging, waiting, begun, ended, canceled after all (I6)."""


class Balanced(Node):  # type: ignore[misc]
    """PyODM, with a load balancer's habit: a request whose connection drops goes to the next router."""

    def __init__(self, ports: list[int], token: str) -> None:
        """The first of `ports` comes first."""
        super().__init__("127.0.0.1", ports[0], token)
        self.port: int = ports[0]
        self._ports = ports

    def get(self, url: str, query: Mapping[str, object] | None = None, **kwargs: Any) -> Any:
        """GET."""
        return self._insist(lambda: super(Balanced, self).get(url, dict(query or {}), **kwargs))

    def post(self, url: str, data: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """POST; a body that streams is kept, to be sent again."""
        body = data.read() if hasattr(data, "read") else data
        return self._insist(lambda: super(Balanced, self).post(url, body, dict(headers or {})))

    def _insist(self, ask: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except (NodeConnectionError, ChunkedEncodingError):
                # The second is a connection that dropped amid an answer, which PyODM does not take for one.
                if time.monotonic() > deadline:
                    raise
            self.port = self._ports[(self._ports.index(self.port) + 1) % len(self._ports)]
            time.sleep(0.2)


@dataclass(slots=True)
class Story:
    """One task: what is asked for, and what its client saw."""

    number: int
    begins_s: float
    """Not before so long after the beginning."""
    orders: str
    ends: int
    """The code it is to end with."""
    cancel_after_s: float | None = None
    uuid: str = ""
    seen: int = 0
    """The code that its client saw at the end."""
    trouble: str = ""


def stories(random: Random, count: int, within_s: float) -> list[Story]:
    """What the clients ask for: most tasks end well, some fail in their engine, some are canceled."""
    made = []
    for number in range(count):
        begins_s, seconds, kind = within_s * number / count, random.uniform(0, 3), random.random()
        orders = f"say begun {number}\nsleep {seconds:.1f}\n"
        if kind < 0.76:
            made.append(Story(number, begins_s, orders + "say finished", 40))
        elif kind < 0.88:
            made.append(Story(number, begins_s, orders + "exit 1", 30))
        else:
            made.append(Story(number, begins_s, orders + "sleep 60", 50, random.uniform(0, 5)))
    return made


class Clients:
    """Threads that live their stories one after the other."""

    def __init__(self, stack: Stack, told: list[Story], folder: Path) -> None:
        """`folder`: for the files to be sent."""
        self.told = told
        self._ports = [int(url.rpartition(":")[2]) for url in stack.router_urls.values()]
        self._token = stack.user_token
        self._folder = folder
        self._queue: queue.SimpleQueue[Story] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._live, args=(each,), daemon=True) for each in range(CLIENTS)]

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        for each in self.told:
            self._queue.put(each)
        for thread in self._threads:
            thread.start()

    @property
    def are_done(self) -> bool:
        """Whether every story has its end."""
        return not any(thread.is_alive() for thread in self._threads)

    def unfinished(self) -> list[str]:
        """The tasks whose end was not seen."""
        return [each.uuid or f"number {each.number}" for each in self.told if not each.seen and not each.trouble]

    def _live(self, client: int) -> None:
        first = client % len(self._ports)
        node = Balanced(self._ports[first:] + self._ports[:first], self._token)
        with suppress(queue.Empty):
            while True:
                story = self._queue.get_nowait()
                time.sleep(max(0.0, self._began + story.begins_s - time.monotonic()))
                try:
                    self._live_one(story, node)
                except Exception as trouble:  # noqa: BLE001 - told by the test, whatever it is
                    story.trouble = f"{type(trouble).__name__}: {trouble}"

    def _live_one(self, story: Story, node: Balanced) -> None:
        folder = self._folder / str(story.number)
        folder.mkdir()
        image, orders = folder / "a.jpg", folder / "orders.txt"
        image.write_bytes(b"\xff\xd8\xff\xe0 a picture")
        orders.write_text(story.orders)
        task: Task = node.create_task([str(image), str(orders)], {}, f"story {story.number}", parallel_uploads=2)
        story.uuid = task.uuid
        if story.cancel_after_s is not None:
            time.sleep(story.cancel_after_s)
            assert task.cancel(), f"task {task.uuid} could not be canceled"
        with suppress(TaskFailedError):
            task.wait_for_completion(interval=0.5)
        story.seen = task.info().status.value


class Poller:
    """Asks one router about every task, again and again, and keeps what it shows."""

    def __init__(self, url: str, token: str, told: list[Story]) -> None:
        """Nothing was asked yet."""
        self._url, self._token, self._told = url, token, told
        self.codes: defaultdict[str, list[int]] = defaultdict(list)
        self.progress_fell: defaultdict[str, int] = defaultdict(int)
        self.answers: defaultdict[str, int] = defaultdict(int)
        """How often each kind of answer came: a status, or a dropped connection."""
        self.wrong: list[str] = []
        self._progress: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def polling(self) -> Iterator[None]:
        """In this block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(2 * POLL_WITHIN_S)

    def _run(self) -> None:
        with httpx.Client(timeout=POLL_WITHIN_S) as http:
            while not self._stop.wait(0.3):
                for uuid in [each.uuid for each in self._told if each.uuid and each.seen not in ENDED]:
                    self._look(http, uuid)

    def look_at_all(self) -> None:
        """Once more at every task, when all is over."""
        with httpx.Client(timeout=POLL_WITHIN_S) as http:
            for uuid in [each.uuid for each in self._told if each.uuid]:
                self._look(http, uuid)

    def _look(self, http: httpx.Client, uuid: str) -> None:
        info = self._ask(http, f"/task/{uuid}/info")
        if info is not None:
            self.codes[uuid].append(info["status"]["code"])
            self.progress_fell[uuid] += info["progress"] < self._progress.get(uuid, 0.0)
            self._progress[uuid] = info["progress"]
        output = self._ask(http, f"/task/{uuid}/output", line="-1")
        if output is not None and not isinstance(output, list):
            self.wrong.append(f"{uuid}/output: {output}")

    def _ask(self, http: httpx.Client, path: str, **query: str) -> Any:
        try:
            answer = http.get(self._url + path, params={"token": self._token, **query})
        except httpx.TimeoutException as trouble:
            self.wrong.append(f"{path}: {type(trouble).__name__}")
            return None
        except httpx.TransportError:
            self.answers["dropped"] += 1
            return None
        self.answers[str(answer.status_code)] += 1
        document = answer.json() if answer.status_code == httpx.codes.OK else None
        if document is None or (isinstance(document, dict) and "error" in document):
            self.wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            return None
        return document

    def went_back(self) -> dict[str, str]:
        """Tasks that were shown in an order that no task may go."""
        shown = {uuid: "".join(f"{code} " for code, _ in groupby(codes)) for uuid, codes in self.codes.items()}
        return {uuid: codes for uuid, codes in shown.items() if not LEGAL.fullmatch(codes)}


@dataclass(frozen=True, slots=True)
class Run:
    """A process that runs one attempt."""

    pid: int
    node: str
    uuid: str
    attempt: int


class RunWatch:
    """Sees which runs live, on all nodes of a stack."""

    def __init__(self, nodes: Path) -> None:
        """`nodes`: the folder of the nodes' folders."""
        self._nodes = nodes
        self._known: dict[int, Run | None] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.doubled: set[tuple[str, str]] = set()
        """Node and task, where one node ran one task twice at once."""
        self.seen: set[tuple[str, int]] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In this block."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def runs(self) -> list[Run]:
        """Those that live now."""
        with self._lock:
            pids = psutil.pids()
            self._known = {pid: self._known[pid] if self._known.get(pid) else self._read(pid) for pid in pids}
            found = [run for run in self._known.values() if run is not None and self._read(run.pid) == run]
        self.seen |= {(run.uuid, run.attempt) for run in found}
        return found

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            runs = self.runs()
            places = [(run.node, run.uuid) for run in runs]
            self.doubled |= {each for each in places if places.count(each) > 1}

    def _read(self, pid: int) -> Run | None:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")
        except (OSError, UnicodeDecodeError):
            return None
        if not title.startswith(f"scaleodm run {self._nodes}/"):
            return None
        node, _, uuid, attempt = Path(title.split()[2]).relative_to(self._nodes).parts
        return Run(pid, node, uuid, int(attempt))


@dataclass(order=True, slots=True)
class _Return:
    """Something comes back."""

    due: float
    name: str
    come: Callable[[], object] = field(compare=False)


class Hand:
    """Kills, and starts again after a while; all from one thread, for children hear of their parent thread's end."""

    def __init__(self, stack: Stack, random: Random, watch: RunWatch, logs: Path) -> None:
        """`logs`: where routers say which of them leads."""
        self._stack, self._random, self._watch, self._logs = stack, random, watch, logs
        self._away: list[_Return] = []
        self._outage = ExitStack()
        self._kills: defaultdict[str, int] = defaultdict(int)
        self.done: list[str] = []
        """What was done, in order."""
        self.unexpected: list[str] = []
        """Programs that ended by themselves."""
        self._faults: list[tuple[int, Callable[[], str]]] = [
            (2, self._leading_router),
            (2, self._some_router),
            (3, self._node_alone),
            (3, self._node_with_its_runs),
            (3, self._run_alone),
            (2, self._postgres),
            (2, self._s3),
        ]

    def rage(self, seconds: float) -> None:
        """Let one thing after the other die, so that several are away at once now and then."""
        until = time.monotonic() + seconds
        once = [fault for _, fault in self._faults]
        self._random.shuffle(once)
        while time.monotonic() < until:
            # Each kind once, in whatever order; then as chance has it.
            fault = once.pop() if once else self._random.choices(*self._weighted())[0]
            told = fault()
            if told:
                self.done.append(told)
            self._wait(self._random.uniform(0.5, 3.5))

    def heal(self) -> None:
        """Everything comes back."""
        while self._away:
            self._wait(0.2)
        self._wait(1.0)

    def look_after(self) -> None:
        """What a supervisor does: start again what is due, and what has ended without being killed."""
        now = time.monotonic()
        for each in sorted(self._away):
            if each.due <= now:
                self._away.remove(each)
                each.come()
        for name in (*self._stack.router_urls, *self._stack.node_urls):
            if self._stack.has_ended(name) and not self._is_away(name):
                # A router that comes while Postgres is away says so and ends, and its supervisor starts it again.
                if name in self._stack.node_urls or not self._has_said_why(name):
                    self.unexpected.append(name)
                self._returns(name, 1.0, lambda name=name: self._stack.begin_again(name))  # type: ignore[misc]

    def _has_said_why(self, router: str) -> bool:
        said = (self._logs / f"{router}.log").read_text().splitlines()
        return any("the router cannot start" in line for line in said[-6:])

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look_after()
            time.sleep(0.05)

    def _weighted(self) -> tuple[list[Callable[[], str]], list[int]]:
        return [fault for _, fault in self._faults], [weight for weight, _ in self._faults]

    def _is_away(self, name: str) -> bool:
        return any(each.name == name for each in self._away)

    def _returns(self, name: str, after_s: float, come: Callable[[], object]) -> None:
        self._away.append(_Return(time.monotonic() + after_s, name, come))

    # What can happen; each gives what it did, or nothing where there was nothing to do

    def _some_router(self) -> str:
        return self._kill(self._random.choice(sorted(self._stack.router_urls)))

    def _leading_router(self) -> str:
        """By what the routers say themselves."""
        for name in self._stack.router_urls:
            said = re.findall(r"leads now|leads no more|listening on", (self._logs / f"{name}.log").read_text())
            if said and said[-1] == "leads now":
                return self._kill(name, "the leading ")
        return ""

    def _node_alone(self) -> str:
        return self._kill(self._random.choice(sorted(self._stack.node_urls)))

    def _node_with_its_runs(self) -> str:
        name = self._random.choice(sorted(self._stack.node_urls))
        told = self._kill(name)
        runs = [run for run in self._watch.runs() if run.node == name] if told else []
        return f"{told} with {sum(map(self._kill_run, runs))} runs" if told else ""

    def _run_alone(self) -> str:
        runs = self._watch.runs()
        if not runs:
            return ""
        run = self._random.choice(sorted(runs, key=lambda each: each.uuid))
        return f"run {run.uuid} attempt {run.attempt} on {run.node}" if self._kill_run(run) else ""

    def _postgres(self) -> str:
        if self._is_away("Postgres"):
            return ""
        self._outage.enter_context(self._stack.without_postgres())
        return self._gone("Postgres", self._outage.close, 1, 6)

    def _s3(self) -> str:
        if self._is_away("S3"):
            return ""
        self._stack.object_store.crash()
        return self._gone("S3", self._stack.object_store.start, 0.5, 5)

    def _kill(self, name: str, told: str = "") -> str:
        if self._is_away(name) or self._stack.has_ended(name):
            return ""
        os.kill(self._stack.pid_of(name), signal.SIGKILL)
        return told + self._gone(name, lambda: self._stack.begin_again(name), 0.3, 10)

    def _gone(self, name: str, come: Callable[[], object], least_s: float, most_s: float) -> str:
        after_s = self._random.uniform(least_s, most_s)
        self._returns(name, after_s, come)
        return f"{name} for {after_s:.1f} s"

    def _kill_run(self, run: Run) -> bool:
        if self._kills[run.uuid] >= MOST_KILLS:
            return False
        self._kills[run.uuid] += 1
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        return True
