"""A router replica: the real decisions, in a shell that takes the steps of `router/loop.py` and `router/registry.py`.

What those files ask Postgres, this one asks the simulated one; each transaction is one event, and between two of them
anything may happen: the replica dies or hangs, a heartbeat comes, another replica leads.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

from common.federation import AttemptKey, AttemptReport, Heartbeat, HeartbeatAnswer
from common.tasks import ACTIVE, ENDED, WAITING, Cause, State, Task, again, canceled
from common.tokens import TOKEN_REFUSED, UNLIMITED, Limits
from router.estimates import Estimates, Finished, options_class
from router.fairness import UNKNOWN_S, Waiting, order
from router.lifecycle import (
    BLACK_HOLE,
    PART_WAITS,
    USUAL,
    Health,
    Held,
    Key,
    Outcome,
    Ruling,
    absent_since,
    adopted,
    failed,
    forgotten,
    given_up,
    has_all_lines,
    health,
    is_black_hole,
    is_deaf,
    lost,
    placed,
    quarantine,
    reported,
    requeued,
    retried,
    ruling,
    unseen_lines,
)
from router.loop import ABSENT_EVERY_S, HISTORY_EVERY_S, MOST_PLACED_AT_ONCE, node_state
from router.placement import Fleet, Need, NodeState, affordable, hopeless
from router.queries import Past, Standing
from router.queue import Turn, need_of
from tests.simulation.nodes import Node, Refusal
from tests.simulation.world import AttemptRow, Away, EpochOver, NodeRow, TaskRow, World

LOOK_EVERY_S = 20.0
"""The real loop looks every second for what does not wake it; that is what most of the time would be spent on."""
BREATH_S = 0.02
LEASE_S, RENEW_S = 30.0, 10.0
"""Longer than the real ones, for the same reason."""
FLUSH_S = 0.5
SUBMIT_TIMEOUT_S = 20.0
NOTICE_S = 0.05


class Refused(Exception):
    """The client is told no."""


@dataclass(frozen=True, slots=True)
class Known:
    """A task as this replica has read it."""

    task: Task
    version: int
    committed_at: float


class Snapshot:
    """Every task, by state; as `router.snapshot`."""

    def __init__(self) -> None:
        """Empty."""
        self._known: dict[str, Known] = {}
        self._by_state: dict[State, dict[str, Known]] = {state: {} for state in State}
        self.changes = 0
        """How often it was changed."""

    def get(self, uuid: str) -> Task | None:
        """The task, if it is known."""
        known = self._known.get(uuid)
        return known.task if known is not None else None

    def within(self, *states: State) -> list[Known]:
        """The tasks in these states."""
        return [known for state in states for known in self._by_state[state].values()]

    def count(self, state: State) -> int:
        """How many tasks are in this state."""
        return len(self._by_state[state])

    def put(self, row: TaskRow) -> None:
        """Take a row as it is, unless a newer one is here already."""
        uuid = row.task.uuid
        before = self._known.get(uuid)
        if before is not None:
            if row.version <= before.version:
                return
            self._by_state[before.task.state].pop(uuid, None)
        known = Known(row.task, row.version, row.committed_at)
        self._known[uuid] = known
        self.changes += 1
        self._by_state[known.task.state][uuid] = known


class History:
    """What was learned from ends; as `router.history`."""

    def __init__(self, world: World) -> None:
        """Knows nothing before `read`."""
        self._world = world
        self._until = max(0, len(world.database.ends) - 2_000)
        self.estimates = Estimates()
        self._outcomes: deque[tuple[str, Outcome]] = deque(maxlen=20 * BLACK_HOLE)

    def read(self) -> set[str]:
        """Take in what has ended since the last reading."""
        ends = self._world.database.ends
        news = [attempt for ended_at, attempt in ends[self._until :] if attempt.ended_at == ended_at]
        self._until = len(ends)
        for attempt in news:
            self._learn(attempt)
        return {attempt.node_id for attempt in news}

    def outcomes(self, node_id: str) -> tuple[list[Outcome], list[Outcome]]:
        """The newest outcomes first: of this node, and of all others."""
        own = [outcome for each, outcome in reversed(self._outcomes) if each == node_id]
        others = [outcome for each, outcome in reversed(self._outcomes) if each != node_id]
        return own, others

    def forget_outcomes(self, node_id: str) -> None:
        """What a node did before its quarantine is not held against it twice."""
        kept = [(each, outcome) for each, outcome in self._outcomes if each != node_id]
        self._outcomes = deque(kept, maxlen=self._outcomes.maxlen)

    def _learn(self, attempt: AttemptRow) -> None:
        if attempt.ended_at is None or attempt.state is State.CANCELED:
            return
        seconds = attempt.ended_at - (attempt.began_at or attempt.placed_at)
        cause = attempt.cause
        if attempt.state is State.FAILED and cause is None:
            cause = Cause.ENGINE
        self._outcomes.append((attempt.node_id, Outcome(cause, seconds)))
        if attempt.state is State.COMPLETED and attempt.began_at is not None:
            task = self._world.database.tasks[attempt.uuid].task
            engine = self._world.database.nodes[attempt.node_id].engine
            options = options_class(task.options)
            self.estimates.learn(Finished(attempt.node_id, engine, options, task.images_count, seconds))


class Router:
    """One replica."""

    def __init__(
        self,
        world: World,
        name: str,
        limits: Mapping[str, Limits],
        weights: Mapping[str, float],
    ) -> None:
        """`limits`: of tokens, by name; `weights`: of tenants. It is to be started."""
        self.world, self.name = world, name
        self._limits, self._weights = limits, weights
        self.is_up = self.is_hung = False
        self._life = 0
        self._deferred: list[Callable[[], None]] = []
        self._forget()

    def _forget(self) -> None:
        """What is in memory only."""
        self._deferred.clear()
        self._snapshot = Snapshot()
        self._history = History(self.world)
        self._history_read_at = -HISTORY_EVERY_S
        self._heard: dict[str, tuple[float, frozenset[Key]]] = {}
        self._answered: set[tuple[str, int, str]] = set()
        self._absent: dict[Key, float] = {}
        self._absent_read_at = self._looked_at = self.world.now
        self._notices: set[str] = set()
        self._errands: set[str] = set()
        self._epoch: int | None = None
        self._held_until = -1.0
        self._listening_since: float | None = None
        self._is_turning = self._is_awake = self._is_flushing = False
        self._judged: tuple[object, ...] = ()

    # The process

    @property
    def answers(self) -> bool:
        """Whether a client gets an answer."""
        return self.is_up and not self.is_hung

    @property
    def is_leading(self) -> bool:
        """Whether it may act, as far as it knows."""
        return self._epoch is not None and self.world.now < self._held_until

    def start(self) -> None:
        """The process begins."""
        self._life += 1
        self._forget()
        self.is_up, self.is_hung = True, False
        self._every(RENEW_S, self._contend)
        self._every(LOOK_EVERY_S, self._turn)
        self.load()

    def die(self) -> None:
        """What is in memory is lost."""
        self._life += 1
        self._forget()
        self.is_up = self.is_hung = False

    def hang(self) -> None:
        """The process is stopped; what comes for it waits."""
        self.is_hung = True

    def resume(self) -> None:
        """The process goes on where it was."""
        self.is_hung = False
        deferred, self._deferred = self._deferred, []
        for happens in deferred:
            self.world.later(self.world.between(0.0, 0.05), self._alive(happens))

    def receive(self, happens: Callable[[], None]) -> None:
        """A request arrives; one for a process that hangs waits in its socket."""
        if self.is_up:
            self._alive(happens)()

    def later(self, delay_s: float, happens: Callable[[], None]) -> None:
        """Something that this process does by itself; not if it dies before, later if it hangs then."""
        self.world.later(delay_s, self._alive(happens))

    def _alive(self, happens: Callable[[], None]) -> Callable[[], None]:
        life = self._life

        def guarded() -> None:
            if self._life != life:
                return
            if self.is_hung:
                self._deferred.append(guarded)
                return
            happens()

        return guarded

    def _every(self, seconds: float, happens: Callable[[], None]) -> None:
        def turn() -> None:
            happens()
            self.later(seconds, turn)

        self.later(self.world.between(0.0, seconds), turn)

    def _carry_out(self, steps: Iterator[float], done: Callable[[], None]) -> None:
        """Go through steps with so many seconds in between; a database that is away, or another leader, ends them."""

        def step() -> None:
            try:
                delay_s = next(steps)
            except StopIteration:
                done()
            except (Away, EpochOver) as trouble:
                self.world.tally.count(type(trouble).__name__)
                done()
            else:
                self.later(delay_s, step)

        step()

    def _send(self, name: str, steps: Iterator[float]) -> None:
        """As `common.errands`: each errand once at a time."""
        if name in self._errands:
            return
        self._errands.add(name)
        self._carry_out(steps, lambda: self._errands.discard(name))

    def _pause(self) -> float:
        return self.world.between(0.005, 0.05)

    # The snapshot

    def notice(self, uuid: str) -> None:
        """Postgres tells that a task has changed."""
        if not self.is_up:
            return
        if not self._notices:
            self.later(NOTICE_S, self._read_notices)
        self._notices.add(uuid)

    def _read_notices(self) -> None:
        uuids, self._notices = self._notices, set()
        if self.world.database.is_away:
            return  # it reads everything when it has found the database again
        for uuid in sorted(uuids):
            self._snapshot.put(self.world.database.tasks[uuid])
        self.wake()

    def load(self) -> None:
        """Read everything: after a start, and when the database is found again."""
        if not self.is_up or self.world.database.is_away:
            return
        for row in self.world.database.tasks.values():
            self._snapshot.put(row)
        self._flush()
        self.wake()

    # What clients ask (`router.federated`)

    def task(self, uuid: str) -> Task | None:
        """As a poll is answered: from memory, else from Postgres."""
        known = self._snapshot.get(uuid)
        if known is not None:
            return known
        self.world.database.begin()
        row = self.world.database.tasks.get(uuid)
        return row.task if row is not None else None

    def submit(self, task: Task) -> None:
        """A task by reference; the same again is the same."""
        database = self.world.database
        database.begin()
        if task.uuid in database.tasks:
            return
        self._taken(database.insert(task))

    def cancel(self, uuid: str) -> None:
        """Canceled from this answer on."""
        database = self.world.database
        database.begin()
        row = database.tasks[uuid]
        if row.task.state is not State.CANCELED:
            database.end_attempt(uuid, row.task.attempt, State.CANCELED, "canceled by a user")
            database.take(row, canceled(row.task))
        self._snapshot.put(row)
        self._send(f"let go {uuid} {row.task.attempt}", self._let_go(uuid, row.task.attempt))

    def restart(self, uuid: str) -> None:
        """Back to the queue under the same uuid."""
        database = self.world.database
        database.begin()
        row = database.tasks[uuid]
        if row.task.state not in ENDED:
            raise Refused("Task cannot be restarted")
        row.committed_at = self.world.now
        last = max(database.attempts[uuid], default=0)
        database.take(row, again(row.task, last, last + 1, self.world.now_ms))
        self._taken(row)

    def set_draining(self, node_id: str, draining: bool) -> None:
        """As an administrator."""
        self.world.database.begin()
        self.world.database.nodes[node_id].draining = draining
        self.wake()

    def remove(self, node_id: str) -> None:
        """Take a node out, by force."""
        self.world.database.begin()
        self.world.database.nodes[node_id].removed = True
        self.wake()

    def _taken(self, row: TaskRow) -> None:
        self._snapshot.put(row)
        self.wake()

    # Leading (`router.leadership`)

    def _contend(self) -> None:
        database, now = self.world.database, self.world.now
        if database.is_away:
            return
        if self._epoch is None or self._epoch != database.epoch:
            self._epoch = None
            if database.lease_until < now:
                database.epoch += 1
                self._epoch = database.epoch
                self.world.say(f"{self.name} leads, epoch {self._epoch}")
                self.wake()
        if self._epoch is not None:
            database.lease_until = self._held_until = now + LEASE_S

    # The loop (`router.loop`)

    def wake(self) -> None:
        """There is something to do."""
        if self._is_awake or not self.is_up:
            return
        self._is_awake = True
        self.later(BREATH_S, self._turn)

    def _turn(self) -> None:
        if self._is_turning:
            return
        self._is_turning, self._is_awake = True, False
        self._carry_out(self._steps_of_a_turn(), self._turned)

    def _turned(self) -> None:
        self._is_turning = False
        if self._is_awake:
            self.later(BREATH_S, self._turn)

    def _steps_of_a_turn(self) -> Iterator[float]:
        try:
            yield from self._look()
        except (Away, EpochOver):
            self._listening_since = None
            raise

    def _look(self) -> Iterator[float]:
        world, database = self.world, self.world.database
        if world.now - self._looked_at > max(USUAL.late_after.total_seconds(), 2 * LOOK_EVERY_S):
            self._listening_since = None
        self._looked_at = world.now
        if world.now - self._history_read_at > HISTORY_EVERY_S:
            self._history_read_at = world.now
            database.begin()
            seen = self._history.read()
            if self.is_leading:
                self._judge_nodes(seen)
        if not self.is_leading:
            self._listening_since = None
            return
        if self._listening_since is None:
            self._listening_since = world.now
        world.tally.looks += 1
        for known in self._snapshot.within(State.STAGING):
            if known.task.input_bytes == 0:
                self._send(f"survey {known.task.uuid}", self._survey(known.task))
        standings = self._standings()
        yield from self._watch(standings)
        yield from self._place(standings)
        self._deliver_all()

    def _standings(self) -> dict[str, Standing]:
        self.world.database.begin()
        self.world.catch_up()
        now, database = self.world.now, self.world.database
        return {
            row.id: Standing(
                silence=timedelta(seconds=now - row.heard_at),
                capacity=row.capacity(),
                draining=row.draining,
                locked=row.locked,
                quarantined_for=timedelta(seconds=(row.quarantined_until or now) - now),
                quarantines=row.quarantines,
                placed=len(database.holding[row.id]),
            )
            for row in database.nodes.values()
            if not row.removed
        }

    def _survey(self, task: Task) -> Iterator[float]:
        yield self._pause()
        database = self.world.database
        database.begin_as(self._epoch)
        row = database.tasks[task.uuid]
        if row.task != task:
            return
        database.take(row, replace(task, images_count=max(1, task.images_count), input_bytes=1_000_000))
        self._taken(row)

    # Placing

    def _ordered(self) -> list[Known]:
        """As `router.queue`, on the simulated clock."""
        known = {each.task.uuid: each for each in self._snapshot.within(*WAITING) if each.task.input_bytes > 0}
        held: dict[str, int] = {}
        for each in self._snapshot.within(*ACTIVE):
            held[each.task.tenant] = held.get(each.task.tenant, 0) + 1
        waiting = [self._waiting(each) for each in known.values()]
        return [known[each.uuid] for each in order(waiting, held, self._weights)]

    def _waiting(self, known: Known) -> Waiting:
        task = known.task
        estimate = self._history.estimates.predict(task.images_count, options_class(task.options))
        return Waiting(
            uuid=task.uuid,
            tenant=task.tenant,
            waited_s=self.world.now - known.committed_at,
            estimate_s=estimate.seconds if estimate is not None else UNKNOWN_S,
            priority=task.wishes.priority,
            child=task.child,
        )

    def limits(self, token: str) -> Limits:
        """As `router.access`."""
        return self._limits.get(token, UNLIMITED)

    def _past(self, waiting: Sequence[Known]) -> dict[str, list[Past]]:
        self.world.database.begin()
        now = self.world.now
        found = {}
        for known in waiting:
            if known.task.attempt < known.task.first_attempt:
                continue
            past = [
                Past(row.node_id, row.cause, row.error or "", timedelta(seconds=now - (row.ended_at or now)))
                for row in self.world.database.past(known.task.uuid)
            ]
            if past:
                found[known.task.uuid] = past
        return found

    def _node_states(self, standings: Mapping[str, Standing]) -> list[NodeState]:
        rows = self.world.database.nodes
        return [
            node_state(cast(Any, rows[node_id]), standing, frozenset(), cast(Any, self._history), USUAL)
            for node_id, standing in standings.items()
        ]

    def _place(self, standings: dict[str, Standing]) -> Iterator[float]:
        if not any(self._snapshot.count(state) for state in WAITING):
            return
        fleet = Fleet(self._node_states(standings))
        judged = (self._snapshot.changes, *standings)
        if not fleet.free_slots and judged == self._judged:
            return  # nothing could come of it: only a shorter way to the same end than the real loop's
        self._judged = judged
        waiting = self._ordered()
        if not waiting:
            return
        past = self._past(waiting)
        choices: dict[str, str] = {}
        unfit: set[Need] = set()
        turn = Turn(cast(Any, self), cast(Any, self._snapshot.within(*ACTIVE)))
        for known in waiting:
            if len(choices) >= MOST_PLACED_AT_ONCE or not fleet.free_slots:
                break
            task = known.task
            need = need_of(task, past.get(task.uuid, ()), standings)
            if need in unfit or not turn.may_start(task):
                continue
            choice = fleet.choose(need, self.world.random.random())
            if choice.node_id is not None:
                fleet.take(choice.node_id)
                turn.started(task)
                choices[task.uuid] = choice.node_id
            else:
                unfit.add(need)
        needs = [(each.task.uuid, need_of(each.task, past.get(each.task.uuid, ()), standings)) for each in waiting]
        never = hopeless(needs, fleet.nodes, MOST_PLACED_AT_ONCE)
        yield self._pause()
        self._write_placements(waiting, choices, never, past, fleet.nodes)

    def _write_placements(
        self,
        waiting: Sequence[Known],
        choices: Mapping[str, str],
        never: Mapping[str, str],
        past: Mapping[str, list[Past]],
        nodes: Sequence[NodeState],
    ) -> None:
        seen = [known for known in waiting if known.task.uuid not in choices and self._is_to_be_shown(known)]
        if not (choices or never or seen):
            return
        database = self.world.database
        database.begin_as(self._epoch)
        room = {node.id: node.slots - node.direct - len(database.holding[node.id]) for node in nodes}
        still = [known for known in waiting if database.tasks[known.task.uuid].version == known.version]
        chosen = [(known.task.uuid, choices[known.task.uuid]) for known in still if known.task.uuid in choices]
        given = set(affordable(chosen, room))
        for known in still:
            uuid, row = known.task.uuid, database.tasks[known.task.uuid]
            if uuid in given:
                database.take(row, placed(row.task, row.task.attempt + 1))
                database.add_attempt(AttemptRow(uuid, row.task.attempt, choices[uuid], self.world.now))
                self.world.tally.attempts += 1
                self.world.say(f"{self.name} places {uuid}#{row.task.attempt} on {choices[uuid]}")
            elif uuid in never:
                causes = [each.cause for each in past.get(uuid, ()) if each.cause is not None]
                database.take(row, failed(row.task, given_up(never[uuid], causes)))
                self.world.say(f"{self.name} gives {uuid} up: {row.task.error}")
            elif uuid not in choices and self._is_to_be_shown(known):
                database.take(row, replace(row.task, state=State.QUEUED))
            else:
                continue
            self._snapshot.put(row)

    def _is_to_be_shown(self, known: Known) -> bool:
        if known.task.state is not State.STAGING:
            return False
        return not known.task.child or self.world.now - known.committed_at > PART_WAITS.total_seconds()

    # Delivering

    def _deliver_all(self) -> None:
        if not self._snapshot.count(State.PLACED):
            return
        database = self.world.database
        database.begin()
        for holding in list(database.holding.values()):
            for uuid, number in sorted(holding):
                row, attempt = database.tasks[uuid], database.attempts[uuid][number]
                if row.task.state is State.PLACED and row.task.attempt == number and not attempt.delivered:
                    self._send(f"deliver {uuid} {number}", self._deliver(row.task, attempt.node_id))

    def _deliver(self, task: Task, node_id: str) -> Iterator[float]:
        yield self._pause()
        current = self._snapshot.get(task.uuid)
        if current is None or (current.state, current.attempt) != (State.PLACED, task.attempt):
            return
        node, told = self.world.nodes[node_id], SimpleNamespace(answer="", refused=None)

        def arrive() -> None:
            try:
                node.submit(task)
            except Refusal as refusal:
                told.refused = str(refusal)
            told.answer = "came"

        arrived = node.take_message(arrive)
        yield self._pause()
        if arrived and self.world.random.random() < node.link.loss:
            told.answer = ""  # it took the task, and its answer was lost
        if not told.answer:
            yield SUBMIT_TIMEOUT_S
            self._conclude(task, f"POST {node.id}/task/new got no answer", Cause.UNDELIVERED)
        elif told.refused is not None:
            is_unknown = told.refused == TOKEN_REFUSED
            self._conclude(task, told.refused, Cause.UNDELIVERED if is_unknown else Cause.REFUSED)
        else:
            self.world.database.begin_as(self._epoch)
            attempt = self.world.database.attempt(task.uuid, task.attempt)
            if attempt is not None:
                attempt.delivered = True

    def _conclude(self, task: Task, error: str, cause: Cause) -> None:
        database = self.world.database
        database.begin_as(self._epoch)
        row = database.tasks[task.uuid]
        if row.task.attempt != task.attempt or row.task.state is not State.PLACED:
            return
        database.end_attempt(task.uuid, task.attempt, State.FAILED, error, cause)
        database.take(row, requeued(row.task))
        self.world.tally.count(f"requeued: {cause}")
        self.world.say(f"{self.name} requeues {task.uuid}#{task.attempt}: {cause}, {error}")
        self._taken(row)

    # Nodes that fall silent, or fail what they are given

    def _watch(self, standings: Mapping[str, Standing]) -> Iterator[float]:
        if is_deaf({node_id: each.silence for node_id, each in standings.items()}):
            self._listening_since = self.world.now
        since = self._listening_since if self._listening_since is not None else self.world.now
        listened = timedelta(seconds=self.world.now - since)
        silences = {node_id: min(each.silence, listened) for node_id, each in standings.items()}
        silent = [node_id for node_id, silence in silences.items() if silence > USUAL.lost_after]
        database = self.world.database
        removed = [row.id for row in database.nodes.values() if row.removed]
        held = [
            self._held(database.tasks[uuid].task, node_id, standings)
            for node_id in removed + silent
            for uuid, number in sorted(database.holding[node_id])
            if database.tasks[uuid].task.attempt == number
        ]
        for each in lost(held, silences, USUAL):
            yield self._pause()
            self._lose(each, silences.get(each.node_id))
        yield from self._watch_absent(standings)

    def _watch_absent(self, standings: Mapping[str, Standing]) -> Iterator[float]:
        database, now = self.world.database, self.world.now
        if now - self._absent_read_at < ABSENT_EVERY_S:
            return
        self._absent_read_at = now
        database.begin()
        found = {
            key: node_id
            for node_id, each in standings.items()
            if health(each.silence) is Health.HEALTHY
            for key in sorted(database.holding[node_id] - database.nodes[node_id].holding)
            if database.attempts[key[0]][key[1]].delivered
        }
        self._absent = absent_since(found, self._absent, now)
        for key in forgotten(self._absent, now):
            yield self._pause()
            database.begin_as(self._epoch)
            error = f"Node {found[key]} does not have the task any more"
            self._lose_row(database.tasks[key[0]], key[1], error, Cause.LOST)

    def _held(self, task: Task, node_id: str, standings: Mapping[str, Standing]) -> Held:
        silence = standings[node_id].silence if node_id in standings else timedelta(0)
        began_ago = timedelta(milliseconds=max(0, self.world.now_ms - task.began_ms)) if task.began_ms else None
        worked = max(timedelta(0), began_ago - silence) if began_ago is not None else timedelta(0)
        return Held(task.uuid, task.attempt, node_id, worked, task.wishes.replaceable)

    def _lose(self, held: Held, silence: timedelta | None) -> None:
        told = f"was not heard for {silence.total_seconds():.0f} s" if silence is not None else "left the federation"
        error = f"Node {held.node_id} {told} while it had the task"
        database = self.world.database
        database.begin_as(self._epoch)
        self._lose_row(database.tasks[held.uuid], held.attempt, error, Cause.LOST)

    def _lose_row(self, row: TaskRow, number: int, error: str, cause: Cause) -> None:
        database, uuid = self.world.database, row.task.uuid
        if row.task.attempt != number or row.task.state not in ACTIVE:
            return
        earlier = [each.cause for each in database.past(uuid) if each.cause is not None]
        database.end_attempt(uuid, number, State.FAILED, error, cause)
        after = retried(row.task, cause, earlier)
        database.take(row, after or failed(row.task, given_up(error, [*earlier, cause])))
        self.world.tally.count("lost with its node")
        self.world.say(f"{self.name} loses {uuid}#{number}: {error}; it is {row.task.state}")
        self._taken(row)

    def _judge_nodes(self, seen: set[str]) -> None:
        for node_id in sorted(seen):
            own, others = self._history.outcomes(node_id)
            row = self.world.database.nodes[node_id]
            if row.removed or not own:
                continue
            if is_black_hole(own, others):
                length = quarantine(row.quarantines)
                self._history.forget_outcomes(node_id)
                self._set_quarantine(row, row.quarantines + 1, length)
            elif row.quarantines and own[0].cause is None:
                self._set_quarantine(row, 0, timedelta(0))

    def _set_quarantine(self, row: NodeRow, quarantines: int, length: timedelta) -> None:
        self.world.database.begin_as(self._epoch)
        row.quarantines = quarantines
        row.quarantined_until = self.world.now + length.total_seconds() if length else None
        if length:
            self.world.tally.count("quarantined")
            self.world.say(f"{self.name} quarantines {row.id} for {length}")

    def _let_go(self, uuid: str, attempt: int) -> Iterator[float]:
        yield self._pause()
        self.world.database.begin()
        held = self.world.database.attempt(uuid, attempt)
        if held is not None:
            node = self.world.nodes[held.node_id]
            node.take_message(lambda: node.let_go(uuid, attempt))
        self.wake()

    # What nodes say (`router.registry`)

    def join(self, node: Node) -> None:
        """Take a node in. The same name again is the same node."""
        database = self.world.database
        database.begin()
        row = database.nodes.get(node.id)
        if row is None:
            row = database.nodes[node.id] = NodeRow(
                id=node.id,
                name=node.id,
                engine="odm",
                slots=node.slots,
                max_images=node.max_images,
                max_images_at={},
                total_memory_bytes=node.memory_bytes,
                labels=node.labels,
                heard_at=self.world.now,
            )
        if row.removed:
            row.removed = row.draining = row.locked = False
        self.world.say(f"{node.id} joins {self.name}")

    def heartbeat(self, node_id: str, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Take a node's report in, and tell it what to end. Raises `Refusal` for a node that is not known."""
        row = self.world.database.nodes.get(node_id)
        if row is None or row.removed:
            raise Refusal("node unknown")
        self.world.tally.heartbeats += 1
        news = [report for report in heartbeat.attempts if not self._nothing_new(node_id, report)]
        stop = [
            AttemptKey.model_construct(uuid=report.uuid, attempt=report.attempt)
            for report in sorted(news, key=lambda each: each.uuid)
            if self._take(node_id, report)
        ]
        holding = frozenset((report.uuid, report.attempt) for report in heartbeat.attempts)
        self._heard[node_id] = (self.world.now, holding)
        if not self._is_flushing:
            self._is_flushing = True
            self.later(FLUSH_S, self._flush)
        return HeartbeatAnswer.model_construct(stop=stop, acknowledged=[], draining=False, busy_s=1.0)

    def _flush(self) -> None:
        """Put on record when nodes were heard; what cannot be now is when the database is found again (`load`)."""
        self._is_flushing = False
        if self.world.database.is_away:
            return
        for node_id, (heard_at, holding) in self._heard.items():
            row = self.world.database.nodes[node_id]
            if row.told_at < heard_at:
                row.heard_at, row.told_at, row.holding = max(row.heard_at, heard_at), heard_at, holding
        self._heard.clear()

    def _nothing_new(self, node_id: str, report: AttemptReport) -> bool:
        known = self._snapshot.get(report.uuid)
        if known is None or (report.uuid, report.attempt, node_id) not in self._answered:
            return False
        if ruling(known, report) is not Ruling.TAKE or unseen_lines(report, known.console_lines):
            return False
        return reported(known, report, self.world.now_ms) == known

    def _take(self, node_id: str, report: AttemptReport) -> bool:
        """One report on record; whether the node may let go of the attempt."""
        database, key = self.world.database, (report.uuid, report.attempt, node_id)
        database.begin()
        row, attempt = database.tasks.get(report.uuid), database.attempt(report.uuid, report.attempt)
        if row is None or attempt is None or attempt.node_id != node_id:
            return True
        rule = ruling(row.task, report)
        node = database.nodes[node_id]
        if rule is Ruling.ADOPT and report.state in ACTIVE and len(database.holding[node_id]) >= node.slots:
            rule = Ruling.STOP
        if rule is Ruling.STOP:
            self._answered.discard(key)
            return True
        ended = report.state in ENDED and has_all_lines(report, 0)
        if rule is Ruling.ADOPT_RESULT and not ended:
            return False
        task = row.task
        if rule is not Ruling.TAKE:
            self.world.tally.count(str(rule))
            self.world.say(f"{self.name} adopts {report.uuid}#{report.attempt} ({report.state}) of {node_id}: {rule}")
            task = self._adopt(row, attempt, report)
        after = task if report.state in ENDED and not ended else reported(task, report, self.world.now_ms)
        attempt.delivered = True
        if attempt.state is not after.state:
            database.set_state(attempt, after.state)
        if attempt.began_at is None and report.processing_ms >= 0:
            attempt.began_at = self.world.now
        if ended:
            after = self._end(row, after, report)
        database.take(row, after)
        self._snapshot.put(row)
        if ended:
            self._answered.discard(key)
        else:
            self._answered.add(key)
        return ended

    def _adopt(self, row: TaskRow, attempt: AttemptRow, report: AttemptReport) -> Task:
        database = self.world.database
        if row.task.attempt != report.attempt:
            error = f"attempt {report.attempt} finished first"
            database.end_attempt(row.task.uuid, row.task.attempt, State.CANCELED, error, Cause.OUTDATED)
        attempt.cause = attempt.error = attempt.ended_at = None
        attempt.adopted = True
        database.set_state(attempt, State.RUNNING)
        return adopted(row.task, report.attempt)

    def _end(self, row: TaskRow, after: Task, report: AttemptReport) -> Task:
        database, state = self.world.database, after.state
        error, cause = after.error, report.cause if state is State.FAILED else None
        if state is State.FAILED:
            earlier = [each.cause for each in database.past(row.task.uuid) if each.cause is not None]
            another = retried(after, cause, earlier) if report.state is not State.CANCELED else None
            if another is not None:
                self.world.tally.count(f"tried again: {cause}")
                after = another
            elif cause is not None:
                after = replace(after, error=given_up(error or "it failed", [*earlier, cause]))
        database.end_attempt(row.task.uuid, report.attempt, state, error, cause)
        self.world.say(f"{self.name} takes the end of {report.uuid}#{report.attempt}: {state}; it is {after.state}")
        return after
