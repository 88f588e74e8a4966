"""Which node takes a task, and why the others do not (design 7)."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.lifecycle import Health
from router.placement import MOST_REASONS, Fleet, Need, NodeState, affordable, can_ever_fit, choose, hopeless, why_never

GIB = 2**30


def node(name: str = "a", **changes: object) -> NodeState:
    """A healthy empty node of two slots."""
    plain = NodeState(name, name, Health.HEALTHY, slots=2, options=frozenset({"dsm", "dtm"}), free_memory_bytes=8 * GIB)
    return replace(plain, **changes)  # type: ignore[arg-type]


NEED = Need(100)


def test_the_least_loaded_node_takes_the_task() -> None:
    """By the share of its slots that stays free."""
    busy, idle, large = node("busy", placed=1), node("idle"), node("large", slots=8, placed=3)
    choice = choose(NEED, [busy, idle, large], 0.5)
    assert choice.node_id == "idle" or choice.node_id == "large"
    assert choose(NEED, [busy, idle], 0.0).node_id == "idle"
    assert choose(NEED, [busy, idle], 0.0).text == ("idle was the least loaded of 2 fitting nodes: 2 of 2 slots free")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"health": Health.LATE}, "its heartbeat is late"),
        ({"draining": True}, "it is draining"),
        ({"locked": True}, "it is locked by an administrator"),
        ({"quarantine": "it rests"}, "it rests"),
        ({"on_probation": True, "placed": 1}, "it is on probation after a quarantine, and has its one task"),
        ({"placed": 1, "direct": 1}, "all 2 slots are taken (1 by this router, 1 directly)"),
        ({"max_images": 99}, "it takes at most 99 images, the task has 100"),
        ({"options": frozenset()}, "its engine has no option dsm"),
    ],
)
def test_every_reason_against_a_node_is_told(changes: dict[str, object], text: str) -> None:
    """By the name of the node."""
    choice = choose(Need(100, options=frozenset({"dsm"})), [node("a", **changes)], 0.0)
    assert choice.node_id is None
    assert choice.reasons[0].text == text
    assert choice.text == f"no node can take it now: a: {text}"


def test_a_node_that_could_not_be_reached_is_avoided_for_a_while() -> None:
    """While another fits, and also when none does: it is tried again later."""
    need = replace(NEED, resting=frozenset({"a"}))
    assert choose(need, [node("a"), node("b", placed=1)], 0.0).node_id == "b"
    assert choose(need, [node("a")], 0.0).node_id is None
    assert can_ever_fit(need, [node("a")])


@pytest.mark.parametrize(
    ("need", "text"),
    [
        (Need(only=frozenset({"b", "c"})), "the task is to run on b, c"),
        (Need(avoid=frozenset({"a"})), "the task is not to run here"),
        (Need(labels=frozenset({("region", "eu")})), "it lacks the label region=eu"),
        (Need(refused=frozenset({("a", "no GPU here")})), "it refused the task: no GPU here"),
    ],
)
def test_a_task_pins_and_avoids_nodes(need: Need, text: str) -> None:
    """By name or label; and a node that refused it is not asked again."""
    assert choose(need, [node("a", labels={"region": "us"})], 0.0).reasons[0].text == text
    other = node("b", labels={"region": "eu"})
    assert choose(need, [node("a", labels={"region": "us"}), other], 0.0).node_id == "b"


def test_a_task_that_ran_out_of_memory_goes_where_there_is_more() -> None:
    """By the node's own limits at that factor; where it told none, to a larger machine."""
    need = Need(100, memory_factor=1.5, more_memory_than=32 * GIB)
    jobs = node("jobs", max_images_at={1.5: 80, 2.25: 40})
    assert "at most 80 images with 1.5 times the memory" in choose(need, [jobs], 0.0).reasons[0].text
    assert choose(replace(need, images_count=80), [jobs], 0.0).node_id == "jobs"
    small, large = node("small", total_memory_bytes=32 * GIB), node("large", total_memory_bytes=64 * GIB)
    assert choose(need, [small, large], 0.0).node_id == "large"
    assert "its 32 GiB of memory are no more than the 32 GiB" in choose(need, [small], 0.0).reasons[0].text


def test_a_node_that_was_faster_goes_first_among_equals() -> None:
    """But not before one with more room."""
    assert choose(NEED, [node("slow", speed=0.5), node("fast", speed=2.0)], 0.9).node_id == "fast"
    assert choose(NEED, [node("idle"), node("fast", speed=2.0, placed=1)], 0.0).node_id == "idle"


def test_of_many_nodes_the_reasons_are_counted() -> None:
    """A thousand lines would explain nothing."""
    fleet = [node(str(place), draining=True) for place in range(1000)]
    choice = choose(NEED, fleet, 0.0)
    assert (len(choice.reasons), dict(choice.others)) == (MOST_REASONS, {"it is draining": 1000 - MOST_REASONS})
    assert choice.document()[-1]["node"] == f"{1000 - MOST_REASONS} more"


def test_near_ties_are_settled_by_chance() -> None:
    """Always taking the first would herd."""
    nodes = [node(name) for name in "abcd"]
    assert {choose(NEED, nodes, tie / 4).node_id for tie in range(4)} == {"a", "b", "c", "d"}


def test_a_task_that_nobody_can_ever_take_is_told_so() -> None:
    """In NodeODM's words where it is about images (contract 2.12)."""
    small = [node("a", max_images=10), node("b", max_images=50)]
    assert not can_ever_fit(NEED, small)
    assert why_never(NEED, small) == "100 images uploaded, but this node can only process up to 50."
    demanding = Need(1, options=frozenset({"tiles"}))
    assert "a: its engine has no option tiles" in why_never(demanding, [node("a")])
    assert can_ever_fit(NEED, [node("a", health=Health.LOST, placed=2)]), "it may come back"


states = st.builds(
    node,
    name=st.sampled_from("abcdefgh"),
    health=st.sampled_from(Health),
    draining=st.booleans(),
    slots=st.integers(1, 8),
    placed=st.integers(0, 9),
    direct=st.integers(0, 3),
    max_images=st.none() | st.integers(1, 200),
)


@given(st.lists(states, max_size=8, unique_by=lambda each: each.id), st.floats(0, 1, exclude_max=True))
def test_only_a_node_that_fits_is_ever_taken(nodes: list[NodeState], tie: float) -> None:
    """I4; and I5: one is taken whenever one fits."""
    choice = choose(NEED, nodes, tie)
    fitting = {
        each.id
        for each in nodes
        if each.health is Health.HEALTHY
        and not each.draining
        and each.placed + each.direct < each.slots
        and (each.max_images or 100) >= 100
    }
    assert (choice.node_id in fitting) if fitting else (choice.node_id is None)
    assert len(choice.reasons) == len(nodes)
    assert all(reason.text for reason in choice.reasons)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(0, 60))
def test_placing_one_by_one_fills_every_slot_and_no_more(slots: list[int], tasks: int) -> None:
    """I4, I5 over a whole queue."""
    fleet = Fleet([node(str(place), slots=count) for place, count in enumerate(slots)])
    taken: Counter[str] = Counter()
    for _ in range(tasks):
        choice = fleet.choose(NEED, 0.0)
        if choice.node_id is not None:
            fleet.take(choice.node_id)
            taken[choice.node_id] += 1
    assert taken.total() == min(tasks, sum(slots))
    assert fleet.free_slots == sum(slots) - taken.total()
    assert all(taken[each.id] <= each.slots for each in fleet.nodes)


def test_a_choice_needs_a_slot_on_record() -> None:
    """The first come first; a node that is full takes none, and others are not held up by it."""
    chosen = [("t", "a"), ("u", "b"), ("v", "a"), ("w", "b"), ("x", "c")]
    assert affordable(chosen, {"a": 1, "b": 2, "c": -1}) == ["t", "u", "w"]


def test_of_those_without_hope_only_so_many_are_told_at_once() -> None:
    """A node that rests will take a task again; without any node nothing is known."""
    nodes = [node("a")]
    nowhere, resting = Need(2, only=frozenset({"z"})), Need(2, resting=frozenset({"a"}))
    told = hopeless([("t", nowhere), ("u", resting), ("v", nowhere), ("w", nowhere)], nodes, 2)
    assert list(told) == ["t", "v"]
    assert "the task is to run on z" in told["t"]
    assert hopeless([("t", nowhere)], [], 2) == {}
