"""A node and its cluster: Jobs that fetch, work and publish, and a process that reports them to a router."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from common.federation import AttemptReport, Capacity, Heartbeat, HeartbeatAnswer
from common.fencing import AlreadyPublished, Outdated
from common.tasks import ACTIVE, ENDED, NOT_RUNNING, Cause, State, Task
from common.tokens import TOKEN_REFUSED
from tests.simulation.world import Away, World

if TYPE_CHECKING:
    from tests.simulation.router import Router

A = TypeVar("A")
BEAT_S = 5.0
TIMEOUT_S = 10.0
QUIET_S = (200.0, 600.0)
"""Heartbeats of a node on which all is well are simulated so often; those between are known to arrive."""
GIB = 2**30


class Process(StrEnum):
    """How a node's process stands."""

    UP = "up"
    DEAD = "dead"
    HUNG = "hung"


class Refusal(Exception):
    """The node answers that it will not have a task."""


@dataclass(slots=True)
class Link:
    """The network between a node and all routers."""

    is_cut: bool = False
    loss: float = 0.0
    """Share of messages that never arrive, in each direction."""
    repeats: float = 0.0
    """Share of heartbeats that arrive once more, later, when others have come after them."""


class Job:
    """One attempt on a node. Its steps go on whatever becomes of the node's process."""

    def __init__(self, node: "Node", task: Task) -> None:
        """Waits for a slot of the node."""
        self._node, self._world = node, node.world
        self.task = task
        self.state = State.QUEUED
        self.progress = 0.0
        self.processing_ms = NOT_RUNNING
        self.error: str | None = None
        self.cause: Cause | None = None
        self._run = 0
        self._engine_from: float | None = None
        self._engine_s = 1.0
        self._truth = self._world.truths[task.uuid]
        self._fence = self._world.outputs.fence(task.uuid, task.attempt, task.first_attempt)

    @property
    def key(self) -> tuple[str, int]:
        """Task and attempt."""
        return self.task.uuid, self.task.attempt

    def start(self) -> None:
        """Take a slot of the node; also again, when the pod was evicted."""
        self.state, self._engine_from = State.RUNNING, None
        self._run += 1
        self._step(self._world.between(1, 20), self._fetch)

    def stop(self) -> None:
        """Nothing of it runs any more."""
        self._run += 1
        if self.state not in ENDED:
            self.state = State.CANCELED

    def report(self) -> AttemptReport:
        """As a heartbeat tells it."""
        now, engine = self._world.now, self._engine_from
        elapsed = NOT_RUNNING
        if self.state in ACTIVE and engine is not None:
            elapsed = int((now - engine) * 1000)
            self.progress = max(self.progress, min(90.0, 90.0 * (now - engine) / self._engine_s))
        return AttemptReport.model_construct(
            uuid=self.task.uuid,
            attempt=self.task.attempt,
            state=self.state,
            progress=round(self.progress, 3),
            processing_ms=elapsed if self.state in ACTIVE else self.processing_ms,
            images_count=self.task.images_count,
            error=self.error,
            cause=self.cause,
            first_line=0,
            waiting=None,
            lines=[],
        )

    def _step(self, delay_s: float, happens: Callable[[], None]) -> None:
        run = self._run

        def step() -> None:
            if self._run == run and self.state not in ENDED:
                self._guarded(happens)

        self._world.later(delay_s, step)

    def _guarded(self, happens: Callable[[], None]) -> None:
        try:
            happens()
        except Outdated as outdated:
            self._fail(str(outdated), Cause.OUTDATED)
        except AlreadyPublished:
            self._end(State.COMPLETED)

    def _fetch(self) -> None:
        self._fence.take()
        if self._node.spoils_s is not None:
            self._step(
                self._node.spoils_s, lambda: self._fail("The disk of this machine is full.", Cause.INFRASTRUCTURE)
            )
        elif self._truth.bad_input:
            self._step(self._world.between(2, 30), lambda: self._fail("There are no images in it.", Cause.INPUT))
        else:
            self._step(self._world.between(20, 200), self._work)

    def _work(self) -> None:
        self._engine_from = self._world.now
        self._engine_s = max(5.0, self._truth.seconds / self._node.speed)
        if self._truth.memory > self.task.memory_factor:
            share, ends = 0.6, lambda: self._fail("The engine ran out of memory.", Cause.MEMORY)
        elif self._truth.bad_engine:
            share, ends = 0.3, lambda: self._fail("The engine found nothing to match.", Cause.ENGINE)
        elif self._world.random.random() < self._node.flaky:
            share, ends = self._world.random.random(), lambda: self._fail("The machine is gone.", Cause.INFRASTRUCTURE)
        else:
            share, ends = 1.0, self._publish
        self._step(self._engine_s * share, ends)

    def _publish(self) -> None:
        self._fence.begin()
        self.progress = max(self.progress, 93.0)
        self._step(self._world.between(5, 300), self._finish)

    def _finish(self) -> None:
        self._fence.finish()
        self._world.outputs.publish(self.task.uuid, self.task.attempt, self.task.first_attempt, self._world.now)
        self._world.say(f"{self._node.id} published {self.task.uuid}#{self.task.attempt}")
        self._end(State.COMPLETED)

    def _fail(self, error: str, cause: Cause) -> None:
        self.error, self.cause = error, cause
        self._end(State.FAILED)

    def _end(self, state: State) -> None:
        if self._engine_from is not None:
            self.processing_ms = int((self._world.now - self._engine_from) * 1000)
        # As `node.runs.task_after`: a run that never reached its engine keeps what it had.
        if state is State.COMPLETED or self._engine_from is not None:
            self.progress = 100.0
        self.state = state
        self._node.ended(self)


class Node:
    """One node of the federation: what it says of itself, its Jobs, its process, its link."""

    def __init__(self, world: World, node_id: str, slots: int, max_images: int | None, memory_gib: int) -> None:
        """`slots`: tasks at once. Its process is to be started."""
        self.world = world
        self.id = node_id
        self.slots = slots
        self.max_images = max_images
        self.memory_bytes = memory_gib * GIB
        self.labels: dict[str, str] = {}
        self.speed = 1.0
        self.flaky = 0.0
        """Share of runs that its machines spoil."""
        self.spoils_s: float | None = None
        """Everything that it is given fails after so many seconds."""
        self.process = Process.DEAD
        self.link = Link()
        self.jobs: dict[str, Job] = {}
        self._life = 0
        self._beat_number = self._ask_number = 0
        self._turns = 0
        self._joined = False
        self._admits = False
        """It has joined since its process began: before, it lets no router in."""
        self._asking = self._has_news = False
        self._quiet_from: float | None = None
        self._inbox: list[Callable[[], None]] = []

    # The process

    def start(self) -> None:
        """The process begins; it finds the Jobs that live."""
        self._life += 1
        self.process = Process.UP
        self._joined = self._admits = self._asking = self._has_news = False
        self._inbox.clear()
        self._beat_in(0.1)

    def die(self, with_jobs: bool) -> None:
        """The process ends; its Jobs too, or they live on."""
        self._life += 1
        self.process = Process.DEAD
        if with_jobs:
            for job in self.jobs.values():
                job.stop()
            self.jobs.clear()

    def hang(self) -> None:
        """The process does nothing; what is sent to it waits."""
        self.process = Process.HUNG

    def resume(self) -> None:
        """The process goes on, and finds what was sent to it."""
        self.process = Process.UP
        inbox, self._inbox = self._inbox, []
        for happens in inbox:
            self.world.later(0.01, happens)
        self._asking = False
        self._beat_in(0.05)

    def evict(self, uuid: str) -> None:
        """A pod is gone; the Job starts another."""
        job = self.jobs.get(uuid)
        if job is not None and job.state is State.RUNNING:
            job.start()

    # What is asked of it

    def take_message(self, happens: Callable[[], None]) -> bool:
        """Something arrives; false when nobody is there to take it."""
        if self.link.is_cut or self.process is Process.DEAD or self.world.random.random() < self.link.loss:
            return False
        if self.process is Process.HUNG:
            life = self._life
            self._inbox.append(lambda: happens() if self._life == life else None)
            return False
        happens()
        return True

    def submit(self, task: Task) -> None:
        """`POST /task/new`: as `node.local_tasks` takes it. Raises `Refusal`."""
        if not self._admits:
            raise Refusal(TOKEN_REFUSED)
        if self.id in self.world.truths[task.uuid].refused_by:
            raise Refusal("its option needs a licence that this node does not have")
        held = self.jobs.get(task.uuid)
        if held is not None:
            if task.attempt < held.task.attempt:
                raise Refusal(f"Task is at attempt {held.task.attempt} here; attempt {task.attempt} is outdated.")
            if task.attempt == held.task.attempt:
                return
            held.stop()
        self.jobs[task.uuid] = Job(self, task)
        self._start_jobs()
        self._news()

    def let_go(self, uuid: str, attempt: int) -> None:
        """End this attempt and forget the task, if that is still its attempt here."""
        job = self.jobs.get(uuid)
        if job is None or job.task.attempt != attempt:
            return
        job.stop()
        del self.jobs[uuid]
        self._start_jobs()

    def ended(self, job: Job) -> None:
        """A Job has come to its end."""
        self.world.say(f"{self.id} {job.task.uuid}#{job.task.attempt} {job.state} {job.cause or ''}")
        self._start_jobs()
        self._news()

    def _start_jobs(self) -> None:
        running = sum(job.state is State.RUNNING for job in self.jobs.values())
        for job in [each for each in self.jobs.values() if each.state is State.QUEUED][: max(0, self.slots - running)]:
            job.start()

    # Heartbeats

    def catch_up(self) -> None:
        """Put the last of the heartbeats that are not simulated on record."""
        if self._quiet_from is None:
            return
        row = self.world.database.nodes[self.id]
        row.heard_at = max(row.heard_at, self.world.now - (self.world.now - self._quiet_from) % BEAT_S)

    def disturb(self) -> None:
        """Simulate every heartbeat, from the next one on."""
        if self._quiet_from is None:
            return
        self.catch_up()
        due = BEAT_S - (self.world.now - self._quiet_from) % BEAT_S
        self._quiet_from = None
        self._beat_in(due)

    def _news(self) -> None:
        if self._asking:
            self._has_news = True
        elif self.process is Process.UP and self._joined:
            self._beat_in(0.05)

    def _beat_in(self, delay_s: float) -> None:
        """The next heartbeat, in place of the one that was due."""
        self._beat_number += 1
        life, number = self._life, self._beat_number

        def beat() -> None:
            # A process that hangs beats when it is resumed.
            if (self._life, self._beat_number) == (life, number) and self.process is Process.UP:
                self._beat()

        self.world.later(delay_s, beat)

    def _beat(self) -> None:
        """Join, or report; what comes of it is known when it is answered, or when nobody answers in time."""
        self.catch_up()
        self._quiet_from = None
        router = self.world.routers[self._turns % len(self.world.routers)]
        if not self._joined:
            self._ask(router, lambda: router.join(self), lambda _: self._was_let_in())
            return
        reports = [job.report() for job in self.jobs.values()]
        heartbeat = Heartbeat.model_construct(
            capacity=Capacity.model_construct(slots=self.slots, direct=0, total_memory_bytes=self.memory_bytes),
            attempts=reports,
        )
        ended = any(report.state in ENDED for report in reports)

        def report() -> HeartbeatAnswer:
            return router.heartbeat(self.id, heartbeat)

        self._ask(router, report, lambda answer: self._obey(answer, ended))
        if not self.link.is_cut and self.world.random.random() < self.link.repeats:
            self.world.later(self.world.between(1, 300), lambda: router.receive(lambda: _unheard(report)))

    def _ask(self, router: "Router", question: Callable[[], A], answered: Callable[[A], None]) -> None:
        world, link, life = self.world, self.link, self._life
        self._asking, self._has_news = True, False
        self._ask_number += 1
        number = self._ask_number

        def is_waiting() -> bool:
            return (self._life, self._ask_number) == (life, number) and self.process is Process.UP

        def failed() -> None:
            if is_waiting():
                self._failed()

        def returned(answer: A) -> None:
            if is_waiting() and not link.is_cut:
                self._ask_number += 1
                self._asking = False
                answered(answer)

        def arrive() -> None:
            if link.is_cut or world.random.random() < link.loss:
                return
            try:
                answer = question()
            except (Away, Refusal):
                world.later(0.05, failed)
            else:
                if world.random.random() >= link.loss:
                    world.later(world.between(0.01, 0.1), lambda: returned(answer))

        if router.is_up:
            world.later(TIMEOUT_S, failed)
            world.later(world.between(0.01, 0.1), lambda: router.receive(arrive))
        else:
            world.later(0.05, failed)

    def _was_let_in(self) -> None:
        self._joined = self._admits = True
        self._beat_in(0.02)

    def _failed(self) -> None:
        """Another replica is tried at once, the same one again after a while; which of them it is, it joins anew."""
        self._ask_number += 1
        self._asking = self._joined = False
        self._turns += 1
        self._beat_in(0.05 if self._turns % len(self.world.routers) else self.world.between(2, 15))

    def _obey(self, answer: HeartbeatAnswer, has_ended: bool) -> None:
        for key in answer.stop:
            self.world.say(f"{self.id} lets go of {key.uuid}#{key.attempt}")
            self.let_go(key.uuid, key.attempt)
        if self._has_news:
            self._beat_in(0.02)
        elif has_ended or self.link.loss or self.link.repeats or self.world.database.is_away:
            self._beat_in(BEAT_S)
        else:
            self._quiet_from = self.world.now
            self._beat_in(self.world.between(*QUIET_S))


def _unheard(question: Callable[[], object]) -> None:
    """A message whose answer nobody waits for."""
    with suppress(Away, Refusal):
        question()
