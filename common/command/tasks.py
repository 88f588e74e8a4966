"""`scaleodm tasks`, `why` and `logs`: what became of them, and why."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.command.api import Api, NoSuchRequest
from common.command.bars import Bars
from common.command.endings import Exit, Trouble
from common.command.follow import download as fetch
from common.command.follow import has_ended, lines, verdict
from common.command.options import checked, typed_options
from common.command.session import Session, asking
from common.command.shown import Column, Output, ago, lasting, moment
from common.command.submit import Options, follow, show_reasons
from common.command.words import confirm, whole_uuid
from common.nodeodm.options import Option
from common.tasks import Code

tasks = typer.Typer(help="See and steer tasks; alone it lists the newest.", invoke_without_command=True)
_COLUMNS = (
    Column("task", least=8),
    Column("state"),
    Column("done", right=True),
    Column("name", least=12),
    Column("node", least=8, spare=True),
    Column("submitted", spare=True),
    Column("images", right=True, spare=True),
    Column("tenant", least=6, spare=True),
)
_WORDS = {
    Code.QUEUED: "queued",
    Code.RUNNING: "running",
    Code.FAILED: "failed",
    Code.COMPLETED: "completed",
    Code.CANCELED: "canceled",
}
Uuid = Annotated[str, typer.Argument(metavar="TASK", help="Its uuid, or how that begins.")]
Uuids = Annotated[list[str], typer.Argument(metavar="TASK...", help="Their uuids, or how they begin.")]
State = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE", help="Such as queued, running, failed; or waiting, active, ended. Repeatable."
    ),
]
Text = Annotated[
    str | None, typer.Option("--text", "-q", metavar="TEXT", help="In the name or tenant, or how the uuid begins.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Whose.")]
OnNode = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Where the current attempt is or was.")]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="NUMBER", min=1, help="How many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")]


def _list(session: Session, limit: int, **wanted: Any) -> None:  # noqa: ANN401 - the filters
    try:
        found = session.api.pages("/admin/tasks", "tasks", limit, **wanted)
    except NoSuchRequest:
        found = _of_node(session.api, limit, wanted)
    if session.output.as_json:
        session.output.document(found)
        return
    rows = [
        (
            each["uuid"],
            each["state"],
            f"{each['progress']:.0f} %",
            each["name"],
            each.get("node"),
            ago(each.get("submitted") or each["dateCreated"]),
            each["imagesCount"] or "",
            each.get("tenant"),
        )
        for each in found
    ]
    session.output.table(_COLUMNS, rows, "No such tasks.")


def _of_node(api: Api, limit: int, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """A node, or any NodeODM, has no pages: its tasks one by one, the newest first."""
    if any(wanted.values()):
        raise Trouble(Exit.USAGE, f"{api.place.url} is a node or an older router, and cannot filter tasks.")
    uuids = [each["uuid"] for each in api.get("/task/list")]
    found = [api.info(uuid) for uuid in uuids[::-1][:limit]]
    return [each | {"state": _WORDS[Code(each["status"]["code"])]} for each in found]


@tasks.callback()
@tasks.command("list")
@asking
def list_tasks(
    session: Session,
    state: State = None,
    text: Text = None,
    tenant: Tenant = None,
    node: OnNode = None,
    limit: Limit = 20,
) -> None:
    """The newest tasks."""
    _list(session, limit, state=state, q=text, tenant=tenant, node=node)


@tasks.command()
@asking
def show(session: Session, uuid: Uuid) -> None:
    """One task: how it stands, where it runs and ran."""
    api = session.api
    info = api.info(whole_uuid(api, uuid))
    told = _why_if_known(api, info["uuid"])
    if session.output.as_json:
        session.output.document(info | ({"why": told} if told else {}))
        return
    _show(session.output, info, told)


def _why_if_known(api: Api, uuid: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.get(f"/task/{uuid}/why")
    except NoSuchRequest:
        return None
    return found


def _show(output: Output, info: dict[str, Any], told: dict[str, Any] | None) -> None:
    took = info["processingTime"]
    options = " ".join(f"{each['name']}={_typed(each['value'])}" for each in info["options"])
    output.facts(
        [
            ("task", info["uuid"]),
            ("name", info.get("name")),
            ("state", told["state"] if told else _WORDS[Code(info["status"]["code"])]),
            ("error", info["status"].get("errorMessage")),
            ("waits for", info.get("waitingFor")),
            ("progress", f"{info['progress']:.0f} %"),
            ("worked", lasting(took / 1000) if took >= 0 else None),
            ("images", info["imagesCount"] or None),
            ("options", options),
            ("created", f"{moment(info['dateCreated'])}, {ago(info['dateCreated'])}"),
            ("node", told and told["node"]),
            ("why", told and told["text"]),
            ("part of", told and told.get("parent")),
        ]
    )
    if told and told["attempts"]:
        output.line("")
        _attempts(output, told["attempts"])


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _attempts(output: Output, attempts: Iterable[dict[str, Any]]) -> None:
    columns = (
        Column("attempt", right=True),
        Column("node", least=8),
        Column("state"),
        Column("placed", spare=True),
        Column("ran"),
        Column("cause", spare=True),
        Column("error", least=10),
    )
    rows = [
        (
            each["number"],
            each["node"],
            each["state"],
            moment(each["placed"]),
            _ran(each),
            each["cause"],
            each["error"],
        )
        for each in attempts
    ]
    output.table(columns, rows, "")


def _ran(attempt: dict[str, Any]) -> str:
    if attempt["began"] is None:
        return ""
    return ago(attempt["began"], _stamp(attempt["ended"])).removesuffix(" ago")


def _stamp(ended: str | None) -> float | None:
    return None if ended is None else datetime.fromisoformat(ended).timestamp()


@tasks.command("why")
@asking
def why(session: Session, uuid: Uuid) -> None:
    """Which node has a task and why, or why it waits."""
    api = session.api
    told = api.get(f"/task/{whole_uuid(api, uuid)}/why")
    output = session.output
    if output.as_json:
        output.document(told)
        return
    place = f" on {told['node']}" if told["node"] else ""
    output.line(f"{told['state']}{place}: {told['text']}")
    if told.get("queue"):
        output.line(f"  queue: {told['queue']['text']}")
    show_reasons(output, told["reasons"])
    failed = [each for each in told["attempts"] if each["cause"]]
    for each in failed:
        output.line(f"  attempt {each['number']} on {each['node']} ended: {each['cause']}; {each['error'] or ''}")


@tasks.command()
@asking
def queue(session: Session, uuid: Uuid) -> None:
    """Which place in the queue a task has, and when it may start."""
    api = session.api
    told = api.get(f"/task/{whole_uuid(api, uuid)}/queue")
    if session.output.as_json:
        session.output.document(told)
    elif told["queue"] is None:
        session.output.line(f"It does not wait: it is {told['state']}")
    else:
        session.output.line(told["queue"]["text"])


def _act(session: Session, uuids: list[str], path: str, done: str, **fields: Any) -> None:  # noqa: ANN401
    whole = [whole_uuid(session.api, uuid) for uuid in uuids]
    for uuid in whole:
        session.api.act(path, {"uuid": uuid} | fields)
        if not session.output.as_json:
            session.output.line(f"{uuid} {done}")
    if session.output.as_json:
        session.output.document([{"uuid": uuid, "success": True} for uuid in whole])


@tasks.command()
@asking
def cancel(session: Session, uuids: Uuids) -> None:
    """End tasks; what they have not published is lost."""
    _act(session, uuids, "/task/cancel", "is canceled")


@tasks.command()
@asking
def remove(
    session: Session,
    uuids: Uuids,
    with_output: Annotated[bool, typer.Option("--with-output", help="Delete the products in S3 as well.")] = False,
    yes: Yes = False,
) -> None:
    """End tasks and forget them, with what was uploaded for them."""
    what = "task" if len(uuids) == 1 else f"{len(uuids)} tasks"
    confirm(yes, f"Remove {what}{' and the products' if with_output else ''}?")
    _act(session, uuids, "/task/remove", "is removed", deleteOutput=with_output)


@tasks.command()
@asking
def restart(session: Session, uuids: Uuids, option: Options = None) -> None:
    """Run tasks that have ended once more; with other options where some are given."""
    fields: dict[str, Any] = {}
    if option:
        catalogue = [Option.from_json(each) for each in session.api.get("/options")]
        fields = {"options": checked(typed_options(option), catalogue)}
    _act(session, uuids, "/task/restart", "begins anew", **fields)


@tasks.command()
@asking
def priority(
    session: Session,
    uuid: Uuid,
    value: Annotated[int, typer.Argument(metavar="PRIORITY", min=-100, max=100, help="Higher ones go first.")],
) -> None:
    """Let a task that waits go before others, or after them."""
    api = session.api
    told = api.ask("POST", f"/admin/tasks/{whole_uuid(api, uuid)}/priority", json={"priority": value})
    if session.output.as_json:
        session.output.document(told)
    else:
        session.output.line(f"{told['uuid']} has priority {value}")


@tasks.command()
@asking
def wait(
    session: Session,
    uuid: Uuid,
    out: Annotated[
        Path | None, typer.Option("--download", metavar="FOLDER", help="Put the products in a folder below it.")
    ] = None,
) -> None:
    """Wait until a task has ended, and end as it does."""
    follow(session.api, session.output, whole_uuid(session.api, uuid), out)


@tasks.command()
@asking
def download(
    session: Session,
    uuid: Uuid,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The products get a folder of their own below it.")],
) -> None:
    """Bring the products of a task here."""
    api = session.api
    whole = whole_uuid(api, uuid)
    info = api.info(whole)
    verdict(info)
    with Bars(session.output.err, ["download"]) as bars:
        products = fetch(api, whole, folder, bars)
    if session.output.as_json:
        session.output.document({"uuid": whole, "products": str(products)})
    else:
        session.output.line(str(products))


@asking
def logs(
    session: Session,
    uuid: Uuid,
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the task ends, and end as it does.")
    ] = False,
    last: Annotated[
        int | None, typer.Option("--last", "-n", metavar="NUMBER", min=0, help="Begin with the last so many lines.")
    ] = None,
) -> None:
    """The console of a task. With --json one object for each line."""
    api, output = session.api, session.output
    whole = whole_uuid(api, uuid)
    for number, text in lines(api, whole, follow_it, last, output.note):
        if output.as_json:
            output.record({"number": number, "text": text})
        else:
            output.line(text)
    if follow_it:
        info = api.info(whole)
        if has_ended(info):
            verdict(info)
