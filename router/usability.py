"""Why a node gets no work, in sentences: what is on record of it, and whether it answers where it says it is."""

from collections.abc import Mapping
from typing import Any

from router.lifecycle import Health
from router.nodes import NodeMissing, Nodes
from router.tables import FOREIGN
from router.visits import VisitFailed, Visitor


class Examiner:
    """Looks at one node."""

    def __init__(self, nodes: Nodes, visitor: Visitor) -> None:
        """`nodes` knows what is on record, `visitor` calls the node."""
        self._nodes = nodes
        self._visitor = visitor

    async def findings(self, name: str) -> list[dict[str, Any]]:
        """Each with `good` and `text`. Raises `NodeMissing`."""
        node = next((each for each in await self._nodes.documents() if each["name"] == name), None)
        if node is None:
            raise NodeMissing(f"There is no node {name}.")
        return [*on_record(node), await self._called(node)]

    async def _called(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Whether it can be reached from here, now."""
        try:
            return _good(await self._visitor.call(node["name"], node["url"], node["kind"] == FOREIGN))
        except VisitFailed as failed:
            return _bad(str(failed))


def on_record(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What keeps it from getting work as far as the router knows, or that nothing does. Pure."""
    silent = f"{node['silentSeconds']:.0f} s"
    found = [
        (node["health"] == Health.LATE, f"It was last heard {silent} ago: it gets no new work until it reports again."),
        (node["health"] == Health.LOST, f"It has been silent for {silent}: what it had begun begins anew elsewhere."),
        (node["locked"], "It is locked: it gets no work until it is unlocked."),
        (node["draining"], "It drains: it ends what it has, and gets no new work."),
        (bool(node["quarantine"]), f"It is quarantined: {node['quarantine']}."),
        (
            node["onProbation"] and not node["quarantine"],
            "It is on probation: it gets one task at a time until one ends well.",
        ),
        (node["placed"] + node["direct"] >= node["slots"], f"All of its {node['slots']} slots are taken."),
    ]
    bad = [_bad(text) for holds, text in found if holds]
    free = node["slots"] - node["placed"] - node["direct"]
    return bad or [_good(f"It was heard {silent} ago, and {free} of its {node['slots']} slots are free.")]


def _good(text: str) -> dict[str, Any]:
    return {"good": True, "text": text}


def _bad(text: str) -> dict[str, Any]:
    return {"good": False, "text": text}
