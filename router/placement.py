"""Which node takes a task, and why the others do not (design 7). Pure.

Filter, score, a random pick among near-ties; every node's reason is kept. What a node says of itself is
hearsay: its free slots are counted from what we placed there ourselves, plus the direct tasks it reports.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from router.lifecycle import Health

NEAR_TIE = 0.05
"""Scores that differ by less are as good as each other; always taking the first would herd."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as placement sees it."""

    id: str
    name: str
    health: Health
    draining: bool
    slots: int
    placed: int
    """Slots that our own placed and running tasks hold."""
    direct: int
    """Slots that tasks hold which came to the node directly."""
    max_images: int | None
    options: frozenset[str]
    free_memory_bytes: int

    @property
    def used(self) -> int:
        """Slots taken."""
        return self.placed + self.direct


@dataclass(frozen=True, slots=True)
class Need:
    """What a task asks of a node."""

    images_count: int
    options: frozenset[str]
    """Names of the options that the client set."""
    avoid: frozenset[str] = frozenset()
    """Ids of nodes that could not be given this task a moment ago."""


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

    def reasons_document(self) -> list[dict[str, object]]:
        """The reasons as they are kept and told."""
        return [asdict(reason) for reason in self.reasons]


def choose(need: Need, nodes: Sequence[NodeState], tie: float) -> Choice:
    """Choose a node. `tie` in [0, 1) picks among near-ties, so that chance stays outside."""
    judged = [(node, _judge(need, node)) for node in nodes]
    reasons = tuple(reason for _, reason in judged)
    fitting = [(node, reason) for node, reason in judged if reason.fits]
    if not fitting:
        return Choice(None, _why_none(reasons), reasons)
    best = max(reason.score for _, reason in fitting)
    near = [(node, reason) for node, reason in fitting if best - reason.score < NEAR_TIE]
    node, reason = near[int(tie * len(near))]
    return Choice(node.id, _why(node, reason, len(fitting), len(near)), reasons)


def with_one_more(nodes: Sequence[NodeState], node_id: str) -> list[NodeState]:
    """The nodes with one more task placed on this one."""
    return [replace(node, placed=node.placed + 1) if node.id == node_id else node for node in nodes]


def can_ever_fit(need: Need, nodes: Sequence[NodeState]) -> bool:
    """Whether any node would take the task once it is healthy and has a free slot."""
    return any(not _misfit(need, node) for node in nodes)


def why_never(need: Need, nodes: Sequence[NodeState]) -> str:
    """Why no node will ever take the task, in a sentence for its owner."""
    limits = [node.max_images for node in nodes if node.max_images is not None]
    if len(limits) == len(nodes) and limits and need.images_count > max(limits):
        return f"{need.images_count} images uploaded, but this node can only process up to {max(limits)}."
    misfits = "; ".join(f"{node.name}: {_misfit(need, node)}" for node in nodes)
    return f"No node of this federation can take the task ({misfits}). Change the options, or join a node that can."


def _judge(need: Need, node: NodeState) -> Reason:
    problem = _unfit(need, node)
    if problem:
        return Reason(node.name, False, 0.0, problem)
    return Reason(node.name, True, score(node), f"{node.slots - node.used} of {node.slots} slots free")


def score(node: NodeState) -> float:
    """Least loaded first: the share of slots that stays free once the task is there, then spare memory."""
    free_after = (node.slots - node.used - 1) / node.slots
    spare_memory = min(node.free_memory_bytes / 2**40, 0.01)
    return round(free_after + spare_memory, 4)


def _unfit(need: Need, node: NodeState) -> str:
    """Why the node cannot take the task now; empty when it can."""
    if node.health is not Health.HEALTHY:
        return f"its heartbeat is {node.health}"
    if node.draining:
        return "it is draining"
    if node.id in need.avoid:
        return "it could not be reached with this task a moment ago"
    if node.used >= node.slots:
        return f"all {node.slots} slots are taken ({node.placed} by this router, {node.direct} directly)"
    return _misfit(need, node)


def _misfit(need: Need, node: NodeState) -> str:
    """Why the node can never take the task; empty when it can."""
    if node.max_images is not None and need.images_count > node.max_images:
        return f"it takes at most {node.max_images} images, the task has {need.images_count}"
    missing = sorted(need.options - node.options)
    if missing:
        return f"its engine has no option {', '.join(missing)}"
    return ""


def _why(node: NodeState, reason: Reason, fitting: int, near: int) -> str:
    if fitting == 1:
        return f"{node.name} was the only node that fits: {reason.text}"
    if near == 1:
        return f"{node.name} was the least loaded of {fitting} fitting nodes: {reason.text}"
    return f"{node.name} was picked by chance among the {near} least loaded of {fitting} fitting nodes: {reason.text}"


def _why_none(reasons: Sequence[Reason]) -> str:
    if not reasons:
        return "no node has joined this router"
    return "no node can take it now: " + "; ".join(f"{reason.node}: {reason.text}" for reason in reasons)
