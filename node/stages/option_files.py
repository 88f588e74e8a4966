"""Options whose values reach the engine as files: too long for an argument, or lying in S3 (contract 9.6)."""

from collections.abc import Sequence
from pathlib import Path

from common import boundaries
from common.nodeodm.options import Setting
from common.references import Reference
from common.storage import Storage, StorageRefused
from node.stages.archives import InputUnusable

FILE_OPTIONS = ("boundary", "cameras")
_LONGEST_ARGUMENT = 100_000
"""Bytes; Linux takes 128 KiB."""


def text_of(storage: Storage, option: Setting) -> str:
    """What the option's file is to hold: a boundary in S3 is read and checked. Raises `InputUnusable`."""
    if option.name != boundaries.OPTION or not boundaries.is_reference(option.value):
        return str(option.value)
    reference = Reference.parse(str(option.value))
    try:
        return boundaries.checked(storage.read(reference).decode("utf-8-sig"))
    except (boundaries.BoundaryUnusable, UnicodeDecodeError, StorageRefused) as unusable:
        raise InputUnusable(f"Option boundary, {reference}: {unusable}") from unusable


def with_files(storage: Storage, options: Sequence[Setting], folder: Path) -> tuple[Setting, ...]:
    """The options as the engine is given them; files that they need are written to `folder`."""
    return tuple(_with_file(storage, option, folder) if _needs_file(option) else option for option in options)


def _needs_file(option: Setting) -> bool:
    if option.name not in FILE_OPTIONS or not isinstance(option.value, str):
        return False
    return boundaries.is_reference(option.value) or len(option.value.encode()) > _LONGEST_ARGUMENT


def _with_file(storage: Storage, option: Setting, folder: Path) -> Setting:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{option.name}.json"
    path.write_text(text_of(storage, option))
    return Setting(option.name, str(path))
