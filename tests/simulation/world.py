"""What there is: the clock, the trace, Postgres, the outputs in S3, and what each task is really like.

One event happens at a time; whatever a transaction does, it does within one event. All chance comes from one seed.
"""

import hashlib
import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from common.fencing import Fence, Mark, Stage, mark_of
from common.references import Reference
from common.storage import ObjectMissing, Storage
from common.tasks import ACTIVE, Cause, State, Task, check_move

if TYPE_CHECKING:
    from tests.simulation.nodes import Node
    from tests.simulation.router import Router

EPOCH_MS = 1_000_000_000
"""The simulated clock's zero, in milliseconds: no time is 0 or negative."""
TAIL = 60


class Away(OSError):
    """Postgres does not answer."""


class EpochOver(Exception):
    """A transaction of a leader that leads no more."""


class KeyTaken(AssertionError):
    """A row was to be added under a key that is taken: the real database would refuse the transaction."""


class Trace:
    """What happened, line by line; a digest of everything, and the last lines."""

    def __init__(self, whole: bool = False) -> None:
        """`whole`: keep every line."""
        self._digest = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=None if whole else TAIL)
        self.count = 0

    def say(self, line: str) -> None:
        """One more line."""
        self._digest.update(line.encode())
        self.lines.append(line)
        self.count += 1

    @property
    def digest(self) -> str:
        """Two runs with the same digest went alike."""
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Truth:
    """What a task is really like, which no router knows beforehand."""

    seconds: float
    """Engine time on a node of usual speed."""
    memory: float = 1.0
    """How many times the usual memory it needs."""
    bad_input: bool = False
    bad_engine: bool = False
    refused_by: frozenset[str] = frozenset()
    """Ids of nodes that will not have it."""


@dataclass(slots=True)
class TaskRow:
    """A row of `tasks`."""

    task: Task
    committed_at: float
    version: int = 1


@dataclass(slots=True)
class AttemptRow:
    """A row of `attempts`."""

    uuid: str
    number: int
    node_id: str
    placed_at: float
    state: State = State.PLACED
    delivered: bool = False
    error: str | None = None
    cause: Cause | None = None
    began_at: float | None = None
    ended_at: float | None = None
    adopted: bool = False
    """For the invariants: it was given up once, and goes on."""


@dataclass(slots=True)
class NodeRow:
    """A row of `nodes`."""

    id: str
    name: str
    engine: str
    slots: int
    max_images: int | None
    max_images_at: dict[str, int]
    total_memory_bytes: int
    labels: dict[str, str]
    heard_at: float
    holding: frozenset[tuple[str, int]] = frozenset()
    """Attempts that it last told of."""
    told_at: float = -1.0
    """When that was; the heartbeats of quiet nodes, which are not simulated, tell of the same."""
    draining: bool = False
    locked: bool = False
    removed: bool = False
    quarantined_until: float | None = None
    quarantines: int = 0

    def capacity(self) -> dict[str, int]:
        """What the node said of itself."""
        return {"slots": self.slots, "direct": 0, "total_memory_bytes": self.total_memory_bytes}


class Postgres:
    """Tables, the leader's epoch, and notices; a call is a transaction, or part of one within the same event."""

    def __init__(self, world: "World") -> None:
        """Empty."""
        self._world = world
        self.is_away = False
        self.tasks: dict[str, TaskRow] = {}
        self.attempts: dict[str, dict[int, AttemptRow]] = defaultdict(dict)
        self.nodes: dict[str, NodeRow] = {}
        self.ends: list[tuple[float, AttemptRow]] = []
        """Ends of attempts in their order; one that was adopted since has another `ended_at`."""
        self.holding: dict[str, set[tuple[str, int]]] = defaultdict(set)
        """By node, the attempts that hold a slot."""
        self.epoch = 0
        self.lease_until = -1.0
        self.touched: set[str] = set()
        """Tasks that were changed since the invariants were last looked at."""

    def begin(self) -> None:
        """Raise `Away` while nothing can be read or written."""
        if self.is_away:
            raise Away("the database is away")

    def begin_as(self, epoch: int | None) -> None:
        """The same for a transaction of the leader of this epoch."""
        self.begin()
        if epoch is None or epoch != self.epoch:
            raise EpochOver(f"epoch {epoch} is over; {self.epoch} leads")

    def insert(self, task: Task) -> TaskRow:
        """A new task takes its place in the queue."""
        row = self.tasks[task.uuid] = TaskRow(task, self._world.now)
        self._changed(task.uuid)
        return row

    def take(self, row: TaskRow, task: Task) -> None:
        """Make the row say what `task` says; raises `MoveRefused` as the real one does."""
        check_move(task.uuid, row.task.state, task.state)
        if task != row.task:
            row.task = task
            row.version += 1
            self._changed(task.uuid)

    def add_attempt(self, attempt: AttemptRow) -> None:
        """A row whose key must be free."""
        if attempt.number in self.attempts[attempt.uuid]:
            raise KeyTaken(f"task {attempt.uuid} has an attempt {attempt.number} already")
        self.attempts[attempt.uuid][attempt.number] = attempt
        self.set_state(attempt, attempt.state)

    def attempt(self, uuid: str, number: int) -> AttemptRow | None:
        """One attempt."""
        return self.attempts[uuid].get(number)

    def set_state(self, attempt: AttemptRow, state: State) -> None:
        """Where an attempt is."""
        attempt.state = state
        holding, key = self.holding[attempt.node_id], (attempt.uuid, attempt.number)
        if state in ACTIVE:
            holding.add(key)
        else:
            holding.discard(key)
        self.touched.add(attempt.uuid)

    def end_attempt(self, uuid: str, number: int, state: State, error: str | None, cause: Cause | None = None) -> None:
        """Put the end of an attempt on record, once."""
        attempt = self.attempt(uuid, number)
        if attempt is None or attempt.ended_at is not None:
            return
        self.set_state(attempt, state)
        attempt.error, attempt.cause, attempt.ended_at = error, cause, self._world.now
        self.ends.append((self._world.now, attempt))

    def past(self, uuid: str) -> list[AttemptRow]:
        """The ended attempts of a task's current run, first to last."""
        first = self.tasks[uuid].task.first_attempt
        numbered = sorted(self.attempts[uuid].items())
        return [row for number, row in numbered if number >= first and row.ended_at is not None]

    def _changed(self, uuid: str) -> None:
        self.touched.add(uuid)
        for router in self._world.routers:
            router.notice(uuid)


@dataclass(slots=True)
class Publication:
    """One attempt's products are whole and count."""

    attempt: int
    at: float


class Outputs:
    """The attempt objects of `common.fencing`, on an S3 server with conditional writes, and who published what."""

    def __init__(self) -> None:
        """Nothing was ever written."""
        self._objects: dict[str, tuple[bytes, str]] = {}
        self.published: dict[tuple[str, int], list[Publication]] = defaultdict(list)
        """By task and first attempt of the run."""

    def read_tagged(self, place: Reference) -> tuple[bytes, str]:
        """As `common.storage.Storage` does."""
        found = self._objects.get(place.key)
        if found is None:
            raise ObjectMissing(str(place))
        return found

    def write_if(self, place: Reference, data: bytes, tag: str | None) -> bool:
        """As `common.storage.Storage` does."""
        held = self._objects.get(place.key)
        if (held[1] if held else None) != tag:
            return False
        self._objects[place.key] = (data, str(int(tag or 0) + 1))
        return True

    def fence(self, uuid: str, attempt: int, first_attempt: int) -> Fence:
        """The production fence over these objects."""
        return Fence(cast(Storage, self), Reference("outputs", f"{uuid}/"), Mark(uuid, attempt), first_attempt)

    def publish(self, uuid: str, attempt: int, first_attempt: int, now: float) -> None:
        """An attempt has finished publishing."""
        self.published[uuid, first_attempt].append(Publication(attempt, now))

    def holder(self, uuid: str) -> Mark | None:
        """Who holds a task's output."""
        found = self._objects.get(f"{uuid}/.scaleodm/attempt.json")
        return mark_of(found[0]) if found else None

    def is_published(self, uuid: str) -> bool:
        """Whether the output is whole."""
        mark = self.holder(uuid)
        return mark is not None and mark.stage is Stage.PUBLISHED


@dataclass(slots=True)
class Tally:
    """What a run had to show for itself."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    attempts: int = 0
    faults: int = 0
    looks: int = 0
    heartbeats: int = 0
    hours: float = 0.0
    happened: dict[str, int] = field(default_factory=dict)
    """How often each kind of decision was taken."""

    def count(self, what: str) -> None:
        """One more of a kind."""
        self.happened[what] = self.happened.get(what, 0) + 1


class World:
    """The clock and everything on it."""

    def __init__(self, seed: int, whole_trace: bool = False) -> None:
        """At time 0, with nothing in it."""
        self.random = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self.trace = Trace(whole_trace)
        self.tally = Tally()
        self.outputs = Outputs()
        self.routers: list[Router] = []
        self.nodes: dict[str, Node] = {}
        self.truths: dict[str, Truth] = {}
        self.database = Postgres(self)
        self.after_each: list[Callable[[], None]] = []

    @property
    def now_ms(self) -> int:
        """The clock in milliseconds."""
        return EPOCH_MS + int(self.now * 1000)

    def later(self, delay_s: float, happens: Callable[[], None]) -> None:
        """Let something happen."""
        self._numbers += 1
        heapq.heappush(self._events, (self.now + delay_s, self._numbers, happens))

    def run(self, until: float) -> None:
        """Let time go on."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, happens = heapq.heappop(events)
            happens()
            for check in self.after_each:
                check()
        self.now = until

    def say(self, line: str) -> None:
        """Put a line into the trace."""
        self.trace.say(f"{self.now:12.2f} {line}")

    def between(self, low: float, high: float) -> float:
        """A random number."""
        return low + (high - low) * self.random.random()

    def alive_routers(self) -> Iterable["Router"]:
        """Those that answer."""
        return [router for router in self.routers if router.answers]

    def catch_up(self) -> None:
        """Put on record the heartbeats of quiet nodes, which are not simulated one by one."""
        for node in self.nodes.values():
            node.catch_up()

    def disturb(self) -> None:
        """Something is about to break, or to be mended: from here on every heartbeat is simulated again."""
        for node in self.nodes.values():
            node.disturb()
