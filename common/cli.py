"""`scaleodm`: one command for everything."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Event
from types import FrameType

from rich.console import Console

from common.embedded.children import ChildFailed
from common.embedded.demo import DemoRefused, demo
from common.embedded.stack import Stack, StackBusy

_ENDED_BY_USER = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    given = _parser().parse_args(argv)
    console = Console(highlight=False)
    # SIGINT too: whoever starts us in the background may have had it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return int(given.run(given, console))
    except (StackBusy, ChildFailed, DemoRefused) as trouble:
        console.print(f"[red]{trouble}[/red]", soft_wrap=True)
        return 2 if isinstance(trouble, DemoRefused) else 1
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        # PyODM's threads are no daemons and would be waited for, some of them for ever.
        sys.stdout.flush()
        os._exit(_ENDED_BY_USER)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scaleodm", description="One address for every OpenDroneMap cluster.")
    parser.add_argument("--version", action="version", version=f"scaleodm {version('scaleodm')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="the whole system on this machine, kept running")
    up.add_argument(
        "--data", type=Path, default=Path("scaleodm-data"), help="folder for all data (default: %(default)s)"
    )
    up.add_argument("--nodes", type=_count, default=2, help="how many nodes (default: %(default)s)")
    up.add_argument("--port", type=int, help="the router's port (default: a free one, kept)")
    up.set_defaults(run=_up)

    show = commands.add_parser("demo", help="images in, orthophoto out, through a federation of two")
    show.add_argument("--images", type=Path, help="folder of drone images (default: a small synthetic flight)")
    show.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for the products (default: %(default)s)"
    )
    show.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an ODM option; repeatable")
    show.set_defaults(run=lambda given, console: demo(given.images, given.out, given.option, console))

    for name, text in (("router", "one router"), ("node", "one node")):
        program = commands.add_parser(name, help=f"{text}, with settings from the environment")
        program.set_defaults(run=_become(name))
    return parser


def _count(raw: str) -> int:
    number = int(raw)
    if not 1 <= number <= 50:
        raise argparse.ArgumentTypeError(f"{raw} is not a sensible number of nodes; expected 1 to 50")
    return number


def _become(package: str) -> object:
    """Programs are started by name: `common` knows neither router nor node."""

    def run(given: argparse.Namespace, console: Console) -> int:
        del given, console
        os.execv(sys.executable, [sys.executable, "-m", package])  # noqa: S606 - our own program, no shell

    return run


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def _up(given: argparse.Namespace, console: Console) -> int:
    with Stack(given.data, given.nodes, given.port, lambda part: console.print(f"starting {part} …")) as stack:
        token = stack.user_token
        console.print(f"\nRouter   {stack.router_url}?token={token}", soft_wrap=True)
        for name, url in stack.node_urls.items():
            console.print(f"{name:<8} {url}?token={stack.node_user_token(name)}", soft_wrap=True)
        console.print(f"S3       {stack.s3_url}")
        console.print(f"API      {stack.router_url}/openapi.json")
        console.print(f"Tokens   {stack.secrets_file} (the administrator's too; readable by you alone)", soft_wrap=True)
        console.print(f"Logs     {stack.secrets_file.parent / 'logs'}", soft_wrap=True)
        console.print("\nWith PyODM:", soft_wrap=True)
        console.print(f'  Node.from_url("{stack.router_url}?token={token}").create_task([...])', soft_wrap=True)
        console.print("\nCtrl-C stops it; the next `scaleodm up` goes on with the same tasks and history.")
        Event().wait()
    return 0
