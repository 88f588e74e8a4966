"""The option catalogue of an engine: what it offers, and how a client's options are read and checked. Pure.

The rules are NodeODM's (contract 4), JavaScript's number parsing included, because clients depend on them: WebODM
sends every number as text, PyODM sends typed values, ClusterODM checks with the same rules before it forwards.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from common import boundaries
from common.nodeodm.json_text import read_json

OptionValue = bool | int | float | str

AUTOMATIC_OPTIONS = ("pc-ept", "cog", "gltf")
"""Set to true where the engine has them and the client did not speak of them (contract 4.4)."""

MAX_CONCURRENCY = "max-concurrency"


class Setting(NamedTuple):
    """One option with the value that a client gave it."""

    name: str
    value: OptionValue

    def as_json(self) -> dict[str, OptionValue]:
        """As it stands in a task's info."""
        return {"name": self.name, "value": self.value}


class OptionsUnreadable(Exception):
    """The options are not JSON, or not a list of objects."""


class OptionsInvalid(Exception):
    """Some options have values outside their domain; the text is the JSON of contract 4.3."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        """`problems`: option name and what is wrong with it, in catalogue order."""
        told = [{"name": name, "error": error} for name, error in problems]
        super().__init__(json.dumps(told, separators=(",", ":"), ensure_ascii=False))


class _ValueRefused(Exception):
    """One value is not what its option takes."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of an engine, as `GET /options` tells it (contract 2.4)."""

    name: str
    type: str
    """`int`, `float`, `string`, `bool` or `enum`."""
    value: str
    """The default, always text."""
    domain: str | tuple[str, ...]
    """What values it takes: a rule in words, or the members of an enum."""
    help: str

    def as_json(self) -> dict[str, str | list[str]]:
        """Exactly the five keys that PyODM accepts."""
        domain = self.domain if isinstance(self.domain, str) else list(self.domain)
        return {
            "name": self.name,
            "type": self.type,
            "value": self.value,
            "domain": domain,
            "help": self.help,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Option":
        """Read back what `as_json` wrote."""
        domain = document["domain"]
        return cls(
            name=document["name"],
            type=document["type"],
            value=document["value"],
            domain=domain if isinstance(domain, str) else tuple(domain),
            help=document["help"],
        )

    def convert(self, raw: object) -> OptionValue:
        """A client's value, typed and checked; raises with the sentence of contract 4.2."""
        if self.name == boundaries.OPTION:
            return _boundary(raw)
        value = _CONVERTERS.get(self.type, _as_given)(raw, self)
        if isinstance(self.domain, str) and self.domain and self.type != "bool":
            _check_domain(value, self.domain)
        return value


def parse_options(raw: object, catalogue: Sequence[Option]) -> tuple[Setting, ...]:
    """Read a request's options: unknown names are dropped, the rest comes typed and in catalogue order.

    Raises `OptionsUnreadable`, or `OptionsInvalid` with every problem at once.
    """
    given = _first_by_name(_listed(raw))
    settings: list[Setting] = []
    problems: list[tuple[str, str]] = []
    for option in catalogue:
        if option.name in given:
            try:
                settings.append(Setting(option.name, option.convert(given[option.name])))
            except _ValueRefused as refused:
                problems.append((option.name, str(refused)))
    if problems:
        raise OptionsInvalid(problems)
    return tuple(settings)


def with_automatic(
    settings: Sequence[Setting], catalogue: Sequence[Option], skip_post_processing: bool
) -> tuple[Setting, ...]:
    """The settings with those appended that NodeODM adds by itself (contract 4.4)."""
    if skip_post_processing:
        return tuple(settings)
    offered = {option.name for option in catalogue}
    given = {setting.name for setting in settings}
    added = (Setting(name, True) for name in AUTOMATIC_OPTIONS if name in offered and name not in given)
    return (*settings, *added)


def with_concurrency(settings: Sequence[Setting], catalogue: Sequence[Option], most: int | None) -> tuple[Setting, ...]:
    """The settings with `max-concurrency` at `most` at the most, where the engine has it (contract 4.4)."""
    if most is None or all(option.name != MAX_CONCURRENCY for option in catalogue):
        return tuple(settings)
    given = next((each.value for each in settings if each.name == MAX_CONCURRENCY), most)
    capped = Setting(MAX_CONCURRENCY, min(given, most) if isinstance(given, int | float) else most)
    if all(each.name != MAX_CONCURRENCY for each in settings):
        return (*settings, capped)
    return tuple(capped if each.name == MAX_CONCURRENCY else each for each in settings)


def _listed(raw: object) -> list[object]:
    if isinstance(raw, str):
        try:
            raw = read_json(raw)
        except ValueError as wrong:
            raise OptionsUnreadable(
                f'The options are not JSON: {wrong}. Expected a list such as [{{"name": "dsm", "value": true}}].'
            ) from wrong
    return raw if isinstance(raw, list) else []


def _first_by_name(entries: list[object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in entries:
        if entry is None:
            raise OptionsUnreadable("Cannot read properties of null (reading 'name')")
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            found.setdefault(entry["name"], entry.get("value"))
    return found


# JavaScript's idea of numbers

_MOST_DIGITS = 250
"""JavaScript's numbers end at 308; a few less spare us both of hexadecimal's."""
_INTEGER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(\d+))")
_FLOAT = re.compile(r"\s*([+-]?(?:Infinity|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))")


def parse_int(raw: object) -> float:
    """JavaScript's `parseInt`: a whole number, or NaN."""
    found = _INTEGER.match(_as_text(raw))
    if not found:
        return math.nan
    sign, hexadecimal, decimal = found.groups()
    if max(len(hexadecimal or ""), len(decimal or "")) > _MOST_DIGITS:
        return -math.inf if sign == "-" else math.inf
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    return _as_number(-number if sign == "-" else number)


def _as_number(number: int) -> float:
    """A whole number as JavaScript holds it: exact where it can be, and as it is told in JSON everywhere."""
    return number if abs(number) < 2**53 else float(number)


def parse_float(raw: object) -> float:
    """JavaScript's `parseFloat`."""
    found = _FLOAT.match(_as_text(raw))
    return float(found.group(1)) if found else math.nan


def _as_text(raw: object) -> str:
    """A JSON value as JavaScript's `String` spells it, as far as numbers are concerned."""
    if isinstance(raw, bool) or raw is None or isinstance(raw, dict):
        return ""
    if isinstance(raw, list):
        return _as_text(raw[0]) if raw else ""
    return repr(raw) if isinstance(raw, float) else str(raw)


def _shown(value: object) -> str:
    """A value as JavaScript's template strings print it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _shown_number(value)
    return "undefined" if value is None else str(value)


def _shown_number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)


# Conversion, by type


def _boundary(raw: object) -> OptionValue:
    """Inline GeoJSON, or where it lies in S3; ODM takes the path of a file too, which nobody has here."""
    try:
        return boundaries.boundary_of(raw)
    except boundaries.BoundaryUnusable as unusable:
        raise _ValueRefused(str(unusable)) from unusable


def _as_given(raw: object, option: Option) -> OptionValue:
    del option
    if isinstance(raw, bool | str):
        return raw
    if isinstance(raw, int) and abs(raw) < 10**_MOST_DIGITS:
        return _as_number(raw)
    if isinstance(raw, float) and math.isfinite(raw):
        return raw
    raise _ValueRefused(f"Invalid value {_shown(raw)} (out of range)")


def _to_int(raw: object, option: Option) -> OptionValue:
    del option
    return parse_int(raw)


def _to_float(raw: object, option: Option) -> OptionValue:
    del option
    number = parse_float(raw)
    return int(number) if number.is_integer() and not isinstance(raw, float) and abs(number) < 2**53 else number


def _to_bool(raw: object, option: Option) -> OptionValue:
    del option
    if raw is True or raw in ("true", "1"):
        return True
    if raw is False or raw in ("false", "0"):
        return False
    raise _ValueRefused(f"Cannot convert {_shown(raw)} to boolean")


def _to_member(raw: object, option: Option) -> OptionValue:
    if isinstance(raw, str) and raw in option.domain:
        return raw
    raise _ValueRefused(f"Invalid value {_shown(raw)} (not in enum)")


_CONVERTERS: Mapping[str, Callable[[object, Option], OptionValue]] = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "enum": _to_member,
    "string": _as_given,
}

# Domains, by the words in which the engine states them

_RANGE = re.compile(r"^(?:float|integer):\s*(-?[\d.]+)\s*<=\s*x\s*<=\s*(-?[\d.]+)$")
_BOUND = re.compile(r"^(?:float|integer)\s*(>=|<=|>|<)\s*(-?[\d.]+)$")


def _check_domain(value: OptionValue, domain: str) -> None:
    check = _CHECKS.get(domain) or _bounds(domain)
    if check is None:
        raise _ValueRefused(f"Domain value cannot be handled: '{domain}' : '{_shown(value)}'")
    infinite = isinstance(value, float) and not math.isfinite(value)
    if infinite or not check(value):
        raise _ValueRefused(f"Invalid value {_shown(value)} (out of range)")


def _is_number(value: OptionValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: OptionValue) -> float:
    """The value as a number; text counts as the number it spells, as JavaScript's comparisons have it."""
    return float(value) if _is_number(value) else parse_float(value)


def _is_json_text(value: OptionValue) -> bool:
    if not isinstance(value, str):
        return False
    try:
        read_json(value)
    except ValueError:
        return False
    return True


_CHECKS: Mapping[str, Callable[[OptionValue], bool]] = {
    "integer": lambda value: math.isfinite(_number(value)) and _number(value).is_integer(),
    "float": lambda value: math.isfinite(_number(value)),
    "positive integer": lambda value: _number(value) >= 0,
    "positive float": lambda value: _number(value) >= 0,
    "negative integer": lambda value: _number(value) <= 0,
    "negative float": lambda value: _number(value) <= 0,
    "percent": lambda value: 0 <= _number(value) <= 100,
    "json": _is_json_text,
    "string": lambda _: True,
    "path": lambda _: True,
}
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
}


def _bounds(domain: str) -> Callable[[OptionValue], bool] | None:
    if found := _RANGE.match(domain):
        low, high = float(found.group(1)), float(found.group(2))
        return lambda value: low <= _number(value) <= high
    if found := _BOUND.match(domain):
        compare, bound = _COMPARISONS[found.group(1)], float(found.group(2))
        return lambda value: compare(_number(value), bound)
    return None
