"""`scaleodm nodes`: see and steer them."""

import json
from typing import Annotated, Any

import typer

from common.command.endings import Exit, Trouble
from common.command.session import Session, asking
from common.command.shown import Column, Output
from common.command.words import confirm, pairs

nodes = typer.Typer(help="See and steer the nodes; alone it lists them.", invoke_without_command=True)
Names = Annotated[list[str], typer.Argument(metavar="NODE...", help="Names of nodes.")]
Name = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node.")]
_COLUMNS = (
    Column("node", least=8),
    Column("state"),
    Column("busy", right=True),
    Column("engine", least=10, spare=True),
    Column("labels", least=6, spare=True),
    Column("max images", right=True, spare=True),
    Column("address", least=12, spare=True),
)


def standing(node: dict[str, Any]) -> str:
    """How a node stands, in the word that matters most."""
    if node["health"] != "healthy":
        return str(node["health"])
    for word, holds in (("locked", node["locked"]), ("draining", node["draining"])):
        if holds:
            return word
    if node["quarantine"]:
        return "quarantined"
    return "probation" if node["onProbation"] else "healthy"


def busy(node: dict[str, Any]) -> str:
    """Slots taken, of all."""
    return f"{node['placed'] + node['direct']}/{node['slots']}"


def engine(node: dict[str, Any]) -> str:
    """Name and version."""
    return f"{node['engine']} {node['engineVersion']}"


def labels(node: dict[str, Any]) -> str:
    """As `name=value`."""
    return " ".join(f"{name}={value}" for name, value in sorted(node["labels"].items()))


def _list(session: Session) -> None:
    found = session.api.get("/admin/nodes")
    if session.output.as_json:
        session.output.document(found)
        return
    rows = [
        (each["name"], standing(each), busy(each), engine(each), labels(each), each["maxImages"], each["url"])
        for each in found
    ]
    session.output.table(_COLUMNS, rows, "No node has joined. Start one: scaleodm join URL")


@nodes.callback()
@nodes.command("list")
@asking
def list_nodes(session: Session) -> None:
    """Every node, how it stands and what it has free."""
    _list(session)


@nodes.command()
@asking
def show(session: Session, name: Name) -> None:
    """One node, with all that is known of it."""
    found = session.api.get("/admin/nodes")
    node = next((each for each in found if each["name"] == name), None)
    if node is None:
        known = ", ".join(each["name"] for each in found) or "none"
        raise Trouble(Exit.MISSING, f"There is no node {name}; the nodes are: {known}.")
    _show(session.output, node)


def _show(output: Output, node: dict[str, Any]) -> None:
    if output.as_json:
        output.document(node)
        return
    told = {
        "node": node["name"],
        "state": standing(node),
        "quarantine": node["quarantine"],
        "busy": f"{busy(node)} slots" + (f", {node['direct']} by direct tasks" if node["direct"] else ""),
        "engine": engine(node),
        "speed": f"{node['speed']:g} times the usual",
        "max images": node["maxImages"] or "no limit",
        "labels": labels(node),
        "kind": node["kind"],
        "capabilities": ", ".join(node["capabilities"]),
        "address": node["url"],
        "id": node["id"],
    }
    output.facts(list(told.items()))


def _steer(session: Session, names: list[str], action: str, done: str) -> None:
    changed = [session.api.ask("POST", f"/admin/nodes/{name}/{action}") for name in names]
    if session.output.as_json:
        session.output.document(changed)
        return
    for node in changed:
        held = node["placed"]
        rest = f"; {held} {'task runs' if held == 1 else 'tasks run'} there" if action in ("drain", "lock") else ""
        session.output.line(f"{node['name']} {done}{rest}")


@nodes.command()
@asking
def drain(session: Session, names: Names) -> None:
    """No new work; what runs there ends there."""
    _steer(session, names, "drain", "drains")


@nodes.command()
@asking
def undrain(session: Session, names: Names) -> None:
    """Work as before."""
    _steer(session, names, "undrain", "takes work again")


@nodes.command()
@asking
def lock(session: Session, names: Names) -> None:
    """No new work until it is unlocked, also when it joins again."""
    _steer(session, names, "lock", "is locked")


@nodes.command()
@asking
def unlock(session: Session, names: Names) -> None:
    """Work as before."""
    _steer(session, names, "unlock", "is unlocked")


@nodes.command()
@asking
def trust(session: Session, names: Names) -> None:
    """End a node's quarantine: somebody has looked at it."""
    _steer(session, names, "trust", "is trusted")


@nodes.command()
@asking
def remove(
    session: Session,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also with work, which begins anew elsewhere.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
) -> None:
    """Take a node out of the federation."""
    confirm(yes, f"Take node {name} out of the federation?")
    session.api.ask("DELETE", f"/admin/nodes/{name}", params={"force": json.dumps(force)})
    if session.output.as_json:
        session.output.document({"name": name, "removed": True})
    else:
        session.output.line(f"{name} is removed")


@nodes.command()
@asking
def add(
    session: Session,
    name: Name,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Such as http://10.0.0.7:3000.")],
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="NUMBER", min=1, help="Tasks at once; else it says so itself.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Repeatable.")] = None,
    node_token: Annotated[
        str | None,
        typer.Option("--node-token", envvar="SCALEODM_FOREIGN_TOKEN", metavar="TOKEN", help="What opens that node."),
    ] = None,
) -> None:
    """Add a foreign node: a NodeODM, a ClusterODM, another ScaleODM."""
    order = {"name": name, "url": address, "slots": slots, "labels": pairs("--label", label), "token": node_token}
    node = session.api.ask("POST", "/admin/nodes", json={key: value for key, value in order.items() if value})
    _show(session.output, node)
