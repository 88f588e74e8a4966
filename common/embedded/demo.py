"""The demo: images in, orthophoto out, with the unmodified PyODM client and a federation of two."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
from pyodm import Node
from pyodm.api import Task
from pyodm.exceptions import OdmError
from rich.console import Console
from rich.filesize import decimal

from common.command.bars import Bars, stage
from common.embedded.flight import render_flight
from common.embedded.stack import Stack
from common.references import belongs_to_input, is_image

POLL_EVERY_S = 1
FEWEST_IMAGES = 2
DEFAULT_OPTIONS: dict[str, Any] = {"fast-orthophoto": True}


class DemoRefused(Exception):
    """What the user gave cannot be used; nothing was started."""


class DemoFailed(Exception):
    """The task did not end well."""


def demo(images: Path | None, out: Path, options: Sequence[str], console: Console) -> int:
    """Run the demo; gives the exit code. Products appear in a folder of their own below `out`, whole or not at all."""
    given = options_from(options)
    if images is not None:
        check_images(images)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scaleodm-demo-", ignore_cleanup_errors=True) as folder:
        files = flight_files(images, Path(folder), console)
        try:
            with Stack(Path(folder) / "stack", tell=lambda part: console.print(f"starting {part} …")) as stack:
                products = _process(stack, files, given, out, console)
        except (OdmError, DemoFailed, httpx.HTTPError) as failed:
            console.print(f"[red]The demo failed: {failed}[/red]", soft_wrap=True)
            return 1
    console.print(f"\nProducts in {products}", soft_wrap=True)
    for path in sorted(products.rglob("*")):
        if path.is_file():
            console.print(f"{decimal(path.stat().st_size):>10}  {path.relative_to(products)}", soft_wrap=True)
    return 0


def options_from(raw: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as PyODM takes options; without any, a fast orthophoto."""
    given: dict[str, Any] = {}
    for each in raw:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise DemoRefused(f"--option {each!r}: expected NAME=VALUE, such as dsm=true.")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given or DEFAULT_OPTIONS


def check_images(folder: Path) -> None:
    """Refuse what can only fail later."""
    if not folder.is_dir():
        raise DemoRefused(f"{folder} is not a folder. Give --images a folder of drone images (make demo IMAGES=dir).")
    found = [path for path in folder.iterdir() if is_image(path.name)]
    if len(found) < FEWEST_IMAGES:
        raise DemoRefused(
            f"{folder} holds {len(found)} images; at least {FEWEST_IMAGES} that overlap are needed, "
            "named .jpg, .tif or the like."
        )


def flight_files(images: Path | None, scratch: Path, console: Console) -> list[str]:
    """The files to send: the user's, or those of a synthetic flight."""
    if images is None:
        with console.status("rendering a synthetic flight …"):
            paths: Iterable[Path] = render_flight(scratch / "images")
    else:
        paths = sorted(path for path in images.iterdir() if path.is_file() and belongs_to_input(path.name))
    files = [str(path) for path in paths]
    size = sum(Path(file).stat().st_size for file in files)
    console.print(f"{len(files)} files, {decimal(size)}{'' if images else ', a synthetic flight'}")
    return files


def _process(stack: Stack, files: list[str], options: dict[str, Any], out: Path, console: Console) -> Path:
    node = Node.from_url(f"{stack.router_url}?token={stack.user_token}")
    console.print(f"router at {stack.router_url}, {len(stack.node_urls)} nodes joined\n")
    bars = Bars(console)
    with bars:
        task: Task = node.create_task(
            files, options, name="demo", progress_callback=lambda percent: bars.show("upload", percent)
        )
        _wait(task, bars)
        products = _download(task, bars, out)
    _tell_why(stack, task, console)
    return products


def _wait(task: Task, bars: Bars) -> None:
    def show(info: Any) -> None:  # noqa: ANN401 - PyODM has no types
        bars.show("processing", info.progress, stage(task.output(-60)))

    bars.show("processing", 0)
    try:
        task.wait_for_completion(show, interval=POLL_EVERY_S)
    except OdmError as failed:
        raise DemoFailed(task.info().last_error or str(failed)) from failed
    bars.show("processing", 100)


def _download(task: Task, bars: Bars, out: Path) -> Path:
    """Into a folder beside the final one, renamed at the end: Ctrl-C leaves no half of the products."""
    final = out / str(task.uuid)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=out))
    try:
        task.download_assets(str(draft), progress_callback=lambda percent: bars.show("download", percent))
        draft.chmod(0o755)
        draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    bars.show("download", 100)
    return final


def _tell_why(stack: Stack, task: Task, console: Console) -> None:
    headers = {"Authorization": f"Bearer {stack.user_token}"}
    why = httpx.get(f"{stack.router_url}/task/{task.uuid}/why", headers=headers, timeout=10).json()
    console.print(f"\nIt ran on [bold]{why['node']}[/bold]: {why['text']}", soft_wrap=True)
    for reason in why["reasons"]:
        mark = "fits" if reason["fits"] else "does not fit"
        console.print(f"  {reason['node']}: {mark}, score {reason['score']}; {reason['text']}", soft_wrap=True)
