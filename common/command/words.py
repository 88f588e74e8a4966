"""What several commands read and ask alike."""

import sys
from collections.abc import Sequence

import typer

from common.command.api import Api
from common.command.endings import Exit, Trouble

_WHOLE = 36
"""Characters of a uuid."""


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """`NAME=VALUE` texts."""
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise Trouble(Exit.USAGE, f"{option} {each!r}: expected NAME=VALUE.")
        found[name] = value
    return found


def confirm(yes: bool, question: str) -> None:
    """Ask back where a person sits at the other end; a script has thought about it."""
    if not yes and sys.stdin.isatty() and not typer.confirm(question, err=True):
        raise Trouble(Exit.FAILED, "Nothing was changed.")


def whole_uuid(api: Api, given: str) -> str:
    """A task's uuid, of which its beginning may be given where only one begins so."""
    given = given.rstrip("\N{HORIZONTAL ELLIPSIS}")
    if len(given) >= _WHOLE:
        return given
    try:
        page = api.get("/admin/tasks", q=given, limit=100)
    except Trouble as trouble:
        if trouble.code is Exit.UNREACHABLE:
            return given
        raise
    found = [each["uuid"] for each in page["tasks"] if each["uuid"].lower().startswith(given.lower())]
    if given in found or not found:
        return given
    if len(found) > 1:
        raise Trouble(Exit.USAGE, f"{len(found)} tasks begin with {given}: {', '.join(found[:3])} … Give more of it.")
    return str(found[0])
