"""Where the router is that a command speaks to, and what opens it.

In this order: options, environment, what `scaleodm login` has kept, and the stack that `scaleodm up` runs in a folder.
A token that was kept goes to the address that it was kept for, and to no other.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.command.endings import Exit, Trouble

STACK_FOLDER = Path("scaleodm-data")
"""Where `scaleodm up` keeps its data when nothing else is said."""


class CommandSettings(BaseSettings):
    """`SCALEODM_URL` and `SCALEODM_TOKEN`."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_", frozen=True, extra="ignore")

    url: str | None = None
    """The router, or a node, that `scaleodm` speaks to; unset means what `scaleodm login` has kept, or the stack in
    this folder."""
    token: SecretStr | None = None
    """What opens it."""
    foreign_token: SecretStr | None = None
    """What opens the node that `scaleodm nodes add` adds."""


@dataclass(frozen=True, slots=True)
class Place:
    """An address, and what opens it."""

    url: str
    token: str | None
    origin: str
    """Where the address is from, for error texts."""
    user_token: str | None = None
    """Of an embedded stack: what a client would use."""


def config_file() -> Path:
    """What `scaleodm login` writes."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "scaleodm" / "login.json"


def find_place(url: str | None, token: str | None, data: Path | None) -> Place:
    """Where to, by the rules above. Raises `Trouble` where nothing says it."""
    settings = CommandSettings()
    address = url or (None if data is not None else settings.url)
    told = token or (None if data is not None or settings.token is None else settings.token.get_secret_value())
    if address is not None:
        clean, inside = split_address(address)
        told = told or inside
        kept = None if told is not None else next((each for each in _kept(data) if each.url == clean), None)
        return Place(clean, told or (kept.token if kept else None), "--url" if url else "SCALEODM_URL")
    for each in _kept(data):
        return each if told is None else Place(each.url, told, each.origin)
    if data is not None:
        raise Trouble(Exit.USAGE, f"No stack has ever run in {data}. Start one: scaleodm up --data {data}")
    raise Trouble(
        Exit.USAGE,
        "No router is known here. Name one with --url or SCALEODM_URL, keep one with `scaleodm login URL`, or start "
        "one with `scaleodm up` and run this in the same folder.",
    )


def split_address(raw: str) -> tuple[str, str | None]:
    """An address without its token, and the token, as `scaleodm up` prints both in one. Raises `Trouble`."""
    parts = urlsplit(raw if "://" in raw else f"http://{raw}")
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Trouble(Exit.USAGE, f"{raw.partition('?')[0]!r} is no address; expected such as http://router:3000.")
    token = parse_qs(parts.query).get("token", [None])[0]
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), token


def _kept(data: Path | None) -> list[Place]:
    """What was kept: by a login, and by a stack. A folder that is named goes before a login that is not."""
    stack = _stack(data or STACK_FOLDER)
    found = [stack] if data is not None else [_login(), stack]
    return [each for each in found if each is not None]


def _login() -> Place | None:
    path = config_file()
    if not path.exists():
        return None
    if path.stat().st_mode & 0o077:
        raise Trouble(Exit.USAGE, f"{path} holds a token and others can read it. Run: chmod 600 {path}")
    kept = _read(path)
    return Place(str(kept["url"]), kept.get("token"), str(path)) if "url" in kept else None


def _stack(folder: Path) -> Place | None:
    path = folder / "secrets.json"
    if not path.exists():
        return None
    kept = _read(path)
    url = kept.get("router_url") or (f"http://127.0.0.1:{kept['router_port']}" if "router_port" in kept else None)
    if url is None:
        return None
    return Place(str(url), kept.get("admin_token"), f"the stack in {folder}", kept.get("user_token"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as wrong:
        raise Trouble(
            Exit.USAGE, f"{path} cannot be read ({type(wrong).__name__}). Remove it, or name --url."
        ) from None
    return found if isinstance(found, dict) else {}


def keep_login(url: str, token: str) -> Path:
    """Write it where only its owner can read it, whole or not at all."""
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": url, "token": token}, file)
    draft.replace(path)
    return path
