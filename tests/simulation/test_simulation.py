"""Thousands of hours of a federation in which anything may break; and proof that a broken decision would be seen."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from common.federation import AttemptReport
from common.tasks import ENDED, State, Task
from router.lifecycle import Held, Ruling, patience, reported
from tests.common.nodeodm.test_messages import task
from tests.simulation.faults import Fault
from tests.simulation.invariants import Violation
from tests.simulation.nodes import Node
from tests.simulation.router import Router
from tests.simulation.run import Failed, simulate
from tests.simulation.world import TaskRow, Truth, World

SEEDS = 48
HOURS = 30.0
"""Of each seed, with faults; a dozen more go by until everything has ended."""
SEEDS_TO_FIND = 4
FIND_HOURS = 15.0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_i1_to_i7_and_i11_hold_whatever_breaks(seed: int) -> None:
    """Every kind of fault, at random; everything ends as it should."""
    ran = simulate(seed, HOURS)
    assert ran.tally.hours >= HOURS
    assert ran.tally.completed > 0
    assert ran.tally.faults > 0


def test_the_same_seed_is_the_same_run() -> None:
    """To the letter; another seed is another run."""
    first, second, other = simulate(7, 10.0), simulate(7, 10.0), simulate(8, 10.0)
    assert (first.digest, first.tally) == (second.digest, second.tally)
    assert first.digest != other.digest


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_breaks_nothing_is_lost(seed: int) -> None:
    """False alarms cost more than late ones."""
    ran = simulate(seed, 20.0, frozenset())
    assert ran.tally.completed > 0
    assert {"lost with its node", "adopt", "quarantined"}.isdisjoint(ran.tally.happened), ran.tally


def test_a_failure_names_its_seed_and_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last events."""
    monkeypatch.setattr("tests.simulation.router.ruling", _take_all)
    with pytest.raises(Failed, match=r"seed 0: I2: ") as caught:
        simulate(0, FIND_HOURS, {Fault.CUT_OFF, Fault.NODE_PROCESS_DIES})
    assert "python -m tests.simulation --seed 0 --hours 15 --trace" in str(caught.value)
    assert "places t" in str(caught.value)


# Planted faults: each is found, by the invariant that it breaks


def _take_all(_: Task, __: AttemptReport) -> Ruling:
    return Ruling.TAKE


def _lose_without_listening(held: Iterable[Held], silences: Mapping[str, timedelta], _: object) -> list[Held]:
    endless = timedelta.max
    return [each for each in held if silences.get(each.node_id, endless) > patience(each.worked)]


def _progress_goes_back(task: Task, report: AttemptReport, now_ms: int) -> Task:
    return replace(reported(task, report, now_ms), progress=report.progress)


MUTATIONS: dict[str, tuple[dict[str, object], Collection[Fault], set[str]]] = {
    "every report counts": (
        {"tests.simulation.router.ruling": _take_all},
        {Fault.CUT_OFF, Fault.NODE_PROCESS_DIES},
        {"I2", "MoveRefused"},
    ),
    "the router never suspects itself": (
        {"tests.simulation.router.lost": _lose_without_listening, "tests.simulation.router.is_deaf": lambda _: False},
        {Fault.ALL_CUT_OFF},
        {"I11"},
    ),
    "everybody may publish": (
        {
            "common.fencing.check": lambda *_: None,
            "common.fencing.Fence._is_ours": lambda *_: None,
        },
        {Fault.CUT_OFF, Fault.NODE_PROCESS_DIES},
        {"I2"},
    ),
    "slots are not counted": (
        {"router.placement.closed": lambda *_: ""},
        frozenset(),
        # The router counts once more when it writes: what was placed too much waits although a slot is free.
        {"I4", "I5"},
    ),
    "every node fits": (
        {"router.placement.misfit": lambda *_: ""},
        frozenset(),
        {"I4"},
    ),
    "one node is never chosen": (
        {"router.placement.misfit": lambda _, node: "no" if node.id == "n0" else ""},
        frozenset(),
        {"I3", "I4", "I5"},
    ),
    "what is lost stays lost": (
        {"tests.simulation.router.lost": lambda *_: [], "tests.simulation.router.absent_since": lambda *_: {}},
        {Fault.NODE_REMOVED},
        {"I3"},
    ),
    "what is lost is given up": (
        {"tests.simulation.router.retried": lambda *_: None},
        {Fault.NODE_DIES},
        {"I3"},
    ),
    "progress is whatever comes": (
        {"tests.simulation.router.reported": _progress_goes_back},
        {Fault.REPEATED},
        {"I6"},
    ),
    "what a node has forgotten is waited for": (
        {"tests.simulation.router.absent_since": lambda *_: {}},
        {Fault.NODE_FORGETS},
        {"I3"},
    ),
    "whoever is heard first condemns the others": (
        {"tests.simulation.router.is_deaf": lambda _: False},
        {Fault.ALL_CUT_OFF},
        {"I11"},
    ),
    "a task forgets that it has begun": (
        {"tests.simulation.router.requeued": lambda task: replace(task, state=State.QUEUED, begun=False)},
        {Fault.NODE_HANGS, Fault.LOSSY},
        {"I6"},
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator can fail, and says which invariant is broken."""
    changes, faults, invariants = MUTATIONS[name]
    for place, wrong in changes.items():
        monkeypatch.setattr(place, wrong)
    assert find(faults) in invariants


def test_a_restart_after_a_late_original_won_numbers_its_attempts_anew() -> None:
    """Attempt 1 finishes while attempt 2 has its place; 2 stays on record, so a restart must not make it again."""
    world = _small_world()
    world.nodes["n0"].start()
    world.run(50)
    world.truths["t"] = Truth(seconds=300.0)
    world.routers[0].submit(task(uuid="t", state=State.STAGING, input_bytes=1))
    row = _until(world, lambda row: row.task.state is State.RUNNING)
    world.disturb()
    world.nodes["n0"].link.is_cut = True
    world.nodes["n1"].start()
    _until(world, lambda row: row.task.attempt == 2)
    world.nodes["n1"].hang()
    world.nodes["n0"].link.is_cut = False
    _until(world, lambda row: row.task.state is State.COMPLETED)
    assert row.task.attempt == 1
    world.nodes["n1"].resume()
    world.routers[0].restart("t")
    _until(world, lambda row: row.task.state is State.COMPLETED)
    assert row.task.attempt == 3


def test_a_node_that_has_just_been_started_again_refuses_nobody_for_ever() -> None:
    """A task comes before its node has joined again: the only one, which lets no router in yet."""
    world = _small_world()
    world.nodes["n0"].start()
    world.run(50)
    world.disturb()
    world.nodes["n0"].die(with_jobs=False)
    world.nodes["n0"].start()
    world.truths["t"] = Truth(seconds=300.0)
    world.routers[0].submit(task(uuid="t", state=State.STAGING, input_bytes=1))
    row = _until(world, lambda row: row.task.state in ENDED)
    assert row.task.state is State.COMPLETED


def _small_world() -> World:
    world = World(1)
    world.routers.append(Router(world, "router0", {}, {}))
    for name in ("n0", "n1"):
        world.nodes[name] = Node(world, name, 1, None, 64)
    world.routers[0].start()
    return world


def _until(world: World, wanted: Callable[[TaskRow], bool]) -> TaskRow:
    row = world.database.tasks["t"]
    while not wanted(row):
        assert world.now < 10_000, row.task
        world.run(world.now + 0.004)
    return row


def find(faults: Collection[Fault]) -> str | None:
    """What the first failure of some seeds breaks; None where none fails."""
    for seed in range(SEEDS_TO_FIND):
        try:
            simulate(seed, FIND_HOURS, faults)
        except Failed as failed:
            trouble = failed.trouble
            return trouble.invariant if isinstance(trouble, Violation) else type(trouble).__name__
    return None
