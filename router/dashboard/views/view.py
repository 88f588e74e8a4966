"""What every page can do."""

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.requests import Request

from router.dashboard.screens import Screen


class View(Protocol):
    """One page. Either method may raise `live.Gone` where there is no such thing."""

    template: str
    """File in `templates`."""
    section: str
    """Which entry of the menu it belongs to."""

    async def screen(self, request: Request) -> Screen:
        """What it shows now."""
        ...

    def frame(self, request: Request) -> Mapping[str, Any]:
        """What the template needs beside that."""
        ...


def asked(request: Request, name: str, longest: int = 200) -> str:
    """A value of the query, as far as a database takes it."""
    return request.query_params.get(name, "").replace("\x00", "").strip()[:longest]
