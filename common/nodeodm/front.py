"""`GET /`: the page for a person who opens the address in a browser, and the files it is made of (contract 2.1)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    # Asked for anew each time, and answered by 304: a new release shows at once.
    "cache-control": "public, max-age=0",
    "content-security-policy": _POLICY,
    # The address may hold a token.
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "_File":
        content = path.read_bytes()
        return cls(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        headers = _HEADERS | {"etag": self.etag}
        known = request.headers.get("if-none-match", "")
        if self.etag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


class FrontPage:
    """The page, read once."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        """`folder` has its files."""
        self._files = {path.name: _File.read(path) for path in folder.iterdir() if path.is_file()}

    async def page(self, request: Request) -> Response:
        """`GET /`."""
        return self._files[_INDEX].answer(request)

    async def file(self, request: Request) -> Response:
        """The file that the path's `name` names."""
        file = self._files.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return file.answer(request)
