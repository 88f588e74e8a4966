"""ODM's log, written by an engine that is not ODM: the same lines, the same `log.json` (contract 9.3)."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from common.nodeodm.catalogue import STAGES


class OdmLog:
    """Prints ODM's lines and remembers them for `log.json`."""

    def __init__(self, engine: str) -> None:
        """`engine`: name and version, for the first line."""
        self._engine = engine
        self._started = datetime.now(UTC)
        self._stages: list[dict[str, Any]] = []
        self._open: str | None = None
        self.info(f"Initializing {engine} - {self._started:%c}")

    def info(self, message: str) -> None:
        """`[INFO]    …`."""
        self._write("INFO", message)

    def warning(self, message: str) -> None:
        """`[WARNING] …`."""
        self._write("WARNING", message)

    def error(self, message: str) -> None:
        """`[ERROR]   …`."""
        self._write("ERROR", message)

    def _write(self, level: str, message: str) -> None:
        tag = f"[{level}]"
        for line in message.splitlines() or [""]:
            sys.stdout.write(f"{tag:<9} {line}\n")
        sys.stdout.flush()
        if self._stages:
            self._stages[-1]["messages"].append({"message": message, "type": level.lower()})

    def reach(self, stage: str) -> None:
        """Go on to this stage; the ones in between are run through. Going back is staying."""
        begin = STAGES.index(self._open) + 1 if self._open else len(self._stages)
        for each in STAGES[begin : STAGES.index(stage) + 1]:
            self._finish()
            self._begin(each)

    def finish(self) -> None:
        """The last stage is done."""
        self._finish()
        self.info("No more stages to run")
        self.info(f"ODM app finished - {datetime.now(UTC):%c}")

    def _begin(self, stage: str) -> None:
        self._open = stage
        self._stages.append({"name": stage, "startTime": _now(), "messages": []})
        self.info(f"Running {stage} stage")

    def _finish(self) -> None:
        if self._open is not None:
            self.info(f"Finished {self._open} stage")
            self._stages[-1]["endTime"] = _now()
            self._open = None

    def document(self, images: int, options: dict[str, Any], error: str | None) -> dict[str, Any]:
        """The content of `log.json`."""
        memory = psutil.virtual_memory()
        ended = datetime.now(UTC)
        return {
            "odmVersion": self._engine,
            "memory": {"total": memory.total // 2**20, "available": memory.available // 2**20},
            "cpus": os.cpu_count(),
            "images": images,
            "options": options,
            "startTime": self._started.isoformat(),
            "stages": self._stages,
            "processes": [],
            "success": error is None,
            "error": None if error is None else {"code": 1, "message": error},
            "stackTrace": [],
            "endTime": ended.isoformat(),
            "totalTime": (ended - self._started).total_seconds(),
        }


class LibraryLog(logging.Handler):
    """What the library logs becomes ODM lines, and moves the stages on."""

    def __init__(self, log: OdmLog, stages: dict[str, str]) -> None:
        """`stages`: how a message begins → the stage that it belongs to."""
        super().__init__(logging.INFO)
        self._log = log
        self._reached = stages

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        message = record.getMessage().strip()
        for beginning, stage in self._reached.items():
            if message.startswith(beginning):
                self._log.reach(stage)
        if record.levelno >= logging.WARNING:
            self._log.warning(message)
        else:
            self._log.info(message)


def write_document(path: Path, document: object) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(document, indent=1, default=str))
    draft.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat()
