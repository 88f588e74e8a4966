"""How a page is put together: templates that escape everything, and headers that let nothing in from elsewhere."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from router.dashboard import words

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class Pages:
    """The templates."""

    def __init__(self) -> None:
        """Reads them as they are asked for."""
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "short": words.short,
            "lasting": words.lasting,
            "size": words.size,
            "counted": words.counted,
            "moment": words.moment,
            "cleaned": words.cleaned,
            "part": lambda text: quote(str(text), safe=""),
            "epoch": lambda seconds: datetime.fromtimestamp(seconds, UTC),
            "ms": lambda count: words.lasting(timedelta(milliseconds=max(0, count))),
        }

    def macros(self, name: str) -> Any:  # noqa: ANN401 - whatever macros the template has
        """What a template of macros can make, by name."""
        return self._environment.get_template(name).module

    def answer(
        self,
        name: str,
        context: Mapping[str, Any],
        status: int = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
    ) -> HTMLResponse:
        """A page."""
        html = self._environment.get_template(name).render(context)
        return HTMLResponse(html, status, {**HEADERS, **(headers or {})})
