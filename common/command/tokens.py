"""`scaleodm tokens`: make, list and end them."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from common.command.endings import Exit, Trouble
from common.command.session import Session, asking
from common.command.shown import Column, ago
from common.command.words import confirm

tokens = typer.Typer(help="Make, list and end tokens; alone it lists them.", invoke_without_command=True)
_COLUMNS = (
    Column("name", least=10),
    Column("kind"),
    Column("tenant", least=8),
    Column("made"),
    Column("limits", least=10, spare=True),
    Column("prefixes", least=12, spare=True),
)


class TokenKind(StrEnum):
    """What a token opens."""

    USER = "user"
    NODE = "node"
    ADMIN = "admin"


def _limits(token: dict[str, Any]) -> str:
    usual = {"running": None, "waiting": None, "images": None, "priority": 0, "weight": 1.0}
    return " ".join(f"{name}={value}" for name, value in token["limits"].items() if value != usual.get(name))


def _list(session: Session) -> None:
    found = session.api.get("/admin/tokens")
    if session.output.as_json:
        session.output.document(found)
        return
    rows = [
        (
            each["name"],
            each["kind"],
            each["tenant"] if each["kind"] == TokenKind.USER else "",
            ago(each["created_at"]),
            _limits(each),
            " ".join(each["prefixes"]),
        )
        for each in found
    ]
    session.output.table(_COLUMNS, rows, "There are no tokens.")


@tokens.callback()
@tokens.command("list")
@asking
def list_tokens(session: Session) -> None:
    """Every token, without what opens."""
    _list(session)


@tokens.command()
@asking
def make(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is. One of the same name ends.")],
    kind: Annotated[
        TokenKind, typer.Option("--kind", metavar="KIND", help="What it opens: user, node or admin.")
    ] = TokenKind.USER,
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose tasks it sees.")] = "default",
    prefix: Annotated[
        list[str] | None, typer.Option("--prefix", metavar="S3-PREFIX", help="All it may touch in S3. Repeatable.")
    ] = None,
    running: Annotated[int | None, typer.Option("--running", metavar="NUMBER", min=0, help="Tasks at once.")] = None,
    waiting: Annotated[
        int | None, typer.Option("--waiting", metavar="NUMBER", min=0, help="Tasks that may wait.")
    ] = None,
    images: Annotated[int | None, typer.Option("--images", metavar="NUMBER", min=1, help="Images of one task.")] = None,
    priority: Annotated[
        int, typer.Option("--priority", metavar="NUMBER", min=-100, max=100, help="The highest it may ask for.")
    ] = 0,
    weight: Annotated[
        float, typer.Option("--weight", metavar="NUMBER", help="Its tenant's share beside others.")
    ] = 1.0,
) -> None:
    """Make a token, and print it this once."""
    limits = {"running": running, "waiting": waiting, "images": images, "priority": priority, "weight": weight}
    order = {"kind": kind, "name": name, "tenant": tenant, "prefixes": prefix or [], "limits": limits}
    made = session.api.ask("POST", "/admin/tokens", json=order)
    if session.output.as_json:
        session.output.document(made)
        return
    session.output.note(f"The {kind} token of {name}. It is told this once; keep it:")
    session.output.line(made["token"])


@tokens.command()
@asking
def end(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
) -> None:
    """End a token: whoever has it is let in no more."""
    confirm(yes, f"End the token of {name}?")
    if not session.api.ask("DELETE", f"/admin/tokens/{name}")["revoked"]:
        raise Trouble(Exit.MISSING, f"There is no token {name}. `scaleodm tokens` lists them.")
    if session.output.as_json:
        session.output.document({"name": name, "ended": True})
    else:
        session.output.line(f"The token of {name} has ended")
