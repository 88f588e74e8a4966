"""`scaleodm submit`: a folder, an archive or what lies in S3 becomes a task, and its products come back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from common.command.api import Api
from common.command.bars import Bars
from common.command.endings import Exit, Trouble
from common.command.follow import code_of, download, verdict, wait
from common.command.options import checked, typed_options
from common.command.sending import files_of, send_files
from common.command.session import Session, asking
from common.command.shown import Output
from common.command.words import pairs
from common.nodeodm.options import Option
from common.references import is_archive, is_image
from common.tasks import Code

Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="Folder of images, archive, s3://bucket/prefix/, s3://… .zip or https://…"),
]
Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the engine. Repeatable.")
]
Out = Annotated[
    Path | None, typer.Option("--download", metavar="FOLDER", help="Wait, and put the products in a folder below it.")
]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One task as it was typed."""

    source: str
    options: dict[str, str]
    fields: dict[str, Any]

    @property
    def is_remote(self) -> bool:
        """Whether it lies where router and nodes reach it themselves."""
        return self.source.startswith(("s3://", "http://", "https://"))


@asking
def submit(
    session: Session,
    source: Source,
    option: Options = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What it is called.")] = None,
    write_to: Annotated[
        str | None, typer.Option("--write-to", metavar="S3-PREFIX", help="Where the products go, for S3 sources.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="NUMBER", min=-100, max=100, help="Higher ones go first.")
    ] = None,
    node: Annotated[list[str] | None, typer.Option("--node", metavar="NODE", help="Only there. Repeatable.")] = None,
    avoid: Annotated[list[str] | None, typer.Option("--avoid", metavar="NODE", help="Not there. Repeatable.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only where nodes have it. Repeatable.")
    ] = None,
    webhook: Annotated[str | None, typer.Option("--webhook", metavar="URL", help="Called when it ends.")] = None,
    wait_for_it: Annotated[bool, typer.Option("--wait", "-w", help="Until it has ended.")] = False,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say where it would go, and submit nothing.")] = False,
) -> None:
    """Submit a task. Prints its uuid; with --wait ends as the task does."""
    wishes = {
        "name": name or Path(source.rstrip("/")).name,
        "writeS3Path": write_to,
        "priority": priority,
        "nodes": json.dumps(node) if node else None,
        "avoidNodes": json.dumps(avoid) if avoid else None,
        "nodeLabels": json.dumps(pairs("--label", label)) if label else None,
        "webhook": webhook,
    }
    fields = {key: value for key, value in wishes.items() if value is not None}
    asked = _Asked(source, typed_options(option), fields)
    if write_to is not None and not asked.is_remote:
        raise Trouble(Exit.USAGE, "--write-to is for sources in S3; what is uploaded gets its products beside it.")
    files = [] if asked.is_remote else files_of(Path(source))
    api = session.as_client
    settings = checked(asked.options, [Option.from_json(each) for each in api.get("/options")])
    if dry_run:
        _show_placement(session, files, settings, fields)
        return
    _run(api, session.output, asked, files, settings, out, wait_for_it or out is not None)


def _run(
    api: Api,
    output: Output,
    asked: _Asked,
    files: list[Path],
    settings: list[dict[str, Any]],
    out: Path | None,
    waits: bool,
) -> None:
    fields = asked.fields | {"options": json.dumps(settings)}
    uuid = str(uuid4())
    if files:
        with Bars(output.err, ["upload"]) as bars:
            _upload(api, uuid, files, fields, bars)
    else:
        _refer(api, uuid, asked.source, fields)
    if not output.as_json:
        # At once: whoever presses Ctrl-C now wants to know what goes on without them.
        output.line(uuid)
    if waits:
        follow(api, output, uuid, out)
    elif output.as_json:
        output.document({"uuid": uuid})
    else:
        output.note(f"Follow it: scaleodm logs -f {uuid}")


def follow(api: Api, output: Output, uuid: str, out: Path | None) -> None:
    """Until the task has ended, and its products are here where they are wanted. Raises unless it went well."""
    told: dict[str, Any] = {"uuid": uuid}
    try:
        with Bars(output.err, ["processing"] + ["download"] * (out is not None)) as bars:
            info = wait(api, uuid, bars, output.note)
            told["info"] = {key: value for key, value in info.items() if key != "output"}
            if out is not None and code_of(info) is Code.COMPLETED:
                told["products"] = str(download(api, uuid, out, bars))
    except KeyboardInterrupt:
        raise Trouble(
            Exit.INTERRUPTED,
            f"Task {uuid} goes on without you. Wait again: scaleodm tasks wait {uuid}. "
            f"End it: scaleodm tasks cancel {uuid}",
        ) from None
    if output.as_json:
        output.document(told)
    elif "products" in told:
        output.note(f"Products in {told['products']}")
    verdict(info)


def _upload(api: Api, uuid: str, files: list[Path], fields: Mapping[str, Any], bars: Bars) -> None:
    parts = {key: (None, str(value)) for key, value in fields.items()}
    headers = {"set-uuid": uuid}
    api.repeated(lambda: api.ask("POST", "/task/new/init", files=parts, headers=headers))
    try:
        send_files(api, uuid, files, lambda percent: bars.show("upload", percent))
    except KeyboardInterrupt:
        raise Trouble(Exit.INTERRUPTED, "The upload was broken off; nothing was submitted.") from None
    api.repeated(lambda: api.ask("POST", f"/task/new/commit/{uuid}"))


def _refer(api: Api, uuid: str, source: str, fields: Mapping[str, Any]) -> None:
    is_link = source.startswith("http") or is_archive(source.rpartition("/")[2])
    body = dict(fields) | {"zipurl" if is_link else "readS3Path": source}
    api.repeated(lambda: api.ask("POST", "/task/new", json=body, headers={"set-uuid": uuid}))


def _show_placement(
    session: Session, files: list[Path], settings: list[dict[str, Any]], fields: Mapping[str, Any]
) -> None:
    order = {
        "imagesCount": sum(is_image(each.name) for each in files),
        "options": [each["name"] for each in settings],
        "nodes": json.loads(fields.get("nodes", "[]")),
        "avoidNodes": json.loads(fields.get("avoidNodes", "[]")),
        "nodeLabels": json.loads(fields.get("nodeLabels", "{}")),
    }
    found = session.as_client.ask("POST", "/admin/placement", json=order)
    if session.output.as_json:
        session.output.document(found)
        return
    session.output.line(f"It would go to {found['node']}: {found['text']}" if found["node"] else found["text"])
    show_reasons(session.output, found["reasons"])


def show_reasons(output: Output, reasons: list[dict[str, Any]]) -> None:
    """Each node, and what speaks for it or against it."""
    for each in reasons:
        score = f" (score {each['score']:g})" if each.get("fits") and each.get("score") is not None else ""
        output.line(f"  {each['node']}: {'fits' if each['fits'] else 'does not fit'}{score}; {each['text']}")
