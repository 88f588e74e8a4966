"""One task: how it stands, why it is where it is, what happened to it, its console, its products."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from common.nodeodm.assets import Assets
from common.nodeodm.refusals import Refused
from common.tasks import ACTIVE, ENDED, WAITING, Task
from common.tokens import Caller
from router.browsing import TaskMissing
from router.dashboard.live import Gone
from router.dashboard.pages import Pages
from router.dashboard.pictures import source_of
from router.dashboard.screens import MOST_LINES, Console, Screen
from router.federated import FederatedTasks
from router.timeline import Timelines

MOST_PRODUCTS = 500
_PRODUCTS_FOR_S = 15.0
_MOST_KNOWN = 200


class Products:
    """What ended tasks have to download, as it was found a moment ago: their pages are looked at all the time."""

    def __init__(self, assets: Assets) -> None:
        """`assets` asks S3."""
        self._assets = assets
        self._known: OrderedDict[tuple[str, int], tuple[float, Mapping[str, Any]]] = OrderedDict()

    async def of(self, task: Task) -> Mapping[str, Any]:
        """As `Assets.listing` tells it."""
        key, now = (task.uuid, task.attempt), time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] > _PRODUCTS_FOR_S:
            known = self._known[key] = now, await self._assets.listing(task, MOST_PRODUCTS)
        self._known.move_to_end(key)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return known[1]


def downloads(listing: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is there, the main ones first."""
    primary = [each for each in listing["primary"] if each["exists"]]
    return [*primary, *listing.get("additional", [])]


class TaskView:
    """`/dashboard/tasks/{uuid}`."""

    template = "task.html"
    section = "tasks"

    def __init__(self, pages: Pages, tasks: FederatedTasks, timelines: Timelines, products: Products) -> None:
        """`tasks` has the task, `timelines` its past, `products` what it made."""
        self._macros = pages.macros("task.parts.html")
        self._tasks = tasks
        self._timelines = timelines
        self._products = products

    async def screen(self, request: Request) -> Screen:
        """Everything about one task."""
        caller, uuid = request.state.caller, request.path_params["uuid"]
        try:
            task = await self._tasks.task(caller, uuid)
            why = await self._tasks.why(caller, uuid)
            timeline = await self._timelines.document(uuid)
        except (Refused, TaskMissing):
            raise Gone(f"There is no task {uuid}; it may have been removed.") from None
        products = await self._downloads(task)
        parts = {
            "state": self._macros.state(task),
            "facts": self._macros.facts(task, why, time.time_ns() // 1_000_000),
            "actions": self._macros.actions(task, task.state in WAITING, task.state in ENDED),
            "why": self._macros.why(why, task.state in WAITING),
            "products": self._macros.products(task, products, source_of(products) is not None),
        }
        moments = {
            f"moment-{number}": self._macros.moment(number, each) for number, each in enumerate(timeline["moments"])
        }
        return Screen(parts, {"timeline": moments}, await self._console(caller, task))

    def frame(self, request: Request) -> Mapping[str, Any]:
        """Its uuid."""
        return {"title": f"Task {request.path_params['uuid'][:8]}", "uuid": request.path_params["uuid"]}

    async def _downloads(self, task: Task) -> Sequence[Mapping[str, Any]]:
        return downloads(await self._products.of(task)) if task.state in ENDED else ()

    async def _console(self, caller: Caller, task: Task) -> Console:
        if task.state not in ACTIVE | ENDED or not task.console_lines:
            return Console(f"{task.attempt}")
        lines = await self._tasks.lines(caller, task.uuid, str(-MOST_LINES))
        return Console(f"{task.attempt}", task.console_lines, tuple(lines))
