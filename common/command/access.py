"""`scaleodm login`, `logout`, `options` and `join`."""

import asyncio
import json
import os
import socket
import sys
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from common.checks import Grade
from common.command.api import Api, NoSuchRequest
from common.command.endings import Exit, Trouble
from common.command.place import Place, config_file, keep_login, split_address
from common.command.session import AsJson, Given, Session, asking
from common.command.shown import Column
from common.command.words import pairs
from common.federation import PROTOCOL
from common.settings import TailscaleSettings, read_settings
from common.tailnet import goes_over_tailnet
from common.tailscaled import tailnet_check

JOIN_TOKEN = "SCALEODM_NODE_JOIN_TOKEN"  # noqa: S105 - a name
TAILNET = "SCALEODM_NODE_TAILNET"
_MOST_SKEW_S = 60
Address = Annotated[str, typer.Argument(metavar="URL", help="Such as http://router:3000.")]


def asked_secret(prompt: str) -> str:
    """A token, typed unseen, or piped in."""
    raw = typer.prompt(prompt, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not (token := str(raw).strip()):
        raise Trouble(Exit.USAGE, "No token was given. Type it when asked, or pipe it in.")
    return token


def about(api: Api) -> dict[str, Any] | None:
    """What the router says of itself and of our token; None for one that cannot, which may be a node."""
    try:
        found: dict[str, Any] = api.get("/federation/about")
    except NoSuchRequest:
        return None
    return found


def login(
    address: Address,
    as_json: AsJson = False,
) -> None:
    """Keep an address and a token for all further commands, in a file that only you can read."""
    session = _session(as_json)
    url, inside = split_address(address)
    place = Place(url, inside or asked_secret("Token"), "this command")
    with closing(Api(place)) as api:
        told = about(api)
        if told is None:
            api.get("/info")
    path = keep_login(url, place.token or "")
    kind = told["caller"]["kind"] if told else "user"
    if as_json:
        session.output.document({"url": url, "kind": kind, "file": str(path)})
    else:
        session.output.line(f"{url} takes this {kind} token; it is kept in {path}")


def logout(
    as_json: AsJson = False,
) -> None:
    """Forget what `login` has kept."""
    session = _session(as_json)
    path = config_file()
    was_there = path.exists()
    path.unlink(missing_ok=True)
    if as_json:
        session.output.document({"file": str(path), "removed": was_there})
    else:
        session.output.line(f"{path} is removed" if was_there else "Nothing was kept.")


def _session(as_json: bool) -> Session:
    return Session(Given(as_json=as_json))


@asking
def options(session: Session) -> None:
    """The options that tasks may have, with their defaults."""
    found = session.api.get("/options")
    if session.output.as_json:
        session.output.document(found)
        return
    columns = (
        Column("option"),
        Column("default", least=8),
        Column("values", least=14),
        Column("help", least=20, spare=True),
    )
    rows = [
        (
            each["name"],
            each["value"],
            each["domain"] if isinstance(each["domain"], str) else " ".join(filter(None, each["domain"])),
            each["help"].replace(" Default: %(default)s", "").replace(" Can be one of: %(choices)s.", ""),
        )
        for each in found
    ]
    session.output.table(columns, rows, "It has no options.")


def join(
    router: Annotated[str, typer.Argument(metavar="ROUTER", help="Such as http://router:3000; several with commas.")],
    token: Annotated[
        str | None, typer.Option("--token", metavar="TOKEN", help=f"The router's node token. Better: {JOIN_TOKEN}.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="In the federation; else this machine's.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--node-url", metavar="URL", help="How the router reaches this node.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = None,
    slots: Annotated[int | None, typer.Option("--slots", metavar="NUMBER", min=1, help="Tasks at once.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="For tasks and workspaces.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Repeatable.")] = None,
    tailnet: Annotated[
        bool | None,
        typer.Option("--tailnet/--no-tailnet", help="Over Tailscale; else where the router's address is a tailnet's."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only ask whether it would be let in.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a node that joins a router. Everything else a node may be told stands in its settings (docs/settings.md)."""
    session = _session(as_json)
    addresses = [split_address(each.strip())[0] for each in router.split(",")]
    choice = os.environ.get(TAILNET, "auto") if tailnet is None else ("on" if tailnet else "off")
    over_tailnet = goes_over_tailnet(choice, addresses)
    secret = token or os.environ.get(JOIN_TOKEN) or (None if over_tailnet else asked_secret("Node token"))
    if over_tailnet and not (url or os.environ.get("SCALEODM_NODE_URL")):
        _check_tailnet()
    told = let_in(addresses, secret)
    chosen = {
        "SCALEODM_NODE_ROUTER_URL": ",".join(addresses),
        "SCALEODM_NODE_NAME": name,
        "SCALEODM_NODE_URL": url,
        "SCALEODM_NODE_PORT": None if port is None else str(port),
        "SCALEODM_NODE_HOST": host,
        "SCALEODM_NODE_SLOTS": None if slots is None else str(slots),
        "SCALEODM_NODE_DATA": None if data is None else str(data),
        TAILNET: None if tailnet is None else choice,
        "SCALEODM_NODE_LABELS": json.dumps(pairs("--label", label)) if label else None,
    }
    settings = {key: value for key, value in chosen.items() if value is not None}
    missing = [each for each in ("SCALEODM_STAGING",) if each not in os.environ]
    if as_json:
        session.output.document({"router": told, "settings": settings, "missing": missing})
    else:
        session.output.line(f"{addresses[0]} would let node {name or socket.gethostname()} in. Its settings:")
        for key, value in (settings | {JOIN_TOKEN: "(not shown)" if secret else "(none: over the tailnet)"}).items():
            session.output.line(f"  {key}={value}")
    if missing:
        raise Trouble(
            Exit.USAGE,
            f"{' and '.join(missing)} is not set: a node needs the router's S3. Set it, AWS_ENDPOINT_URL_S3 and the "
            'keys as the router has them (docs/settings.md, "S3").',
        )
    if check:
        return
    if find_spec("node") is None or find_spec("psutil") is None:
        raise Trouble(Exit.USAGE, "This installation has no node in it. Install: pip install 'scaleodm[node]'")
    sys.stdout.flush()
    os.execve(  # noqa: S606 - our own program, no shell
        sys.executable,
        [sys.executable, "-m", "node"],
        os.environ | settings | ({JOIN_TOKEN: secret} if secret else {}),
    )


def _check_tailnet() -> None:
    """Raises `Trouble` where this machine has no place on a tailnet."""
    found = asyncio.run(tailnet_check(read_settings(TailscaleSettings).socket))
    if found.grade is not Grade.OK:
        raise Trouble(Exit.FAILED, found.text)


def _about_joining(api: Api) -> dict[str, Any] | None:
    """`about`; where no token is sent, what is wrong is with the tailnet."""
    try:
        return about(api)
    except Trouble as trouble:
        if api.place.token or trouble.code is not Exit.NOT_ALLOWED or "tailnet" in str(trouble):
            raise
        raise Trouble(
            Exit.NOT_ALLOWED,
            f"{api.place.url} does not know this machine by the tailnet. Is the address its tailnet name, and has it "
            f"SCALEODM_ROUTER_TAILNET_RIGHTS? Else give this node a token in {JOIN_TOKEN}.",
        ) from None


def let_in(addresses: list[str], secret: str | None) -> dict[str, Any]:
    """What the router says to this token, or to this machine. Raises `Trouble` where a node would not be let in."""
    place = Place(split_address(addresses[0])[0], secret, "this command")
    with closing(Api(place, os.environ.get("SCALEODM_NODE_ROUTER_PROXY") or None)) as api:
        told = _about_joining(api)
    if not isinstance(told, dict) or not {"caller", "protocol", "time"} <= told.keys():
        raise Trouble(Exit.UNREACHABLE, f"{place.url} is not a router of this release: it does not say what it is.")
    kind = told["caller"]["kind"]
    if kind not in ("node", "admin"):
        raise Trouble(
            Exit.NOT_ALLOWED,
            f"This is a {kind} token; joining needs a node token: scaleodm tokens make NAME --kind node"
            if secret
            else f"The router knows {told['caller']['name']} by the tailnet as a {kind}; joining needs the right node.",
        )
    if told["protocol"] != PROTOCOL:
        raise Trouble(
            Exit.FAILED,
            f"{place.url} speaks version {told['protocol']} of the federation's protocol, this node {PROTOCOL}. Bring "
            "both to the same release.",
        )
    skew = (datetime.now(UTC) - datetime.fromisoformat(told["time"])).total_seconds()
    if abs(skew) > _MOST_SKEW_S:
        raise Trouble(
            Exit.FAILED,
            f"This machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the router's: S3 would "
            "refuse what it signs. Set it right (NTP).",
        )
    return told
