"""Who uses the federation how much, and by which tokens."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request

from router.dashboard.live import Pulse, Shared
from router.dashboard.pages import Pages
from router.dashboard.screens import Screen
from router.tenants import Tenants

Tokens = Callable[[], Awaitable[list[dict[str, Any]]]]


class TenantsView:
    """`/dashboard/tenants`."""

    template = "tenants.html"
    section = "tenants"

    def __init__(self, pages: Pages, tenants: Tenants, tokens: Tokens, pulse: Pulse) -> None:
        """`tenants` knows who uses how much; `tokens` lists every token there is."""
        self._macros = pages.macros("tenants.parts.html")
        # The use of thirty days changes slowly, and costs a look at every task of them.
        self._tenants = Shared(pulse, tenants.documents, 10.0)
        self._tokens = Shared(pulse, tokens, 10.0)

    async def screen(self, request: Request) -> Screen:
        """Every tenant with its tokens, and the tokens that are of none."""
        del request
        tenants = await self._tenants.get()
        others = [each for each in await self._tokens.get() if each["kind"] != "user"]
        parts = {"none": self._macros.nothing(not tenants)}
        lists = {
            "tenants": {f"tenant-{number}": self._macros.tenant(number, each) for number, each in enumerate(tenants)},
            "others": {f"other-{each['name']}": self._macros.other(each) for each in others},
        }
        return Screen(parts, lists)

    def frame(self, request: Request) -> Mapping[str, Any]:
        """Nothing more."""
        del request
        return {"title": "Tenants"}
