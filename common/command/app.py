"""Every command, put together."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.core import TyperGroup

from common.command import access, stack
from common.command.doctor import doctor
from common.command.endings import Exit, Trouble
from common.command.events import events
from common.command.nodes import nodes
from common.command.shown import Output
from common.command.submit import submit
from common.command.tasks import logs, tasks, why
from common.command.tokens import tokens

_FIRST = ("submit", "logs", "why", "tasks", "nodes", "tokens", "events")


class _Ordered(TyperGroup):
    """What is used most stands first."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # the base has no public name
        """Names of commands, as help tells them."""
        every = super().list_commands(ctx)
        return [*_FIRST, *(name for name in every if name not in _FIRST)]


app = typer.Typer(
    name="scaleodm",
    cls=_Ordered,
    help="One address for every OpenDroneMap cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scaleodm {version('scaleodm')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the release and exit.")
    ] = False,
) -> None:
    del version


for function in (submit, logs, why):
    app.command()(function)
app.add_typer(tasks, name="tasks")
app.add_typer(nodes, name="nodes")
app.add_typer(tokens, name="tokens")
for function in (
    events,
    access.options,
    doctor,
    access.login,
    access.logout,
    stack.up,
    stack.demo,
    access.join,
    stack.router,
    stack.node,
):
    app.command()(function)


def run(arguments: Sequence[str]) -> int:
    """Run one command; gives the exit code."""
    try:
        app(args=list(arguments), prog_name="scaleodm")
    except Trouble as trouble:
        Output(as_json=False).trouble(str(trouble))
        return int(trouble.code)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.stdout.flush()
    return 0
