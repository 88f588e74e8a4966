"""`scaleodm up` and `demo`: the whole system on this machine."""

import os
import signal
import sys
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from common.command.endings import Exit, Trouble
from common.command.place import STACK_FOLDER

_MISSING = "The stack on this machine needs more than is installed here: pip install 'scaleodm[router,node,embedded]'"


def up(
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Folder for all data.")] = STACK_FOLDER,
    nodes: Annotated[int, typer.Option("--nodes", metavar="NUMBER", min=1, max=50, help="How many nodes.")] = 2,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", help="The router's port; else a free one, kept.")
    ] = None,
) -> None:
    """Run the whole system on this machine, until Ctrl-C."""
    console = Console(highlight=False, markup=False)
    with _told(console):
        try:
            from common.embedded.stack import Stack
        except ModuleNotFoundError:
            raise Trouble(Exit.USAGE, _MISSING) from None
        with Stack(data, nodes, port, lambda part: console.print(f"starting {part} …")) as stack:
            token = stack.user_token
            _show(console, "Router", f"{stack.router_url}?token={token}")
            for name, url in stack.node_urls.items():
                _show(console, name, f"{url}?token={stack.node_user_token(name)}")
            _show(console, "Dashboard", f"{stack.router_url}/dashboard (opened by `admin_token` of the tokens below)")
            _show(console, "S3", stack.s3_url)
            _show(console, "API", f"{stack.router_url}/openapi.json")
            _show(console, "Tokens", f"{stack.secrets_file} (the administrator's too; readable by you alone)")
            _show(console, "Join", f"{stack.join_file} (what a further node needs to be told: docs/quick-start.md)")
            _show(console, "Logs", str(stack.secrets_file.parent / "logs"))
            console.print("\nWith PyODM:")
            console.print(f'  Node.from_url("{stack.router_url}?token={token}").create_task([...])', soft_wrap=True)
            here = "" if data == STACK_FOLDER else f" --data {data}"
            console.print(f"Here, in another terminal:\n  scaleodm submit my-photos/ --wait{here}", soft_wrap=True)
            console.print("\nCtrl-C stops it; the next `scaleodm up` goes on with the same tasks and history.")
            Event().wait()


def _show(console: Console, name: str, value: str) -> None:
    console.print(f"{name:<9} {value}", soft_wrap=True)


def demo(
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="Drone images; else a small synthetic flight.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="For the products.")] = Path("demo-output"),
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="An ODM option. Repeatable.")
    ] = None,
) -> None:
    """Turn images into an orthophoto, through a federation of two."""
    console = Console(highlight=False)
    with _told(console):
        try:
            from common.embedded.demo import demo as run
        except ModuleNotFoundError:
            raise Trouble(Exit.USAGE, _MISSING) from None
        code = run(images, out, option or [], console)
    raise typer.Exit(code)


def router() -> None:
    """Run one router, with settings from the environment."""
    become("router")


def node() -> None:
    """Run one node, with settings from the environment."""
    become("node")


def become(package: str) -> None:
    """Programs are started by name: `common` knows neither router nor node."""
    os.execv(sys.executable, [sys.executable, "-m", package])  # noqa: S606 - our own program, no shell


class _told:  # noqa: N801 - reads as a phrase
    """What ends `up` and `demo` early, in words. Interrupted, everything that was started is stopped first."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None:
        # SIGINT too: whoever starts us in the background may have had it ignored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)

    def __exit__(self, kind: type[BaseException] | None, trouble: BaseException | None, trace: object) -> None:
        if isinstance(trouble, KeyboardInterrupt):
            self._console.print("\nStopped; nothing is left running.")
            # PyODM's threads are no daemons and would be waited for, some of them for ever.
            sys.stdout.flush()
            os._exit(Exit.INTERRUPTED)
        name = type(trouble).__name__
        if name in ("StackBusy", "ChildFailed", "DemoRefused"):
            raise Trouble(Exit.USAGE if name == "DemoRefused" else Exit.FAILED, str(trouble)) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
