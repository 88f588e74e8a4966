"""Every node, and one node."""

import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from router.dashboard.fleet import STATES, Fleet, wanted
from router.dashboard.live import Gone
from router.dashboard.pages import Pages
from router.dashboard.screens import Screen
from router.dashboard.views.view import asked
from router.events import EventLog, EventsWanted

PAGE = 50
"""Nodes on one page."""
_EVENTS = 10


class NodesView:
    """`/dashboard/nodes`."""

    template = "nodes.html"
    section = "nodes"

    def __init__(self, pages: Pages, fleet: Fleet) -> None:
        """`fleet` has the nodes."""
        self._macros = pages.macros("nodes.parts.html")
        self._fleet = fleet

    async def screen(self, request: Request) -> Screen:
        """One page of the nodes that are asked for."""
        every = await self._fleet.documents()
        found = wanted(every, asked(request, "q"), asked(request, "state"))
        pages = max(1, math.ceil(len(found) / PAGE))
        page = min(_page(request), pages)
        shown = await self._fleet.shown(found[(page - 1) * PAGE : page * PAGE])
        parts = {
            "count": self._macros.count(len(found), len(every)),
            "paging": self._macros.paging(page, pages, asked(request, "q"), asked(request, "state")),
        }
        return Screen(parts, {"nodes": {f"node-{each.node['id']}": self._macros.row(each) for each in shown}})

    def frame(self, request: Request) -> Mapping[str, Any]:
        """The filter."""
        return {"title": "Nodes", "q": asked(request, "q"), "state": asked(request, "state"), "states": STATES}


def _page(request: Request) -> int:
    number = asked(request, "page")
    return max(1, int(number)) if number.isascii() and number.isdigit() and len(number) < 7 else 1


class NodeView:
    """`/dashboard/nodes/{name}`."""

    template = "node.html"
    section = "nodes"

    def __init__(self, pages: Pages, fleet: Fleet, events: EventLog) -> None:
        """`fleet` has the nodes, `events` what happened to them."""
        self._macros = pages.macros("nodes.parts.html")
        self._events_macros = pages.macros("events.parts.html")
        self._fleet = fleet
        self._events = events

    async def screen(self, request: Request) -> Screen:
        """Everything about one node."""
        name = request.path_params["name"]
        node = next((each for each in await self._fleet.documents() if each["name"] == name), None)
        if node is None:
            raise Gone(f"There is no node {name} in the federation.")
        (shown,) = await self._fleet.shown([node])
        page = await self._events.page(EventsWanted(subject=node["id"], limit=_EVENTS))
        parts = {
            "state": self._macros.state(shown),
            "facts": self._macros.facts(shown),
            "actions": self._macros.actions(shown),
            "none-running": self._macros.none_running(shown),
        }
        lists = {
            "tasks": {f"task-{task.uuid}": self._macros.task(task) for task in shown.tasks},
            "events": {f"event-{each['id']}": self._events_macros.line(each) for each in page["events"]},
        }
        return Screen(parts, lists)

    def frame(self, request: Request) -> Mapping[str, Any]:
        """Its name."""
        return {"title": request.path_params["name"]}
