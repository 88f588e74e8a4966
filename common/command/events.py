"""`scaleodm events`: who did what when."""

from typing import Annotated

import typer

from common.command.session import Session, asking
from common.command.shown import Column, moment

_COLUMNS = (
    Column("when"),
    Column("who", least=10),
    Column("action", least=10),
    Column("what", least=24),
)


@asking
def events(
    session: Session,
    action: Annotated[
        list[str] | None,
        typer.Option("--action", metavar="ACTION", help="Such as node.locked, or all of node. Repeatable."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="SUBJECT", help="Name or uuid of what it was done to.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="ACTOR", help="Whose token it was, a node, or: router.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", "-q", metavar="TEXT", help="In the sentence.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="NUMBER", min=1, help="How many.")] = 20,
) -> None:
    """Who did what when, the newest first."""
    found = session.api.pages("/admin/events", "events", limit, action=action, subject=subject, actor=actor, q=text)
    if session.output.as_json:
        session.output.document(found)
        return
    rows = [(moment(each["at"]), each["actor"]["text"], each["action"], each["text"]) for each in found]
    session.output.table(_COLUMNS, rows, "No such events.")
