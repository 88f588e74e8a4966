"""Which node takes a task, and why the others do not (design 7). Pure.

Filter, score, a random pick among near-ties; why each node was or was not taken is kept. What a node says of itself is
hearsay: its free slots are counted from what we placed there ourselves, plus the direct tasks it reports.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from router.lifecycle import Health

NEAR_TIE = 0.05
"""Scores that differ by less are as good as each other; always taking the first would herd."""
MOST_REASONS = 20
"""Nodes whose reasons are told one by one; of the others only how many have the same reason."""
WORKSPACE_BONUS = 2.0
"""What a kept workspace weighs for a task that asks to go on in it: more than any load, for it saves hours; but it only
prefers among nodes that have a slot. Beginning at the start somewhere is better than waiting for nobody knows what."""
SPEED_SHARE = 0.2
"""What a node's speed weighs beside its load: one that is twice as fast is worth a tenth of its slots."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as placement sees it."""

    id: str
    name: str
    health: Health
    slots: int
    placed: int = 0
    """Slots that our own placed and running tasks hold."""
    direct: int = 0
    """Slots that tasks hold which came to the node directly."""
    draining: bool = False
    locked: bool = False
    quarantine: str = ""
    """Why it gets no work for a while, after failing it again and again."""
    on_probation: bool = False
    """Its quarantine is over, and it has not done well since: it gets one task at a time."""
    max_images: int | None = None
    max_images_at: Mapping[float, int] = field(default_factory=dict)
    """The same when a task is given so many times the usual memory."""
    total_memory_bytes: int = 0
    free_memory_bytes: int = 0
    options: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    speed: float = 1.0
    """How fast it is beside others of its engine, as far as was seen."""

    @property
    def used(self) -> int:
        """Slots taken."""
        return self.placed + self.direct

    @property
    def open_slots(self) -> int:
        """Slots that it may use now."""
        return min(self.slots, 1) if self.on_probation else self.slots


@dataclass(frozen=True, slots=True)
class Need:
    """What a task asks of a node. Equal needs are judged once."""

    images_count: int = 0
    options: frozenset[str] = frozenset()
    """Names of the options that the client set."""
    memory_factor: float = 1.0
    """How many times the usual memory it needs, because it ran out of less before."""
    more_memory_than: int = 0
    """Bytes of the largest machine on which it ran out of memory; matters where a node cannot give more by factor."""
    only: frozenset[str] = frozenset()
    """Names of the nodes that it may run on; none named means any."""
    avoid: frozenset[str] = frozenset()
    """Names of nodes that it must not run on."""
    labels: frozenset[tuple[str, str]] = frozenset()
    """Labels that its node must have."""
    refused: frozenset[tuple[str, str]] = frozenset()
    """Ids of nodes that would not have it, with their words."""
    resting: frozenset[str] = frozenset()
    """Ids of nodes that could not be given this task, or lost it, a moment ago."""
    workspace: frozenset[str] = frozenset()
    """Ids of nodes that keep the workspace of its last attempt, where it asks to go on from a stage of that."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node was taken or not. The higher the score, the better."""

    node: str
    fits: bool
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The node to take, if any, and what was thought of each."""

    node_id: str | None
    text: str
    reasons: tuple[Reason, ...]
    """At most `MOST_REASONS`, the best ones first."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Of the nodes beyond these, how many have which reason."""

    def document(self) -> list[dict[str, object]]:
        """The reasons as they are kept and told."""
        told: list[dict[str, object]] = [
            {"node": each.node, "fits": each.fits, "score": each.score, "text": each.text} for each in self.reasons
        ]
        counted = [
            {"node": f"{count} more", "fits": False, "score": 0.0, "text": text} for text, count in self.others.items()
        ]
        return told + counted


class Fleet:
    """The nodes while tasks are placed on them, one after the other.

    What does not change in between is judged once: of a thousand nodes and ten thousand equal tasks, each pair is not.
    """

    def __init__(self, nodes: Sequence[NodeState]) -> None:
        """`nodes`: as they are now."""
        self.nodes = list(nodes)
        self._place = {node.id: place for place, node in enumerate(self.nodes)}
        self._used = [node.used for node in self.nodes]
        self._closed = [closed(node, node.used) for node in self.nodes]
        self._scores = [score(node, node.used) for node in self.nodes]
        self._unfits: dict[Need, list[str]] = {}
        """By kind of task, by node, why it cannot take one now; kept while slots are taken."""
        limits = (most for node in self.nodes for most in (node.max_images, *node.max_images_at.values()))
        self._lowest_limit = min((most for most in limits if most is not None), default=None)
        self.free_slots = sum(map(self._open, range(len(self.nodes))))
        """Slots that could take a task now, of all nodes together."""

    def choose(self, need: Need, tie: float) -> Choice:
        """Choose a node. `tie` in [0, 1) picks among near-ties, so that chance stays outside."""
        unfit = self._unfit(need)
        fitting = [place for place, why in enumerate(unfit) if not why]
        if not fitting:
            reasons, others = self._reasons([], unfit, 0, need)
            return Choice(None, _why_none(reasons, others), reasons, others)
        scores = self._scores_for(need)
        nearly = max(map(scores.__getitem__, fitting)) - NEAR_TIE
        near = [place for place in fitting if scores[place] > nearly]
        chosen = near[int(tie * len(near))]
        told = near[:MOST_REASONS] if len(near) > MOST_REASONS else fitting  # of a thousand as good as each other, some
        best_ones = heapq.nsmallest(MOST_REASONS, {chosen, *told}, key=lambda at: (at != chosen, -scores[at], at))
        reasons, others = self._reasons(best_ones, unfit, len(fitting), need)
        if self.nodes[chosen].id in need.workspace:
            text = f"{self.nodes[chosen].name} keeps the workspace in which the task is to go on: {self._free(chosen)}"
        else:
            text = _why(self.nodes[chosen].name, self._free(chosen), len(fitting), len(near))
        return Choice(self.nodes[chosen].id, text, reasons, others)

    def take(self, node_id: str) -> None:
        """One more slot of this node is taken."""
        place = self._place[node_id]
        node = self.nodes[place]
        before = self._open(place)
        self._used[place] += 1
        self._closed[place] = closed(node, self._used[place])
        self._scores[place] = score(node, self._used[place])
        if self._closed[place]:
            for unfit in self._unfits.values():
                unfit[place] = self._closed[place]
        self.free_slots += self._open(place) - before

    def _open(self, place: int) -> int:
        """Slots of one node that could take a task now."""
        return 0 if self._closed[place] else self.nodes[place].open_slots - self._used[place]

    def _unfit(self, need: Need) -> list[str]:
        """By node why it cannot take the task now; empty where it can."""
        # Tasks differ in size more than in anything else, so that is judged apart, and only where it matters.
        kind = replace(need, images_count=0, resting=frozenset(), workspace=frozenset())
        unfit = self._unfits.get(kind)
        if unfit is None:
            judged = zip(self._closed, self.nodes, strict=True)
            unfit = self._unfits[kind] = [why or misfit(kind, node) for why, node in judged]
        found = unfit.copy()
        if self._lowest_limit is not None and need.images_count > self._lowest_limit:
            found = [why or _too_small(need, node) for why, node in zip(found, self.nodes, strict=True)]
        for node_id in need.resting:
            place = self._place.get(node_id)
            if place is not None and not found[place]:
                found[place] = "it could not be given this task, or lost it, a moment ago"
        return found

    def _scores_for(self, need: Need) -> list[float]:
        """Every node's score for this task, which may rather go on where its workspace is."""
        if not need.workspace:
            return self._scores
        return [
            score + (WORKSPACE_BONUS if node.id in need.workspace else 0.0)
            for score, node in zip(self._scores, self.nodes, strict=True)
        ]

    def _reasons(
        self, best: Sequence[int], unfit: Sequence[str], fitting: int, need: Need
    ) -> tuple[tuple[Reason, ...], dict[str, int]]:
        kept = {place for place, node in enumerate(self.nodes) if node.id in need.workspace} if need.workspace else ()

        def noted(place: int, text: str) -> str:
            return f"{text}; it keeps the workspace in which the task is to go on" if place in kept else text

        scores = self._scores_for(need)
        told = [Reason(self.nodes[place].name, True, scores[place], noted(place, self._free(place))) for place in best]
        rest = [place for place, why in enumerate(unfit) if why]
        # Whoever asks why the task begins at the start wants to hear of the one that could have gone on.
        rest = [*(place for place in rest if place in kept), *(place for place in rest if place not in kept)]
        room = MOST_REASONS - len(told)
        told += [Reason(self.nodes[place].name, False, 0.0, noted(place, unfit[place])) for place in rest[:room]]
        others = Counter(unfit[place] for place in rest[room:])
        if fitting > len(best):
            others["it fits as well, and is no better"] = fitting - len(best)
        return tuple(told), dict(others)

    def _free(self, place: int) -> str:
        node = self.nodes[place]
        return f"{node.open_slots - self._used[place]} of {node.slots} slots free"


def choose(need: Need, nodes: Sequence[NodeState], tie: float) -> Choice:
    """Choose a node for one task alone."""
    return Fleet(nodes).choose(need, tie)


def score(node: NodeState, used: int) -> float:
    """Least loaded first: the share of slots that stays free once the task is there; then speed, then spare memory."""
    free_after = (node.slots - used - 1) / node.slots
    speed = SPEED_SHARE * max(-1.0, min(1.0, 1.0 - 1.0 / max(node.speed, 0.01)))
    return round(free_after + speed + min(node.free_memory_bytes / 2**40, 0.01), 4)


def closed(node: NodeState, used: int) -> str:
    """Why the node takes no task now, whatever task; empty when it does."""
    if node.health is not Health.HEALTHY:
        return f"its heartbeat is {node.health}"
    if node.locked:
        return "it is locked by an administrator"
    if node.draining:
        return "it is draining"
    if node.quarantine:
        return node.quarantine
    if used >= node.slots:
        return f"all {node.slots} slots are taken ({used - node.direct} by this router, {node.direct} directly)"
    if used >= node.open_slots:
        return "it is on probation after a quarantine, and has its one task"
    return ""


def misfit(need: Need, node: NodeState) -> str:
    """Why the node can never take the task; empty when it can."""
    if need.only and node.name not in need.only:
        return f"the task is to run on {', '.join(sorted(need.only))}"
    if node.name in need.avoid:
        return "the task is not to run here"
    for node_id, words in need.refused:
        if node_id == node.id:
            return f"it refused the task: {words}"
    lacking = sorted(f"{name}={value}" for name, value in need.labels if node.labels.get(name) != value)
    if lacking:
        return f"it lacks the label {', '.join(lacking)}"
    missing = sorted(need.options - node.options)
    if missing:
        return f"its engine has no option {', '.join(missing)}"
    return _too_small(need, node)


def _too_small(need: Need, node: NodeState) -> str:
    if node.max_images is not None and need.images_count > node.max_images:
        return f"it takes at most {node.max_images} images, the task has {need.images_count}"
    if need.memory_factor <= 1.0:
        return ""
    limits = [most for factor, most in node.max_images_at.items() if factor >= need.memory_factor - 1e-6]
    if limits and need.images_count > max(limits):
        return (
            f"it takes at most {max(limits)} images with {need.memory_factor:g} times the memory, which the task "
            f"needs after it ran out of less; it has {need.images_count}"
        )
    if not node.max_images_at and node.total_memory_bytes <= need.more_memory_than:
        return (
            f"its {node.total_memory_bytes / 2**30:.0f} GiB of memory are no more than the "
            f"{need.more_memory_than / 2**30:.0f} GiB that the task ran out of"
        )
    return ""


def can_ever_fit(need: Need, nodes: Iterable[NodeState]) -> bool:
    """Whether any node would take the task once it is healthy and has a free slot."""
    return any(not misfit(need, node) for node in nodes)


def affordable(chosen: Iterable[tuple[str, str]], room: Mapping[str, int]) -> list[str]:
    """Of choices, as tasks with their nodes, those for which a slot is free on record; the first come first.

    `room`: free slots by node. An attempt that was given up may have come back, and taken one, since the choice.
    """
    left, found = dict(room), []
    for uuid, node_id in chosen:
        if left[node_id] > 0:
            left[node_id] -= 1
            found.append(uuid)
    return found


def hopeless(needs: Iterable[tuple[str, Need]], nodes: Sequence[NodeState], most: int) -> dict[str, str]:
    """Of tasks by uuid with their needs those that no node will ever take, with the reason; `most` of them at most.

    Equal needs are judged once. While no node has joined, nothing can be said of any.
    """
    judged: dict[Need, str] = {}
    never: dict[str, str] = {}
    for uuid, asked in needs if nodes else ():
        need = replace(asked, resting=frozenset()) if asked.resting else asked
        if need not in judged:
            judged[need] = "" if can_ever_fit(need, nodes) else why_never(need, nodes)
        if judged[need]:
            never[uuid] = judged[need]
            if len(never) >= most:
                break
    return never


def why_never(need: Need, nodes: Sequence[NodeState]) -> str:
    """Why no node will ever take the task, in a sentence for its owner."""
    limits = [node.max_images for node in nodes if node.max_images is not None]
    if len(limits) == len(nodes) and limits and need.images_count > max(limits):
        return f"{need.images_count} images uploaded, but this node can only process up to {max(limits)}."
    told = [f"{node.name}: {misfit(need, node)}" for node in nodes[:MOST_REASONS]]
    more = [f"and {len(nodes) - MOST_REASONS} more"] if len(nodes) > MOST_REASONS else []
    return (
        f"No node of this federation can take the task ({'; '.join([*told, *more])}). "
        "Change the options, or join a node that can."
    )


def _why(name: str, text: str, fitting: int, near: int) -> str:
    if fitting == 1:
        return f"{name} was the only node that fits: {text}"
    if near == 1:
        return f"{name} was the least loaded of {fitting} fitting nodes: {text}"
    return f"{name} was picked by chance among the {near} least loaded of {fitting} fitting nodes: {text}"


def _why_none(reasons: Sequence[Reason], others: Mapping[str, int]) -> str:
    if not reasons:
        return "no node has joined this router"
    told = [f"{reason.node}: {reason.text}" for reason in reasons]
    told += [f"{count} more: {text}" for text, count in others.items()]
    return "no node can take it now: " + "; ".join(told)
