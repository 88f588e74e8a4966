"""Properties of the router's pure decisions, and of a task's whole life (hypothesis)."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.federation import AttemptReport
from common.tasks import ACTIVE, ENDED, WAITING, Cause, Code, State, Task, again, canceled, check_move
from router.estimates import Estimate, Estimates, Finished
from router.fairness import LONGEST_WAIT_S, Waiting, order
from router.forecast import outlooks
from router.lifecycle import (
    BUDGETS,
    FREE,
    LATE_AFTER,
    LOST_AFTER,
    LOST_AFTER_MOST,
    QUARANTINE,
    QUARANTINE_MOST,
    Health,
    Held,
    Ruling,
    adopted,
    failed,
    given_up,
    health,
    lost,
    patience,
    placed,
    quarantine,
    reported,
    requeued,
    retried,
    ruling,
)
from router.placement import Fleet, Need, NodeState, can_ever_fit, closed, misfit
from tests.common.nodeodm.test_messages import task

NAMES = ("a", "b", "c", "d")
QUICK = settings(max_examples=80, deadline=None)


@st.composite
def nodes(draw: st.DrawFn) -> list[NodeState]:
    """A fleet in any condition."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return [
        NodeState(
            id=f"id-{name}",
            name=name,
            health=draw(st.sampled_from(Health)),
            slots=draw(st.integers(1, 4)),
            placed=draw(st.integers(0, 5)),
            direct=draw(st.integers(0, 2)),
            draining=draw(st.booleans()),
            locked=draw(st.booleans()),
            quarantine=draw(st.sampled_from(["", "", "it rests"])),
            on_probation=draw(st.booleans()),
            max_images=draw(st.none() | st.integers(1, 500)),
            total_memory_bytes=draw(st.integers(0, 2**40)),
            free_memory_bytes=draw(st.integers(0, 2**40)),
            options=frozenset(draw(st.sets(st.sampled_from(["dsm", "dtm"])))),
            labels=draw(st.dictionaries(st.just("region"), st.sampled_from(["eu", "us"]))),
            speed=draw(st.floats(0.01, 100)),
        )
        for name in names
    ]


NEEDS = st.builds(
    Need,
    images_count=st.integers(0, 600),
    options=st.frozensets(st.sampled_from(["dsm", "dtm"])),
    memory_factor=st.sampled_from([1.0, 1.5, 2.25]),
    more_memory_than=st.integers(0, 2**40),
    only=st.frozensets(st.sampled_from(NAMES)),
    avoid=st.frozensets(st.sampled_from(NAMES), max_size=2),
    labels=st.sampled_from([frozenset(), frozenset({("region", "eu")})]),
    refused=st.sampled_from([frozenset(), frozenset({("id-a", "no")})]),
    resting=st.frozensets(st.sampled_from([f"id-{name}" for name in NAMES]), max_size=2),
)
TIES = st.floats(0, 1, exclude_max=True)


# Placement


@QUICK
@given(nodes(), st.lists(st.tuples(NEEDS, TIES), max_size=12))
def test_i4_placement_never_fills_a_node_beyond_its_slots_nor_takes_one_that_does_not_fit(
    fleet_nodes: list[NodeState], asked: list[tuple[Need, float]]
) -> None:
    """However many tasks come, one after the other."""
    fleet, taken = Fleet(fleet_nodes), Counter[str]()
    by_id = {node.id: node for node in fleet_nodes}
    for need, tie in asked:
        choice = fleet.choose(need, tie)
        could = [
            node
            for node in fleet_nodes
            if node.id not in need.resting and not closed(node, node.used + taken[node.id]) and not misfit(need, node)
        ]
        assert (choice.node_id is not None) == bool(could)
        if choice.node_id is None:
            continue
        node = by_id[choice.node_id]
        fleet.take(node.id)
        taken[node.id] += 1
        assert node.health is Health.HEALTHY
        assert not any((node.draining, node.locked, node.quarantine))
        assert node.used + taken[node.id] <= node.slots
        assert not node.on_probation or node.used + taken[node.id] <= 1
        assert node.max_images is None or need.images_count <= node.max_images
        assert need.options <= node.options
        assert node.name not in need.avoid
        assert not need.only or node.name in need.only
        assert node.id not in need.resting
        assert can_ever_fit(need, fleet_nodes)


@QUICK
@given(nodes(), NEEDS, TIES)
def test_i5_placement_finds_a_node_wherever_there_is_one(fleet_nodes: list[NodeState], need: Need, tie: float) -> None:
    """A task waits only while none that fits has a free slot, or while all of them rest."""
    usable = [
        node.id
        for node in fleet_nodes
        if not closed(node, node.used) and not misfit(need, node) and node.id not in need.resting
    ]
    chosen = Fleet(fleet_nodes).choose(need, tie).node_id
    assert (chosen in usable) if usable else (chosen is None)


@QUICK
@given(nodes(), NEEDS, TIES)
def test_every_node_has_a_reason(fleet_nodes: list[NodeState], need: Need, tie: float) -> None:
    """Placement explains itself; the chosen one stands first."""
    choice = Fleet(fleet_nodes).choose(need, tie)
    assert sorted(reason.node for reason in choice.reasons) == sorted(node.name for node in fleet_nodes)
    assert all(reason.text for reason in choice.reasons)
    if choice.node_id is not None:
        assert f"id-{choice.reasons[0].node}" == choice.node_id


@QUICK
@given(nodes())
def test_free_slots_are_what_can_be_taken(fleet_nodes: list[NodeState]) -> None:
    """No fewer, no more."""
    fleet = Fleet(fleet_nodes)
    free = fleet.free_slots
    for _ in range(free):
        chosen = fleet.choose(Need(), 0.5).node_id
        if chosen is None:
            break  # a node may have free slots and not fit
        before = fleet.free_slots
        fleet.take(chosen)
        assert fleet.free_slots == before - 1
    assert fleet.choose(Need(), 0.5).node_id is None or fleet.free_slots > 0


# Fairness

WAITING_TASKS = st.lists(
    st.builds(
        Waiting,
        uuid=st.uuids().map(str),
        tenant=st.sampled_from("xyz"),
        waited_s=st.floats(0, 10 * 3600),
        estimate_s=st.floats(1, 50_000),
        priority=st.integers(0, 2),
        child=st.booleans(),
        parent_waited_s=st.floats(0, 20 * 3600),
    ),
    max_size=30,
    unique_by=lambda each: each.uuid,
)
HELD = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9))
WEIGHTS = st.dictionaries(st.sampled_from("xyz"), st.floats(0.1, 10))


@QUICK
@given(WAITING_TASKS, HELD, WEIGHTS, st.randoms(use_true_random=False))
def test_the_order_is_a_permutation_and_the_same_on_every_replica(
    waiting: list[Waiting], held: dict[str, int], weights: dict[str, float], dice: object
) -> None:
    """In whatever order a replica holds the tasks."""
    found = order(waiting, held, weights)
    assert sorted(each.uuid for each in found) == sorted(each.uuid for each in waiting)
    shuffled = list(waiting)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert order(shuffled, held, weights) == found


@QUICK
@given(WAITING_TASKS, HELD, WEIGHTS)
def test_priority_goes_first_and_nobody_is_passed_for_ever(
    waiting: list[Waiting], held: dict[str, int], weights: dict[str, float]
) -> None:
    """Who has waited longer than the bound is passed by no whole task of its tenant and priority that came later."""
    found = order(waiting, held, weights)
    assert [each.priority for each in found] == sorted((each.priority for each in found), reverse=True)
    for place, each in enumerate(found):
        ahead = [one for one in found[:place] if (one.tenant, one.priority) == (each.tenant, each.priority)]
        if each.waited_s > LONGEST_WAIT_S and not each.child:
            assert all(one.child or one.waited_s >= each.waited_s for one in ahead)


@QUICK
@given(WAITING_TASKS, HELD, WEIGHTS)
def test_parts_go_before_their_tenants_whole_tasks(
    waiting: list[Waiting], held: dict[str, int], weights: dict[str, float]
) -> None:
    """Design 4.5: of one tenant and priority no new parent stands before a part of one that holds a slot."""
    found = order(waiting, held, weights)
    for place, each in enumerate(found):
        ahead = [one for one in found[:place] if (one.tenant, one.priority) == (each.tenant, each.priority)]
        assert not each.child or all(one.child for one in ahead)


@QUICK
@given(st.integers(1, 40), st.integers(0, 9))
def test_no_tenant_is_starved_by_anothers_many_tasks(many: int, held: int) -> None:
    """A newcomer's one task stands no further back than what its rival holds less."""
    flood = [Waiting(f"m{number}", "many", 3600.0 + number) for number in range(many)]
    found = order([*flood, Waiting("one", "newcomer", 0.0)], {"many": held})
    assert [each.uuid for each in found].index("one") <= (1 if held == 0 else 0)


# Patience, health, budgets

SPANS = st.timedeltas(timedelta(0), timedelta(days=30))


@QUICK
@given(SPANS, SPANS)
def test_patience_grows_with_the_work_and_is_bounded(one: timedelta, other: timedelta) -> None:
    """Design 6."""
    less, more = sorted((one, other))
    assert LOST_AFTER <= patience(less) <= patience(more) <= LOST_AFTER_MOST


@QUICK
@given(SPANS, SPANS)
def test_health_only_gets_worse_with_silence(one: timedelta, other: timedelta) -> None:
    """Healthy, late, lost."""
    grades = [Health.HEALTHY, Health.LATE, Health.LOST]
    less, more = sorted((one, other))
    assert grades.index(health(less)) <= grades.index(health(more))


@QUICK
@given(
    st.dictionaries(st.sampled_from(NAMES), SPANS, min_size=1), st.lists(st.tuples(SPANS, st.booleans()), max_size=8)
)
def test_i11_nothing_is_given_up_while_nobody_is_heard_and_only_what_is_silent_otherwise(
    silences: dict[str, timedelta], attempts: list[tuple[timedelta, bool]]
) -> None:
    """A node that is of the federation keeps what it has for at least the lost time."""
    held = [
        Held(f"t{number}", 1, NAMES[number % len(NAMES)], worked, replaceable)
        for number, (worked, replaceable) in enumerate(attempts)
    ]
    found = lost(held, silences)
    if min(silences.values()) > LATE_AFTER:
        assert found == []
    for each in found:
        if each.node_id in silences:
            assert each.replaceable
            assert silences[each.node_id] > LOST_AFTER


@QUICK
@given(st.sampled_from(Cause) | st.none(), st.lists(st.sampled_from(Cause), max_size=12))
def test_i3_a_task_is_tried_again_within_its_budget_and_what_cost_nothing_always(
    cause: Cause | None, earlier: list[Cause]
) -> None:
    """What is tried again is shown as 20 (I6) and has nothing of the failure left."""
    current = replace(placed(task(state=State.QUEUED), 1), error="why")
    after = retried(current, cause, earlier)
    allowed = cause in FREE or (cause is not None and earlier.count(cause) < BUDGETS.get(cause, 0))
    assert (after is not None) == allowed
    if after is not None:
        assert (after.state, after.code, after.error) == (State.QUEUED, Code.RUNNING, None)
        assert after.memory_factor == current.memory_factor * (1.5 if cause is Cause.MEMORY else 1.0)


@QUICK
@given(st.integers(0, 10_000))
def test_quarantine_never_gets_shorter_and_is_bounded(times: int) -> None:
    """However often."""
    assert QUARANTINE <= quarantine(times) <= quarantine(times + 1) <= QUARANTINE_MOST


# Estimates and outlooks

RUNS = st.lists(
    st.builds(
        Finished,
        node_id=st.sampled_from(NAMES),
        engine=st.just("odm"),
        options=st.sampled_from(["", "dsm=true"]),
        images_count=st.integers(0, 5_000),
        seconds=st.just(0.0) | st.floats(0.1, 1e6),
    ),
    max_size=30,
)


@QUICK
@given(RUNS, st.integers(0, 5_000))
def test_estimates_are_ranges_around_their_middle(runs: list[Finished], images_count: int) -> None:
    """Whatever was learned; nothing where nothing was; larger tasks take longer."""
    estimates = Estimates()
    for run in runs:
        estimates.learn(run)
    found = estimates.predict(images_count, "", "odm", "a")
    useful = [run for run in runs if run.seconds > 0 and run.images_count > 0]
    assert (found is not None) == bool(useful)
    if found is not None:
        assert 0 < found.low <= found.seconds <= found.high
        larger = estimates.predict(images_count + 1, "", "odm", "a")
        assert larger is not None
        assert larger.seconds > found.seconds
        times = [run.seconds / (run.images_count + 10) for run in useful]
        assert min(times) * 0.999 <= found.seconds / (images_count + 10) <= max(times) * 1.001
    assert estimates.speed("a", "odm") > 0


ESTIMATES = st.none() | st.tuples(st.floats(1, 1e5), st.floats(1, 3)).map(
    lambda drawn: Estimate(drawn[0], drawn[0] / drawn[1], drawn[0] * drawn[1], 3)
)


@QUICK
@given(
    st.lists(ESTIMATES, max_size=15),
    st.lists(st.tuples(ESTIMATES, st.floats(0, 1e5)), max_size=8),
    st.integers(0, 8),
)
def test_outlooks_are_honest_ranges_in_the_order_of_the_queue(
    estimates: list[Estimate | None], running: list[tuple[Estimate | None, float]], slots: int
) -> None:
    """The low end is no later than the high one; who stands further back starts no earlier."""
    queue = [f"t{number}" for number in range(len(estimates))]
    found = outlooks(queue, dict(zip(queue, estimates, strict=True)), running, slots)
    assert [found[uuid].position for uuid in queue] == list(range(1, len(queue) + 1))
    for each in found.values():
        assert each.text()
        if each.low_s is not None and each.high_s is not None:
            assert 0 <= each.low_s <= each.high_s
    for ends in ([each.low_s for each in found.values()], [each.high_s for each in found.values()]):
        known = [end for end in ends if end is not None]
        assert known == sorted(known)
        assert ends[len(known) :] == [None] * (len(ends) - len(known)), "what nobody knows stands at the end"


# A task's whole life


class Life(RuleBasedStateMachine):
    """One task, its router's row, and what its nodes hold; messages may come late, twice, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000
        self.task: Task = task(state=State.STAGING)
        self.causes: list[Cause] = []
        self.numbers: set[int] = set()
        self.sent: list[AttemptReport] = []
        """Every report that a node ever made: any of them may arrive, again and again."""
        self.jobs: dict[int, AttemptReport] = {}
        self.is_canceled = False
        self.history: list[Task] = []

    def become(self, after: Task) -> None:
        """As a row takes it."""
        check_move(after.uuid, self.task.state, after.state)
        self.now_ms += 1_000
        self.task = after
        self.history.append(after)

    @initialize(child=st.booleans())
    def submit(self, child: bool) -> None:
        """A client submits."""
        self.become(task(state=State.STAGING, child=child))

    @precondition(lambda self: self.task.state is State.STAGING)
    @rule()
    def show_waiting(self) -> None:
        """It was surveyed, and found no slot."""
        self.become(replace(self.task, state=State.QUEUED, images_count=9, input_bytes=9))

    @precondition(lambda self: self.task.state in WAITING)
    @rule()
    def place(self) -> None:
        """A slot is reserved."""
        number = max([self.task.attempt, *self.numbers]) + 1
        self.become(placed(self.task, number))
        self.numbers.add(number)

    @precondition(lambda self: self.task.state is State.PLACED)
    @rule(answered=st.booleans())
    def deliver(self, answered: bool) -> None:
        """The node takes it; its answer may be lost, and the slot with it."""
        number = self.task.attempt
        self.jobs.setdefault(number, AttemptReport(uuid="u", attempt=number, state=State.QUEUED))
        if not answered:
            self.causes.append(Cause.UNDELIVERED)
            self.become(requeued(self.task))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), more=st.floats(0, 50), end=st.sampled_from([None, None, *ENDED]))
    def work(self, data: st.DataObject, more: float, end: State | None) -> None:
        """A run gets on, or comes to its end; its node tells."""
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[number]
        if job.state not in ENDED:
            cause = data.draw(st.sampled_from(Cause)) if end is State.FAILED else None
            done = 100.0 if end is State.COMPLETED else min(99.0, job.progress + more)
            change = {"state": end or State.RUNNING, "progress": done, "processing_ms": 7, "cause": cause}
            self.jobs[number] = job.model_copy(update=change)
        self.sent.append(self.jobs[number])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        """Some report arrives: the newest, or an old one once more."""
        report = data.draw(st.sampled_from(self.sent))
        match ruling(self.task, report):
            case Ruling.STOP:
                self.jobs.pop(report.attempt, None)
                return
            case Ruling.TAKE:
                current = self.task
            case Ruling.ADOPT | Ruling.ADOPT_RESULT:
                current = adopted(self.task, report.attempt)
        after = reported(current, report, self.now_ms)
        if after.state in ENDED:
            self.jobs.pop(report.attempt, None)
        if after.state is State.FAILED:
            again_ = retried(after, report.cause, self.causes) if report.state is State.FAILED else None
            self.causes += [report.cause] if report.cause is not None else []
            after = again_ or replace(after, error=given_up(after.error or "it failed", self.causes))
        if current is not self.task:
            check_move("u", self.task.state, current.state)
            self.task = current
        self.become(after)

    @precondition(lambda self: self.task.state in ACTIVE)
    @rule()
    def lose(self) -> None:
        """Its node is silent for too long."""
        after = retried(self.task, Cause.LOST, self.causes)
        self.causes.append(Cause.LOST)
        self.become(after or failed(self.task, given_up("Its node is lost", self.causes)))

    @rule()
    def cancel(self) -> None:
        """A user cancels, whatever it does."""
        if self.task.state is not State.CANCELED:
            self.become(canceled(self.task))
        self.is_canceled = True

    @precondition(lambda self: self.task.state in ENDED)
    @rule()
    def restart(self) -> None:
        """A user restarts."""
        last = max([self.task.attempt, *self.numbers])
        self.causes.clear()
        self.is_canceled = False
        self.become(again(self.task, last, last + 1, self.now_ms))
        self.history = [self.task]

    @invariant()
    def i2_the_current_attempt_is_of_this_run(self) -> None:
        """I2: what runs is one of the attempts since the last restart."""
        if self.task.state in ACTIVE:
            assert self.task.first_attempt <= self.task.attempt
            assert self.task.attempt in self.numbers

    @invariant()
    def i3_whoever_failed_has_a_reason(self) -> None:
        """I3."""
        assert self.task.state is not State.FAILED or self.task.error

    @invariant()
    def i6_the_code_is_never_ten_again(self) -> None:
        """I6, within a run."""
        codes = [each.code for each in self.history if each.begun]
        assert Code.QUEUED not in codes

    @invariant()
    def i6_progress_never_goes_back(self) -> None:
        """I6, within an attempt."""
        for before, after in zip(self.history, self.history[1:], strict=False):
            if before.attempt == after.attempt and after.begun:
                assert before.progress <= after.progress

    @invariant()
    def i7_cancel_wins(self) -> None:
        """I7: whatever still arrives."""
        assert not self.is_canceled or self.task.state is State.CANCELED


def test_i2_i3_i6_i7_hold_over_the_whole_life_of_a_task() -> None:
    """Submit, place, deliver, report, lose, adopt, cancel, restart, in any order."""
    run_state_machine_as_test(Life, settings=settings(max_examples=120, stateful_step_count=40, deadline=None))
