"""`scaleodm` as a person or a script runs it: a process of its own, with a home of its own."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from common.command.app import run

SCALEODM = Path(sys.executable).with_name("scaleodm")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it said on stdout, which must be JSON and nothing else."""
        return json.loads(self.out)

    def went_well(self) -> "Ended":
        """With exit code 0."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self

    def refused(self, code: int, *words: str) -> str:
        """With this exit code, nothing on stdout, and these words on stderr, in one line; gives the line."""
        assert (self.code, self.out) == (code, ""), f"exit code {self.code}\n{self.out}\n{self.err}"
        for word in words:
            assert word in self.err, self.err
        assert "Traceback" not in self.err
        return self.err.strip()


@dataclass(frozen=True)
class Shell:
    """Where commands are run."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Without what the machine's own user has set."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
        home = {"HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder / "config"), "COLUMNS": "80"}
        return {**clean, **home, **self.settings}

    def under(self, **settings: str) -> "Shell":
        """With further environment."""
        return Shell(self.folder, {**self.settings, **settings})

    @contextlib.contextmanager
    def start(self, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
        """A command that goes on, at most to the end of the block. Ctrl-C ends it, also where it is ignored here."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [str(SCALEODM), *arguments],
            env=self.environment(),
            cwd=self.folder,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def inside(self, *arguments: str) -> Ended:
        """The same in this process, which has its libraries already: for the tenth fault of a kind."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment(), clear=True),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(arguments)
        return Ended(code, out.getvalue(), err.getvalue())

    def __call__(self, *arguments: str, stdin: str = "") -> Ended:
        """A command, to its end."""
        with self.start(*arguments) as process:
            out, err = process.communicate(stdin, timeout=60)
        return Ended(process.returncode, out, err)
