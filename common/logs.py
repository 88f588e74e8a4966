"""One log format for every program, and no token in any line (I9).

A line that concerns a task or a node says which. Whoever begins something for one says so once (`about`), and every
line from there on has it; where nobody has, a line's own words do.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from common.settings import LogSettings, SettingsUnusable, read_settings

_SECRETS = re.compile(r"(?i)((?:[?&]|\b)(?:token|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^&\s\"']+")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_OF_TASK = re.compile(rf"(?<![\w(/])(?:odm-)?(?P<task>{_UUID})(?:(?:-|:? attempt )(?P<attempt>\d+))?")
"""A task in the words of a line, or its Job. What stands in brackets is the id of something else."""
_OF_NODE = re.compile(r"(?:^|^foreign |\bby )node (?P<node>[A-Za-z0-9][A-Za-z0-9._-]*)")
_IN_PATH = re.compile(rf"/({_UUID})(?:/|$)")
_OURS = ("router", "node", "common")


@dataclass(frozen=True, slots=True)
class Concern:
    """What a line is about."""

    task: str = ""
    attempt: int = 0
    node: str = ""
    """Its name."""


_concern: ContextVar[Concern] = ContextVar("what is logged about", default=Concern())  # noqa: B039 - it cannot be changed


@contextmanager
def about(task: str = "", attempt: int = 0, node: str = "") -> Iterator[None]:
    """What is logged within, and by what is begun within, is about these, and about what it was before."""
    given = {name: value for name, value in (("task", task), ("attempt", attempt), ("node", node)) if value}
    token = _concern.set(replace(_concern.get(), **given))  # type: ignore[arg-type]  # each value is of its own kind
    try:
        yield
    finally:
        _concern.reset(token)


def task_in_path(path: str) -> str:
    """The task that a request is about, by its path; empty for one that is about none."""
    found = _IN_PATH.search(path) if not path.startswith("/federation") else None
    return found[1] if found is not None else ""


def scrubbed(text: str) -> str:
    """`text` with the values of tokens and URL signatures blotted out."""
    return _BEARER.sub(r"\1***", _SECRETS.sub(r"\1***", text))


class _Concerned(logging.Filter):
    """Adds to each record what it is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.concern = concern_of(record.getMessage(), _concern.get())
        return True


def concern_of(message: str, known: Concern) -> Concern:
    """What a line is about: by what is known where it is written, else by its own words. Pure."""
    if not known.task and (found := _OF_TASK.search(message)) is not None:
        known = replace(known, task=found["task"], attempt=int(found["attempt"] or 0))
    if not known.node and (found := _OF_NODE.search(message)) is not None:
        known = replace(known, node=found["node"])
    return known


class TextLines(logging.Formatter):
    """For people: what a line is about stands at its end, where its words do not say so already."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line without its traceback."""
        concern: Concern = getattr(record, "concern", Concern())
        named = (("task", concern.task), ("node", concern.node))
        missing = [f"{name}={value}" for name, value in named if value and value not in record.message]
        return super().formatMessage(record) + (f" [{' '.join(missing)}]" if missing else "")

    def format(self, record: logging.LogRecord) -> str:
        """The finished line, so that arguments and tracebacks are scrubbed too."""
        return scrubbed(super().format(record))


class JsonLines(logging.Formatter):
    """For programs: one JSON object a line."""

    def __init__(self, program: str, node: str) -> None:
        """`program` and, where it is a node's, its name, on every line."""
        super().__init__()
        self._program = program
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """Scrubbed before it is JSON: what comes after may not be any more."""
        concern: Concern = getattr(record, "concern", Concern())
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "program": self._program,
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
            "task": concern.task,
            "attempt": concern.attempt,
            "node": self._node or concern.node,
            "exception": scrubbed(self.formatException(record.exc_info)) if record.exc_info else "",
        }
        return json.dumps({name: value for name, value in told.items() if value}, ensure_ascii=False)


def start_logging(program: str = "", node: str = "") -> None:
    """Log to standard error as the environment says; `node`: the name of the node that this program is.

    Raises `SettingsUnusable` where it says what cannot be; then the log is as usual.
    """
    try:
        settings = read_settings(LogSettings)
    except SettingsUnusable:
        _start(LogSettings.model_construct(), program, node)
        raise
    _start(settings, program, node)


def _start(settings: LogSettings, program: str, node: str) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(_Concerned())
    handler.setFormatter(JsonLines(program, node) if settings.format == "json" else TextLines())
    # More than INFO of our own alone: what libraries tell then holds headers and signatures.
    logging.basicConfig(level=max(logging.INFO, getattr(logging, settings.level)), handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(settings.level)
    # httpx logs every request at INFO, heartbeats included.
    logging.getLogger("httpx").setLevel(logging.WARNING)
