"""Look, decide, act: surveys inputs, places what waits, delivers what was placed, gives up what was lost.

One replica at a time, the leader, does this; the others answer requests.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from common.errands import Errands
from common.families import CLUSTER, splits
from common.federation import AttemptKey, Capacity, Forward
from common.logs import about
from common.nodeodm.client import NodeAnswerUnreadable, NodeClient, NodeRefused, NodeUnreachable, TokenRefused
from common.nodeodm.intake import InputRefused, check_limit, survey
from common.patience import comes
from common.references import Reference, staged_root
from common.storage import Storage, StorageFault
from common.tasks import ACTIVE, Cause, State, Task, asked_rerun
from common.tracing import NO_TRACER, Tracer, attempt_place, of_attempt, timed
from router import queries, retention
from router.access import Access
from router.database import Database
from router.endings import change
from router.events import ROUTER, Action, Subject, record
from router.facts import Placed, tell
from router.families import is_given_back
from router.foreign import ForeignNodes
from router.history import History
from router.leadership import Leadership, LeadershipLost
from router.lifecycle import (
    FREE,
    Clocks,
    Health,
    Held,
    Key,
    absent_since,
    failed,
    forgotten,
    given_up,
    health,
    is_black_hole,
    is_deaf,
    lost,
    noted_health,
    placed,
    quarantine,
    requeued,
    retried,
)
from router.parts import Parts
from router.placement import Choice, Fleet, Need, NodeState, affordable, hopeless
from router.queries import Past, Standing
from router.queue import Queue, need_of
from router.registry import Registry
from router.snapshot import Known, Snapshot
from router.tables import FOREIGN, MEMBER, AttemptRow, NodeRow, TaskRow
from router.transport import node_http

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""The loop is woken by what happens; it looks by itself for what does not tell."""
BREATH_S = 0.02
"""Between two looks: what comes in a burst is decided together."""
MOST_PLACED_AT_ONCE = 1_000
NOTE_S = 0.05
"""How long a delivery may lie in memory before it is on record: many of them are one statement."""
DELIVERIES_AT_ONCE = 64
MOST_NOTED_AT_ONCE = 200
"""Nodes whose health is put on record in one transaction."""
HISTORY_EVERY_S = 2.0
ABSENT_EVERY_S = 10.0
_OUTAGES = frozenset({"08", "53", "57"})
"""Classes of SQLSTATE: connections, resources, somebody who stops it or has just started it."""
_HEALTH = {
    Health.HEALTHY: (Action.NODE_BACK, "is heard again"),
    Health.LATE: (Action.NODE_LATE, "was not heard for {silence_s} s, and gets no new work"),
    Health.LOST: (Action.NODE_LOST, "was not heard for {silence_s} s: what it had begins anew elsewhere"),
}


class Loop:
    """The router's own work."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        access: Access,
        storage: Storage,
        staging: Reference,
        registry: Registry,
        history: History,
        clocks: Clocks,
        hooks: Sequence[str] = (),
        url: str | None = None,
    ) -> None:
        """Nothing runs yet. `url`: how runs on the nodes reach this router."""
        self._url = url
        self._database = database
        self._snapshot = snapshot
        self._access = access
        self._storage = storage
        self._staging = staging
        self._registry = registry
        self._history = history
        self._clocks = clocks
        self._hooks = hooks
        self.queue = Queue(snapshot, access, history)
        self.tracer: Tracer = NO_TRACER
        self.unplaced: Counter[str] = Counter()
        """What waits, by what it waited for when it was last looked at; only while this replica leads."""
        self._http = node_http(DELIVERIES_AT_ONCE)
        self._delivering = asyncio.Semaphore(DELIVERIES_AT_ONCE)
        self._awake = asyncio.Event()
        self._errands = Errands(logger, (OSError, SQLAlchemyError, StorageFault, LeadershipLost))
        self.leadership = Leadership(database, self.wake)
        self.foreign = ForeignNodes(database, snapshot, registry, access, storage, self.leadership)
        self._parts = Parts(snapshot, self.leadership, storage, staging, self._errands, self.let_go, hooks)
        self._listening_since: float | None = None
        """Since when every heartbeat could have reached us: nobody is silent for longer than we have listened."""
        self._delivered: set[tuple[str, int]] = set()
        """Task and number of attempts that were delivered, until that is on record."""
        self._history_read_at = 0.0
        self._looked_at = time.monotonic()
        self._absent: dict[Key, float] = {}
        """Attempts that their nodes do not tell of, and since when."""
        self._absent_read_at = 0.0

    def listen_since(self, seconds: float) -> None:
        """Count silence from so long ago on; before that nobody could have been heard."""
        self._listening_since = time.monotonic() - seconds

    def wake(self) -> None:
        """There is something to do."""
        self._awake.set()

    async def run(self) -> None:
        """Look, decide, act, for ever; only while this replica leads."""
        while True:
            self._awake.clear()
            try:
                await self._turn()
            except (OSError, SQLAlchemyError) as trouble:
                self._listening_since = None
                self._tell(trouble)
            except LeadershipLost as lost_it:
                self._listening_since = None
                logger.info("%s", lost_it)
            await asyncio.sleep(BREATH_S)
            await comes(self._awake, LOOK_EVERY_S)

    def _tell(self, trouble: Exception) -> None:
        """An outage is a line; a statement that Postgres refuses is a bug, and its traceback is wanted."""
        if is_outage(trouble):
            logger.warning("the database is away (%s); the queue waits for it", type(trouble).__name__)
        else:
            logger.error("a look at the queue failed; it looks again", exc_info=trouble)

    async def close(self) -> None:
        """End every errand."""
        await self._errands.close()
        await self.foreign.close()
        await self._http.aclose()
        await self.leadership.release()

    async def _turn(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > self._clocks.late_after.total_seconds():
            self._listening_since = None  # we hung: what came meanwhile has yet to be read
        self._looked_at = now
        if now - self._history_read_at > HISTORY_EVERY_S:
            self._history_read_at = now
            seen = await self._history.read()
            if self.leadership.is_leading:
                await self.judge(seen)
        if not self.leadership.is_leading:
            self._listening_since = None
            return
        if self._listening_since is None:
            self.listen_since(0.0)
        for known in self._snapshot.within(State.STAGING):
            if known.task.input_bytes == 0:
                self._errands.send(f"survey {known.task.uuid}", self._survey(known.task))
        standings = await self.standings()
        await self.watch(standings)
        await self._parts.tend()
        await self.place(standings)
        await self._deliver_all()

    async def standings(self) -> dict[str, Standing]:
        """How every node stands now."""
        async with self._database.transaction() as session:
            return await queries.standings(session)

    # Surveying

    async def _survey(self, task: Task) -> None:
        """Count the input once, before placement needs it (design 4.5)."""
        try:
            found = await self._storage.run(survey, self._storage, task)
            check_limit(found.images_count, self._access.most_images(task.token))
        except InputRefused as refused:
            await self._give_up(task, str(refused))
            return
        except StorageFault as fault:
            if fault.may_pass:
                logger.warning("task %s waits for S3: %s", task.uuid, fault)
                await asyncio.sleep(LOOK_EVERY_S)
                return
            await self._give_up(task, str(fault))
            return
        async with self.leadership.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.task() != task:
                return
            row.images_count, row.input_bytes = found.images_count, max(1, found.input_bytes)
            row.child = found.is_child or bool(row.family)
        self._snapshot.put(row)
        self.wake()

    async def _give_up(self, task: Task, reason: str) -> None:
        async with self.leadership.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.task() != task:
                return
            change(session, row, failed(task, reason), self._hooks)
        self._snapshot.put(row)
        logger.info("task %s failed: %s", task.uuid, reason)
        if task.staged:
            await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, task.uuid))

    # Placing

    async def place(self, standings: dict[str, Standing]) -> None:
        """Reserve slots for what waits (I4, I5): decide in memory, write what is still as it was decided on."""
        waiting = self.queue.ordered()
        self.unplaced.clear()
        if not waiting:
            return
        past = await self._past(waiting)
        kept = await self._kept_workspaces(waiting)
        fleet = Fleet(self.node_states(standings))
        choices: dict[str, Choice] = {}
        unfit: set[Need] = set()
        turn = self.queue.turn()
        looked_at = waiting
        for place, known in enumerate(waiting):
            if not fleet.free_slots:
                break
            if len(choices) >= MOST_PLACED_AT_ONCE:
                looked_at = waiting[:place]  # the others have their turn at once: there are slots for them
                break
            task = known.task
            need = self.need(task, past.get(task.uuid, ()), standings)
            if task.uuid in kept:
                need = replace(need, workspace=kept[task.uuid])
            if need in unfit or not turn.may_start(task):
                self.unplaced["no_fitting_node" if need in unfit else "token_limit"] += 1
                continue
            choice = fleet.choose(need, random.random())  # noqa: S311 - a tie, not a secret
            if choice.node_id is not None:
                fleet.take(choice.node_id)
                turn.started(task)
                choices[task.uuid] = choice
            else:
                unfit.add(need)
                self.unplaced["no_fitting_node"] += 1
        self.unplaced["no_free_slot"] = len(looked_at) - len(choices) - self.unplaced.total()
        others = [known for known in looked_at if known.task.uuid not in choices]
        never = await self._hopeless(others, past, standings, fleet.nodes)
        await self._write_placements(looked_at, choices, never, past, fleet.nodes)

    async def _kept_workspaces(self, waiting: Sequence[Known]) -> dict[str, frozenset[str]]:
        """Of those that ask to go on from a stage, the nodes that keep what they would go on with; most ask nothing."""
        asking = [
            known.task.uuid for known in waiting if known.task.first_attempt > 1 and asked_rerun(known.task.options)
        ]
        if not asking:
            return {}
        async with self._database.statement() as session:
            return await retention.workspaces_of(session, asking)

    async def _past(self, waiting: Sequence[Known]) -> dict[str, list[Past]]:
        """What became of the earlier attempts of those that have any."""
        tried = [known.task.uuid for known in waiting if known.task.attempt >= known.task.first_attempt]
        if not tried:
            return {}
        async with self._database.statement() as session:
            return await queries.past_attempts(session, tried)

    async def _hopeless(
        self,
        waiting: Sequence[Known],
        past: dict[str, list[Past]],
        standings: dict[str, Standing],
        nodes: Sequence[NodeState],
    ) -> dict[str, str]:
        """Tasks that no node will ever take, with the reason.

        That is for good, and a node may have joined another replica, or joined anew with other options, a moment ago:
        before it is said, the nodes are read again.
        """
        needs = [
            (known.task.uuid, self.need(known.task, past.get(known.task.uuid, ()), standings)) for known in waiting
        ]
        if not hopeless(needs, nodes, MOST_PLACED_AT_ONCE):
            return {}
        await self._registry.load()
        if any(row.id not in standings for row in self._registry.nodes()):
            self.wake()  # the next turn knows how they stand
            return {}
        return hopeless(needs, self.node_states(standings), MOST_PLACED_AT_ONCE)

    async def _write_placements(
        self,
        waiting: Sequence[Known],
        choices: dict[str, Choice],
        never: dict[str, str],
        past: dict[str, list[Past]],
        nodes: Sequence[NodeState],
    ) -> None:
        by_uuid = {known.task.uuid: known for known in waiting}
        queued = [known.task.uuid for known in waiting if self._is_to_be_shown_waiting(known)]
        queued = [uuid for uuid in queued if uuid not in choices and uuid not in never][:MOST_PLACED_AT_ONCE]
        touched = [*choices, *never, *queued]
        if not touched:
            return
        async with self.leadership.transaction() as session:
            versions = await queries.lock_free(session, touched)
            still = {uuid: by_uuid[uuid] for uuid in touched if versions.get(uuid) == by_uuid[uuid].version}
            room = await self._room(session, choices, nodes)
            chosen = [(uuid, choice.node_id) for uuid, choice in choices.items() if choice.node_id and uuid in still]
            attempts: list[queries.NewAttempt] = []
            steps: list[queries.Step] = []
            for uuid in affordable(chosen, room):
                known = still[uuid]
                after = placed(known.task, known.task.attempt + 1)
                is_first = after.attempt == after.first_attempt
                attempts.append(_attempt(after, choices[uuid], known.committed_at if is_first else None))
                steps.append(queries.Step(known.task, known.version, after))
                tell(session, Placed(uuid, after.attempt, self.queue.waited_s(known) if is_first else None))
            shown = [still[uuid] for uuid in queued if uuid in still]
            steps += [queries.Step(each.task, each.version, replace(each.task, state=State.QUEUED)) for each in shown]
            await queries.store(session, steps)
            await queries.add_attempts(session, attempts)
            doomed = [uuid for uuid in never if uuid in still]
            rows = await queries.task_rows(session, doomed) if doomed else {}
            for row in rows.values():
                why = _why_hopeless(never[row.uuid], past.get(row.uuid, ()))
                change(session, row, failed(row.task(), why), self._hooks)
        for row in rows.values():
            self._snapshot.put(row)
        for each in steps:
            self._snapshot.advance(each.after, each.version + 1)
        for new in attempts:
            node = self._registry.node(new.node_id)
            with about(node=node.name if node is not None else ""):
                logger.info("task %s attempt %d: %s", new.uuid, new.number, new.why)
        if len(choices) >= MOST_PLACED_AT_ONCE or len(never) + len(queued) >= MOST_PLACED_AT_ONCE:
            self.wake()

    async def _room(
        self, session: AsyncSession, choices: dict[str, Choice], nodes: Sequence[NodeState]
    ) -> dict[str, int]:
        """Slots that are free by what is on record now, of the nodes that were chosen; nobody takes one meanwhile."""
        chosen = {choice.node_id for choice in choices.values() if choice.node_id is not None}
        if not chosen:
            return {}
        await queries.lock_slots(session)
        held = await queries.slots_held(session, chosen)
        return {node.id: node.slots - node.direct - held.get(node.id, 0) for node in nodes if node.id in chosen}

    def _is_to_be_shown_waiting(self, known: Known) -> bool:
        if known.task.state is not State.STAGING:
            return False
        return not known.task.child or self.queue.waited_s(known) > self._clocks.part_waits.total_seconds()

    def is_given_back(self, known: Known) -> bool:
        """Whether a part of a split task is gone for its parent, which is to take it back."""
        return is_given_back(known.task, time.monotonic() - known.since, self._clocks.part_waits.total_seconds())

    def need(self, task: Task, past: Sequence[Past], standings: dict[str, Standing]) -> Need:
        """What a task asks of a node now."""
        return need_of(task, past, standings, self._clocks.rest)

    def node_states(self, standings: dict[str, Standing]) -> list[NodeState]:
        """Every node as placement sees it."""
        return [
            node_state(row, standings[row.id], self._registry.options_of(row.id), self._history, self._clocks)
            for row in self._registry.nodes()
            if row.id in standings
        ]

    # Delivering

    async def _deliver_all(self) -> None:
        if not self._snapshot.count(State.PLACED):
            return
        async with self._database.statement() as session:
            waiting = await queries.undelivered(session)
        for uuid, number, node_id in waiting:
            task, node = self._snapshot.get(uuid), self._registry.node(node_id)
            if (
                (uuid, number) not in self._delivered
                and task is not None
                and task.attempt == number
                and node is not None
            ):
                with about(uuid, number, node.name):
                    self._errands.send(f"deliver {uuid} {number}", self._deliver(task, node))

    async def _deliver(self, task: Task, node: NodeRow) -> None:
        """Give a node the task that a slot is reserved for. Repeating it is safe (design 4.2)."""
        # A foreign node may have to be sent every file: long, and not to be waited for by others.
        async with self._delivering if node.kind == MEMBER else nullcontext():
            current = self._snapshot.get(task.uuid)
            if current is None or (current.state, current.attempt) != (State.PLACED, task.attempt):
                return  # canceled while it waited for its turn
            try:
                if node.kind == FOREIGN:
                    await self.foreign.deliver(task, node)
                    return
                forward = forward_of(task, self._cluster_of(task, node)).model_dump(by_alias=True)
                place = attempt_place(task.uuid, task.attempt) if self.tracer.is_on else None
                with timed(self.tracer, "deliver", place, of_attempt(task.uuid, task.attempt)):
                    await self._client(node).submit(forward, task.uuid, str(place or ""))
            except (NodeUnreachable, NodeAnswerUnreadable, TokenRefused) as trouble:
                logger.warning("task %s back in the queue: %s", task.uuid, trouble)
                await self._conclude(task, str(trouble), Cause.UNDELIVERED)
            except NodeRefused as refused:
                logger.warning("task %s refused by node %s: %s", task.uuid, node.name, refused)
                await self._conclude(task, str(refused), Cause.REFUSED)
            else:
                self._delivered.add((task.uuid, task.attempt))
                self._errands.send("note deliveries", self._note_deliveries())

    async def _note_deliveries(self) -> None:
        """Put on record what was delivered. What is lost before is delivered again, which is safe."""
        while self._delivered:
            await asyncio.sleep(NOTE_S)
            keys = set(self._delivered)
            try:
                async with self.leadership.transaction() as session:
                    await queries.note_delivered(session, keys)
            finally:
                self._delivered -= keys

    async def _conclude(self, task: Task, error: str, cause: Cause) -> None:
        """End the attempt that could not be delivered, unless something else has happened to the task."""
        async with self.leadership.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.attempt != task.attempt or row.state != State.PLACED:
                return
            await queries.end_attempt(session, task.uuid, task.attempt, State.FAILED, error, cause)
            row.take(requeued(row.task()))
        self._snapshot.put(row)
        self.wake()

    # Nodes that fall silent, or fail what they are given

    async def watch(self, standings: dict[str, Standing]) -> None:
        """Give up what lost nodes and removed ones held."""
        if is_deaf({node_id: each.silence for node_id, each in standings.items()}, self._clocks):
            self.listen_since(0.0)  # whoever is heard first again must not condemn the others
        since = self._listening_since if self._listening_since is not None else time.monotonic()
        listened = timedelta(seconds=time.monotonic() - since)
        silences = {node_id: min(each.silence, listened) for node_id, each in standings.items()}
        silent = [node_id for node_id, silence in silences.items() if silence > self._clocks.lost_after]
        async with self._database.transaction() as session:
            rows = await queries.held_by(session, None)
            if silent:
                rows += await queries.held_by(session, silent)
        tasks = {(row.uuid, attempt.number): row.task() for row, attempt, _ in rows}
        for each in lost([_held(*each) for each in rows], silences, self._clocks):
            node = self._registry.node(each.node_id)
            name = node.name if node is not None else "a node that was removed"
            silence = silences.get(each.node_id)
            told = (
                f"was not heard for {silence.total_seconds():.0f} s" if silence is not None else "left the federation"
            )
            with about(node=name if node is not None else ""):
                await self._lose(tasks[each.uuid, each.attempt], f"Node {name} {told} while it had the task")
        await self._note_health(standings, listened)
        await self._watch_absent()

    async def _note_health(self, standings: dict[str, Standing], listened: timedelta) -> None:
        """Put on record which nodes have fallen silent, and which are back. Whom somebody changes now comes next."""
        judged = {
            node_id: noted_health(Health(each.health), each.silence, listened, self._clocks)
            for node_id, each in standings.items()
        }
        changed = [node_id for node_id, each in judged.items() if each != standings[node_id].health]
        if not changed:
            return
        async with self.leadership.transaction() as session:
            for row in await queries.nodes_free(session, changed, MOST_NOTED_AT_ONCE):
                row.health, row.health_since = judged[row.id].value, await queries.clock(session)
                silence_s = round(standings[row.id].silence.total_seconds())
                action, told = _HEALTH[judged[row.id]]
                text = f"Node {row.name} {told.format(silence_s=silence_s)}."
                record(session, ROUTER, action, Subject.node(row), text, silence_s=silence_s)

    async def _watch_absent(self) -> None:
        """Give up what nodes that are heard have lost."""
        now = time.monotonic()
        if now - self._absent_read_at < ABSENT_EVERY_S:
            return
        self._absent_read_at = now
        async with self._database.statement() as session:
            found = await queries.absent(session, self._clocks.late_after)
        self._absent = absent_since([(uuid, number) for uuid, number, _ in found], self._absent, now)
        nodes = {(uuid, number): self._registry.node(node_id) for uuid, number, node_id in found}
        for uuid, number in forgotten(self._absent, now):
            task, node = self._snapshot.get(uuid), nodes[uuid, number]
            if task is not None and node is not None and task.attempt == number:
                with about(node=node.name):
                    await self._lose(task, f"Node {node.name} does not have the task any more")

    async def _lose(self, task: Task, error: str) -> None:
        async with self.leadership.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.attempt != task.attempt or State(row.state) not in ACTIVE:
                return
            past = (await queries.past_attempts(session, [task.uuid])).get(task.uuid, [])
            earlier = [each.cause for each in past if each.cause is not None]
            await queries.end_attempt(session, task.uuid, task.attempt, State.FAILED, error, Cause.LOST)
            current = row.task()
            again = retried(current, Cause.LOST, earlier)
            after = again or failed(current, given_up(error, [*earlier, Cause.LOST]))
            change(session, row, after, self._hooks)
        self._snapshot.put(row)
        logger.warning("task %s attempt %d: %s; it is %s", task.uuid, task.attempt, error, row.state)
        self.wake()

    async def judge(self, seen: set[str]) -> None:
        """Quarantine nodes on which everything fails at once; those that do well again are trusted again."""
        for node_id in seen:
            row = self._registry.node(node_id)
            if row is None:
                continue
            own, others = self._history.outcomes(node_id, _quarantined_since(row, self._clocks))
            if not own:
                continue
            if is_black_hole(own, others) and self._clocks.quarantine:
                length = quarantine(row.quarantines, self._clocks.quarantine)
                logger.warning("node %s fails everything at once: it gets no work for %s", row.name, length)
                self._history.forget_outcomes(node_id)
                await self._set_quarantine(row, row.quarantines + 1, length)
            elif row.quarantines and own[0].cause is None:
                logger.info("node %s does well again", row.name)
                await self._set_quarantine(row, 0, timedelta(0))

    async def _set_quarantine(self, row: NodeRow, quarantines: int, length: timedelta) -> None:
        row.quarantines = quarantines
        action, told = Action.NODE_TRUSTED, "does well again"
        if length:
            action, told = Action.NODE_QUARANTINED, f"fails everything at once: it gets no work for {length}"
        async with self.leadership.transaction() as session:
            await queries.set_quarantine(session, row.id, quarantines, length)
            text = f"Node {row.name} {told}."
            record(session, ROUTER, action, Subject.node(row), text, seconds=length.total_seconds())

    # Letting go

    def let_go(self, uuid: str, attempt: int, node: NodeRow | None = None) -> None:
        """Tell the node at once that an attempt is over. If it cannot be told now, its next heartbeat is."""
        if attempt:
            with about(uuid, attempt, node.name if node is not None else ""):
                self._errands.send(f"let go {uuid} {attempt}", self._let_go(uuid, attempt, node))

    async def _let_go(self, uuid: str, attempt: int, node: NodeRow | None) -> None:
        if node is None:
            async with self._database.transaction() as session:
                node = await queries.node_of(session, uuid, attempt)
        if node is None:
            return
        try:
            if node.kind == FOREIGN:
                await self.foreign.let_go(uuid, attempt, node)
            else:
                await self._client(node).let_go(AttemptKey(uuid=uuid, attempt=attempt))
        except (NodeUnreachable, NodeRefused, NodeAnswerUnreadable) as trouble:
            logger.warning("task %s: %s; the node is told with its next heartbeat", uuid, trouble)
        self.wake()

    def _cluster_of(self, task: Task, node: NodeRow) -> str | None:
        """Where a run of a split task sends its parts; None where it processes them all itself."""
        known = self._registry.options_of(node.id)
        is_asked = any(option.name == CLUSTER for option in task.options)
        if self._url is None or task.child or is_asked or CLUSTER not in known:
            return None
        return self._url if splits(task.options, task.images_count) else None

    def _client(self, node: NodeRow) -> NodeClient:
        return NodeClient(node.url, self._access.node_secret(node.id), self._http)


def is_outage(trouble: Exception) -> bool:
    """Whether this says that Postgres cannot be reached or does not work now, and nothing of what it was asked."""
    if isinstance(trouble, OSError | OperationalError | InterfaceError):
        return True
    state = str(getattr(getattr(trouble, "orig", None), "sqlstate", None) or "")
    return bool(getattr(trouble, "connection_invalidated", False)) or state[:2] in _OUTAGES


def node_state(
    row: NodeRow, standing: Standing, options: frozenset[str], history: History, clocks: Clocks
) -> NodeState:
    """A node as placement sees it: how it joined, how it stands, what was learned of it."""
    capacity = Capacity.model_validate(standing.capacity)
    minutes = standing.quarantined_for.total_seconds() / 60
    quarantined = f"it failed what it was given, again and again, and rests for {minutes:.0f} more minutes"
    return NodeState(
        id=row.id,
        name=row.name,
        health=health(standing.silence, clocks),
        slots=capacity.slots,
        placed=standing.placed,
        direct=capacity.direct,
        draining=standing.draining,
        locked=standing.locked,
        quarantine=quarantined if minutes > 0 else "",
        on_probation=standing.quarantines > 0,
        max_images=row.max_images,
        max_images_at={float(factor): most for factor, most in row.max_images_at.items()},
        total_memory_bytes=capacity.total_memory_bytes,
        free_memory_bytes=capacity.available_memory_bytes,
        options=options,
        labels=row.labels,
        speed=history.estimates.speed(row.id, row.engine),
    )


def _quarantined_since(row: NodeRow, clocks: Clocks) -> datetime | None:
    """What a node did before its last quarantine led to that one; whoever comes to lead must not judge it again."""
    if row.quarantined_until is None:
        return None
    return row.quarantined_until - quarantine(max(0, row.quarantines - 1), clocks.quarantine)


def _why_hopeless(reason: str, past: Sequence[Past]) -> str:
    """Why a task is given up for which no node is left: what the last attempt failed of comes first."""
    paid = [each for each in past if each.cause is not None and each.cause not in FREE]
    told = f"{paid[-1].error.rstrip('.')}. {reason}" if paid else reason
    return given_up(told, [each.cause for each in paid if each.cause is not None])


def _held(row: TaskRow, attempt: AttemptRow, worked: timedelta) -> Held:
    replaceable = row.task().wishes.replaceable
    return Held(row.uuid, attempt.number, attempt.node_id, worked, replaceable)


def _attempt(task: Task, choice: Choice, queued_at: datetime | None) -> queries.NewAttempt:
    assert choice.node_id is not None
    return queries.NewAttempt(task.uuid, task.attempt, choice.node_id, queued_at, choice.text, choice.document())


def forward_of(task: Task, cluster: str | None = None) -> Forward:
    """The task as its node is given it: by reference, without the webhook, which is the router's to call.

    `cluster`: where its run sends the parts into which it splits the task.
    """
    return Forward(
        cluster=cluster,
        attempt=task.attempt,
        first_attempt=task.first_attempt,
        memory_factor=task.memory_factor,
        name=task.name,
        tenant=task.tenant,
        read=task.input,
        write=task.output,
        options=[{"name": setting.name, "value": setting.value} for setting in task.options],
        outputs=list(task.outputs),
        skip_post_processing=task.skip_post_processing,
        date_created=task.created_ms,
        scan_depth=task.wishes.scan_depth,
        exclude=list(task.wishes.exclude),
        engine_image=task.wishes.engine_image,
        capacity_type=task.wishes.capacity_type,
        images_count=task.images_count,
        input_bytes=task.input_bytes,
    )
