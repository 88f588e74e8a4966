"""What must always hold (design 5), judged from the tables and from what happened, not by the code under test."""

from dataclasses import dataclass

from common.tasks import ACTIVE, ENDED, WAITING, Cause, Code, State, Task
from common.tokens import TOKEN_REFUSED
from router.lifecycle import BUDGETS, LATE_AFTER, LOST_AFTER, REST
from tests.simulation.nodes import Node, Process
from tests.simulation.router import LOOK_EVERY_S
from tests.simulation.world import AttemptRow, NodeRow, World

PATIENCE_S = 3 * LOOK_EVERY_S
"""A task that could start is to start within a look; a look takes a while, and is late where a leader was lost."""
WATCH_EVERY_S = 20.0


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.invariant = name


@dataclass(slots=True)
class _Seen:
    """A task as it was when it was last looked at."""

    submitted_ms: int
    """A restart begins a new run."""
    attempt: int
    progress: float
    code: Code
    begun: bool


class Invariants:
    """Watches a world."""

    def __init__(self, world: World) -> None:
        """Looks at what was changed after every event, and now and then at everything."""
        self._world = world
        self.promised: set[str] = set()
        """Tasks whose uuid a client was given."""
        self.canceled: set[str] = set()
        """Tasks whose cancel a client was told of, and that were not restarted since."""
        self._seen: dict[str, _Seen] = {}
        self._placed: set[tuple[str, int]] = set()
        self._lost: set[tuple[str, int]] = set()
        self._deaf_until = 0.0
        self._ready_since = 0.0
        self._could_start: dict[str, float] = {}
        world.after_each.append(self._after_each)
        world.later(WATCH_EVERY_S, self._now_and_then)

    # After every event

    def _after_each(self) -> None:
        touched = self._world.database.touched
        if not touched:
            return
        for uuid in sorted(touched):
            self._look_at(uuid)
        touched.clear()

    def _look_at(self, uuid: str) -> None:
        database = self._world.database
        task = database.tasks[uuid].task
        attempts = database.attempts[uuid]
        holding = [row for row in attempts.values() if row.state in ACTIVE]
        self._i2(task, holding)
        for row in holding:
            self._i4(task, row)
        for row in attempts.values():
            self._i11(row)
        self._i6(task)
        if task.state is State.FAILED:
            self._i3_of_a_failure(task)
        if uuid in self.canceled and task.state is not State.CANCELED:
            raise Violation("I7", f"task {uuid} was canceled, and is {task.state}")

    def _i2(self, task: Task, holding: list[AttemptRow]) -> None:
        if len(holding) > 1:
            raise Violation("I2", f"task {task.uuid} has {len(holding)} attempts under way")
        if (task.state in ACTIVE) != bool(holding):
            raise Violation("I2", f"task {task.uuid} is {task.state} with {len(holding)} attempts under way")
        if holding and holding[0].number != task.attempt:
            raise Violation("I2", f"task {task.uuid} is at attempt {task.attempt}, {holding[0].number} is under way")
        published = self._world.outputs.published.get((task.uuid, task.first_attempt), [])
        if len(published) > 1:
            raise Violation("I2", f"attempts {[each.attempt for each in published]} of {task.uuid} have all published")
        if task.state is State.COMPLETED:
            if not published:
                raise Violation("I2", f"task {task.uuid} is completed, and nothing was published")
            if published[0].attempt > task.attempt:
                raise Violation("I2", f"task {task.uuid} is completed by {task.attempt}, {published[0]} counts")

    def _i4(self, task: Task, attempt: AttemptRow) -> None:
        database, key = self._world.database, (attempt.uuid, attempt.number)
        if key in self._placed:
            return
        self._placed.add(key)
        node = database.nodes[attempt.node_id]
        held = [database.attempts[uuid][number] for uuid, number in database.holding[node.id]]
        if len(held) > node.slots:
            raise Violation("I4", f"node {node.id} holds {len(held)} of {node.slots} slots")
        why = unfit(task, node, self._world)
        if why:
            raise Violation("I4", f"task {task.uuid}#{attempt.number} was placed on {node.id}, {why}")
        if self._world.now - node.heard_at > LATE_AFTER.total_seconds() + 1:
            raise Violation("I4", f"task {task.uuid}#{attempt.number} was placed on {node.id}, which is silent")

    def _i6(self, task: Task) -> None:
        now = _Seen(task.created_ms, task.attempt, task.progress, task.code, task.begun)
        seen, self._seen[task.uuid] = self._seen.get(task.uuid), now
        if seen is None or seen.submitted_ms != now.submitted_ms:
            return
        if seen.begun and now.code is Code.QUEUED:
            raise Violation("I6", f"task {task.uuid} has begun, and is shown as waiting")
        if seen.attempt == now.attempt and now.progress < seen.progress and task.state is not State.CANCELED:
            raise Violation("I6", f"progress of {task.uuid}#{now.attempt} went from {seen.progress} to {now.progress}")

    def _i11(self, attempt: AttemptRow) -> None:
        key = (attempt.uuid, attempt.number)
        if attempt.cause is not Cause.LOST or key in self._lost:
            return
        self._lost.add(key)
        if self._world.database.nodes[attempt.node_id].removed or "was not heard" not in (attempt.error or ""):
            return
        listened = self._world.now - self._deaf_until
        if listened < LOST_AFTER.total_seconds():
            raise Violation(
                "I11", f"{attempt.uuid}#{attempt.number} was given up {listened:.0f} s after nobody could be heard"
            )

    # Now and then

    def _now_and_then(self) -> None:
        world = self._world
        world.later(WATCH_EVERY_S, self._now_and_then)
        world.catch_up()
        self._listen()
        self._i1()
        self._i5()

    def _listen(self) -> None:
        database, now = self._world.database, self._world.now
        silences = [now - row.heard_at for row in database.nodes.values() if not row.removed]
        if database.is_away or not any(router.answers for router in self._world.routers):
            self._deaf_until = now
        elif silences and min(silences) > LATE_AFTER.total_seconds() + PATIENCE_S:
            # Long enough for a look to have seen it.
            self._deaf_until = now

    def _i1(self) -> None:
        for uuid in self.promised - self._world.database.tasks.keys():
            raise Violation("I1", f"task {uuid} was promised, and is not known")

    def _i5(self) -> None:
        world, database = self._world, self._world.database
        leaders = [router for router in world.routers if router.answers and router.is_leading]
        if database.is_away or not leaders:
            self._could_start.clear()
            return
        open_nodes = [row for row in database.nodes.values() if self._is_open(row)]
        could: dict[str, float] = {}
        for row in database.tasks.values() if open_nodes else ():
            if row.task.state not in WAITING:
                continue
            task = row.task
            most = leaders[0].limits(task.token).running
            if most is not None and self._held_by_token(task.token) >= most:
                continue
            rests = {
                each.node_id
                for each in database.past(task.uuid)
                if each.ended_at is not None and world.now - each.ended_at < REST.total_seconds() + PATIENCE_S
            }
            fitting = [node for node in open_nodes if node.id not in rests and not unfit(task, node, world)]
            if fitting:
                could[task.uuid] = self._could_start.get(task.uuid, world.now)
                if world.now - could[task.uuid] > PATIENCE_S:
                    raise Violation("I5", f"task {task.uuid} waits, and {fitting[0].id} has a free slot")
        self._could_start = could

    def _is_open(self, row: NodeRow) -> bool:
        world = self._world
        held = len(world.database.holding[row.id])
        slots = min(1, row.slots) if row.quarantines else row.slots
        return (
            not (row.removed or row.draining or row.locked)
            and held < slots
            and world.now - row.heard_at < LATE_AFTER.total_seconds()
            and (row.quarantined_until is None or world.now > row.quarantined_until)
        )

    def _held_by_token(self, token: str) -> int:
        return sum(row.task.token == token and row.task.state in ACTIVE for row in self._world.database.tasks.values())

    # In the end

    def end(self) -> None:
        """Once nothing breaks any more, and time went on."""
        self._i1()
        database = self._world.database
        for uuid in sorted(self.promised):
            self._i3(database.tasks[uuid].task)
        for node in self._world.nodes.values():
            self._i7_at(node)

    def _i3(self, task: Task) -> None:
        if task.state not in ENDED:
            database = self._world.database
            where = [f"#{row.number} on {row.node_id}: {row.state}" for row in database.attempts[task.uuid].values()]
            raise Violation("I3", f"task {task.uuid} is {task.state} for ever ({'; '.join(where) or 'no attempt'})")
        if task.state is State.CANCELED and task.uuid not in self.canceled:
            raise Violation("I3", f"task {task.uuid} is canceled, and nobody has asked for it")

    def _i3_of_a_failure(self, task: Task) -> None:
        """It failed by its own fault, or after every try that it had, or because nothing could do it."""
        database, truth = self._world.database, self._world.truths[task.uuid]
        if not task.error:
            raise Violation("I3", f"task {task.uuid} failed without a reason")
        causes = [row.cause for row in database.past(task.uuid)]
        spent = any(causes.count(cause) > most for cause, most in BUDGETS.items())
        can = [row for row in database.nodes.values() if not row.removed and not unfit(task, row, self._world)]
        if not (truth.bad_input or truth.bad_engine or spent) and can:
            raise Violation("I3", f"task {task.uuid} failed ({task.error}), though {can[0].id} could do it")
        refusals = [row.error for row in database.past(task.uuid) if row.cause is Cause.REFUSED]
        if TOKEN_REFUSED in refusals:
            raise Violation("I3", f"task {task.uuid} failed ({task.error}) because a node had not joined yet")

    def _i7_at(self, node: Node) -> None:
        if node.process is not Process.UP or node.link.is_cut:
            return
        for job in node.jobs.values():
            if job.task.uuid in self.canceled and job.state not in ENDED:
                raise Violation("I7", f"task {job.task.uuid} is canceled, and runs on {node.id}")


def unfit(task: Task, node: NodeRow, world: World) -> str:
    """Why a node cannot do a task, as far as anybody could know; empty where it can."""
    if node.max_images is not None and task.images_count > node.max_images:
        return f"which takes {node.max_images} images of {task.images_count}"
    if task.wishes.nodes and node.name not in task.wishes.nodes:
        return "which it is not pinned to"
    if node.name in task.wishes.avoid:
        return "which it is to avoid"
    if any(node.labels.get(name) != value for name, value in task.wishes.labels):
        return "which lacks its label"
    past = world.database.past(task.uuid)
    too_small = [world.database.nodes[row.node_id].total_memory_bytes for row in past if row.cause is Cause.MEMORY]
    if too_small and node.total_memory_bytes <= max(too_small):
        return "which has no more memory than it ran out of"
    if any(row.node_id == node.id and row.cause is Cause.REFUSED for row in past):
        return "which would not have it"
    return ""
