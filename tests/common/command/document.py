"""The generated parts of docs/command-line.md: `python -m tests.common.command.document` writes them anew."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from common.command.app import app
from common.command.endings import MEANINGS

DOCUMENT = Path(__file__).parents[3] / "docs" / "command-line.md"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, in the order of help; groups are none."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root)
    for name in root.list_commands(context):
        command = root.commands[name]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            for each in inner:
                yield f"{name} {each}", inner[each]


def common() -> set[str]:
    """What the options say that every command has that asks a router."""
    asking = dict(commands())["why"]
    return {each.help for each in asking.params if each.opts[0].startswith("-")}


def options(command: Any) -> list[Any]:
    """Its own options."""
    return [each for each in command.params if each.opts[0].startswith("-") and each.help not in common()]


def _arguments(command: Any) -> str:
    return " ".join(each.metavar or each.name.upper() for each in command.params if not each.opts[0].startswith("-"))


def _option(option: Any) -> str:
    takes = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    return f"`{', '.join(option.opts)}{takes}`: {option.help}"


def _table() -> str:
    rows = ["| command | what it does | its own options |", "|---|---|---|"]
    for name, command in commands():
        said = " ".join(command.help.split())
        told = "<br>".join(_option(each).replace("|", "\\|") for each in options(command))
        rows.append(f"| `{f'{name} {_arguments(command)}'.strip()}` | {said} | {told} |")
    return "\n".join(rows) + "\n"


def _codes() -> str:
    rows = ["| exit code | meaning |", "|---|---|"]
    return "\n".join([*rows, *(f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items())]) + "\n"


PARTS = {"commands": _table, "codes": _codes}


def written(text: str) -> str:
    """The document with its generated parts as they are now."""
    return _PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], text)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
