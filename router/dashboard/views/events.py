"""Who did what when."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from router.dashboard.pages import Pages
from router.dashboard.screens import Screen
from router.dashboard.views.view import asked
from router.events import Action, ActionUnknown, EventLog, EventsWanted, actions_named

_GROUPS = tuple(dict.fromkeys(action.partition(".")[0] for action in Action))
"""What an action is about: `task`, `token`, `node` …"""


class EventsView:
    """`/dashboard/events`."""

    template = "events.html"
    section = "events"

    def __init__(self, pages: Pages, events: EventLog) -> None:
        """`events` has them."""
        self._macros = pages.macros("events.parts.html")
        self._events = events

    async def screen(self, request: Request) -> Screen:
        """One page of the events that are asked for."""
        found = await self._events.page(_wanted(request))
        filters = _filters(request)
        parts = {
            "paging": self._macros.paging(found["next"], bool(asked(request, "after")), filters),
            "none": self._macros.nothing(not found["events"]),
        }
        return Screen(parts, {"events": {f"event-{each['id']}": self._macros.row(each) for each in found["events"]}})

    def frame(self, request: Request) -> Mapping[str, Any]:
        """The filter."""
        return {"title": "Events", "groups": _GROUPS, **_filters(request)}


def _filters(request: Request) -> dict[str, str]:
    return {name: asked(request, name) for name in ("q", "actor", "subject", "action")}


def _wanted(request: Request) -> EventsWanted:
    filters, after = _filters(request), asked(request, "after")
    try:
        actions = actions_named([filters["action"]] if filters["action"] else ())
    except ActionUnknown:
        actions = frozenset()
    return EventsWanted(
        actions=actions,
        subject=filters["subject"],
        actor=filters["actor"],
        text=filters["q"],
        after=int(after) if after.isascii() and after.isdigit() and len(after) < 18 else None,
    )
