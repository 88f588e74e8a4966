"""A hundred thousand tasks, page by page."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from router.browsing import Cursor, ListUnreadable, TaskDesk, Wanted, states_named
from router.dashboard.live import Gone
from router.dashboard.pages import Pages
from router.dashboard.screens import Screen
from router.dashboard.views.view import asked

PAGE = 50
"""Tasks on one page."""
STATES = ("waiting", "active", "ended", "completed", "failed", "canceled")
"""What the filter offers."""


class TasksView:
    """`/dashboard/tasks`."""

    template = "tasks.html"
    section = "tasks"

    def __init__(self, pages: Pages, desk: TaskDesk) -> None:
        """`desk` has the tasks."""
        self._macros = pages.macros("tasks.parts.html")
        self._desk = desk

    async def screen(self, request: Request) -> Screen:
        """One page of the tasks that are asked for."""
        try:
            found = await self._desk.page(_wanted(request))
        except ListUnreadable as wrong:
            raise Gone(str(wrong)) from None
        filters = {name: asked(request, name) for name in ("q", "state", "node", "tenant")}
        parts = {
            "paging": self._macros.paging(found["next"], bool(asked(request, "after")), filters),
            "none": self._macros.nothing(not found["tasks"]),
        }
        return Screen(parts, {"tasks": {f"task-{each['uuid']}": self._macros.row(each) for each in found["tasks"]}})

    def frame(self, request: Request) -> Mapping[str, Any]:
        """The filter."""
        filters = {name: asked(request, name) for name in ("q", "state", "node", "tenant")}
        return {"title": "Tasks", "states": STATES, **filters}


def _wanted(request: Request) -> Wanted:
    state, after = asked(request, "state"), asked(request, "after", 400)
    return Wanted(
        states=states_named([state] if state else ()),
        text=asked(request, "q"),
        node=asked(request, "node"),
        tenant=asked(request, "tenant") or None,
        limit=PAGE,
        after=Cursor.parse(after) if after else None,
    )
