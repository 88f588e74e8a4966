"""Every setting as documents tell of it, from the settings classes (`tests.docs.generated` writes the documents).

The meaning of a setting is the docstring below its field; what it takes and its default are its type's and its own.
"""

import ast
import importlib
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AliasChoices, AnyHttpUrl, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]
ESSENTIAL = (
    "SCALEODM_STAGING",
    "AWS_ENDPOINT_URL_S3",
    "SCALEODM_S3_PUBLIC_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "SCALEODM_ROUTER_DATABASE_URL",
    "SCALEODM_ROUTER_SECRET_KEY",
    "SCALEODM_ROUTER_ADMIN_TOKEN",
    "SCALEODM_ROUTER_HOST",
    "SCALEODM_NODE_ROUTER_URL",
    "SCALEODM_NODE_JOIN_TOKEN",
    "SCALEODM_NODE_NAME",
    "SCALEODM_NODE_URL",
    "SCALEODM_NODE_HOST",
    "SCALEODM_NODE_SLOTS",
    "SCALEODM_NODE_BACKEND",
    "SCALEODM_NODE_ENGINE",
    "SCALEODM_JOB_STAGES_IMAGE",
)
"""What one wants first who runs more than the embedded stack: README's own table."""
_TITLES = {
    "S3Settings": "S3",
    "InputSettings": "Inputs",
    "TailscaleSettings": "Tailscale",
    "LogSettings": "Logs",
    "RouterSettings": "Router",
    "NodeSettings": "Node",
    "JobSettings": "Jobs of a node in a cluster",
    "CommandSettings": "Command line",
}
"""In the order of the page; classes that are not named here come after these, by their own names."""
_UNITS = {
    "_s": "seconds",
    "_min": "minutes",
    "_h": "hours",
    "_days": "days",
    "_mib": "MiB",
    "_gib": "GiB",
    "_percent": "percent",
    "_port": "port",
}
_BOUNDS = {Gt: ("more than", "gt"), Ge: ("at least", "ge"), Lt: ("less than", "lt"), Le: ("at most", "le")}
_COMPUTED = {socket.gethostname: "the host's name"}
"""Defaults that are another on every machine."""
_HEAD = ("| variable | takes | default | meaning |", "|---|---|---|---|")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, as the page tells it."""

    variable: str
    aliases: tuple[str, ...]
    takes: str
    default: str
    meaning: str

    def written(self, folder: str = "") -> str:
        """As a row of a table, in a document that lies so far above `docs/`."""
        meaning = _linked(self.meaning, folder).replace("|", "\\|")
        also = f"; `{'`, `'.join(self.aliases)}` serves too" if self.aliases else ""
        return f"| `{self.variable}` | {self.takes} | {self.default} | {meaning.rstrip('.')}{also} |"


def _linked(text: str, folder: str = "") -> str:
    """With the pages that it names as links."""
    return re.sub(r"docs/([\w-]+\.md)", rf"[\1]({folder}\1)", text)


def classes() -> list[type[BaseSettings]]:
    """Every settings class of the three packages, wherever it stands."""
    found = [each for package in ("common", "router", "node") for each in _classes_below(ROOT / package)]
    order = list(_TITLES)
    return sorted(found, key=lambda each: order.index(each.__name__) if each.__name__ in order else len(order))


def _classes_below(folder: Path) -> Iterator[type[BaseSettings]]:
    for path in sorted(folder.rglob("*.py")):
        if "BaseSettings)" not in (text := path.read_text()):
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(each) == "BaseSettings" for each in node.bases):
                yield getattr(module, node.name)


def rows(kind: type[BaseSettings]) -> list[Row]:
    """The settings of one class, in its own order."""
    meanings = _meanings(kind)
    return [_row(kind, name, field, meanings.get(name, "")) for name, field in kind.model_fields.items()]


def variables(kind: type[BaseSettings]) -> list[str]:
    """The environment variables that settings are read from; other names that serve too come after each."""
    return [name for row in rows(kind) for name in (row.variable, *row.aliases)]


def _meanings(kind: type[BaseSettings]) -> dict[str, str]:
    """The docstring below each field, on one line."""
    path = Path(str(sys.modules[kind.__module__].__file__))
    body = next(
        node.body
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def _row(kind: type[BaseSettings], name: str, field: FieldInfo, meaning: str) -> Row:
    alias = field.validation_alias
    if alias is None:
        names = [(str(kind.model_config.get("env_prefix", "")) + name).upper()]
    else:
        names = [str(each) for each in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]
    return Row(names[0], tuple(names[1:]), _takes(name, field), _default(field), meaning)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory in _COMPUTED:
        return _COMPUTED[field.default_factory]
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, list | dict | tuple):
        return f"`{json.dumps(value)}`"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if text else "empty"


def _takes(name: str, field: FieldInfo) -> str:
    """What may stand there: unit or form, and its bounds."""
    kind = _bare(field.annotation)
    unit = next((unit for ending, unit in _UNITS.items() if f"_{name}".endswith(ending) and "_per_" not in name), None)
    if kind is int or kind is float:
        return ", ".join([unit or ("whole number" if kind is int else "number"), *_bounds(field)])
    return ", ".join([_form(kind), *_bounds(field)])


def _form(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{each.value}`" for each in kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{each}`" for each in get_args(kind))
    if get_origin(kind) in (list, tuple):
        return "JSON list"
    if get_origin(kind) is dict:
        return "JSON object"
    return {SecretStr: "secret", AnyHttpUrl: "URL", Path: "path", bool: "`true` or `false`"}.get(kind, "text")


def _bare(annotation: Any) -> Any:
    """A type without its `None`."""
    if get_origin(annotation) in (UnionType, Union):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        return inner[0] if len(inner) == 1 else str
    return annotation


def _bounds(field: FieldInfo) -> list[str]:
    told = []
    for each in field.metadata:
        if isinstance(each, MinLen):
            told.append(f"at least {each.min_length} characters")
        for kind, (words, attribute) in _BOUNDS.items():
            if isinstance(each, kind):
                told.append(f"{words} {getattr(each, attribute)}")
    return told


def tables() -> str:
    """All of them, a section for each class."""
    return "\n".join(_section(kind) for kind in classes())


def _section(kind: type[BaseSettings]) -> str:
    title = _TITLES.get(kind.__name__, kind.__name__.removesuffix("Settings"))
    said = _linked(" ".join((kind.__doc__ or "").split()))
    return "\n".join([f"## {title}", "", said, "", *_HEAD, *(row.written() for row in rows(kind))]) + "\n"


def essential_table() -> str:
    """Those that one wants first, for README."""
    known = {row.variable: row for kind in classes() for row in rows(kind)}
    return "\n".join([*_HEAD, *(known[name].written("docs/") for name in ESSENTIAL)]) + "\n"
