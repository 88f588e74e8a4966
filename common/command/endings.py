"""How a command ends: the exit code that scripts read, and the sentence that people do. Pure."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; docs/command-line.md tells them."""

    OK = 0
    FAILED = 1
    """What was asked for was done or looked at, and did not go well: a task failed, a request was refused."""
    USAGE = 2
    """The command cannot be understood, or what it was given cannot be used. Nothing was sent."""
    UNREACHABLE = 3
    """Nobody answers at the address, or something else than ScaleODM does."""
    NOT_ALLOWED = 4
    """No token, one that is not known, or one of the wrong kind."""
    MISSING = 5
    """The task, node or token that was named is not there."""
    INTERRUPTED = 130
    """Ctrl-C."""


MEANINGS = {
    Exit.OK: "all went well",
    Exit.FAILED: "the task failed or was canceled, the request was refused, or `doctor` found a problem",
    Exit.USAGE: "the command cannot be understood, or what it was given cannot be used; nothing was sent",
    Exit.UNREACHABLE: "nobody answers at the address, or something that is not ScaleODM",
    Exit.NOT_ALLOWED: "no token, one that is not known there, or one of the wrong kind",
    Exit.MISSING: "the task, node or token that was named is not there",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}


class Trouble(Exception):
    """A command cannot go on. The text is one sentence or two: what is wrong, what to do."""

    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code
