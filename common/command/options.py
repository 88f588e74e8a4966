"""Options of a task as they are typed: checked against what the engine has before anything is sent. Pure."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.command.endings import Exit, Trouble
from common.nodeodm.options import Option, OptionsInvalid, parse_options


def checked(typed: Mapping[str, str], catalogue: Sequence[Option]) -> list[dict[str, Any]]:
    """As `/task/new` takes them. Raises `Trouble` that names every problem, with what may have been meant."""
    known = {option.name: option for option in catalogue}
    problems = [_unknown(name, list(known)) for name in typed if name not in known]
    given = [{"name": name, "value": value} for name, value in typed.items() if name in known]
    try:
        settings = parse_options(given, catalogue)
    except OptionsInvalid as invalid:
        settings = ()
        problems += [_invalid(known[each["name"]], typed, each["error"]) for each in json.loads(str(invalid))]
    if problems:
        raise Trouble(Exit.USAGE, " ".join(problems))
    return [setting.as_json() for setting in settings]


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lstrip("-").replace("_", "-"), known, n=3, cutoff=0.6)
    meant = f"Did you mean {' or '.join(near)}?" if near else "`scaleodm options` lists those there are."
    return f"There is no option {name}. {meant}"


def _invalid(option: Option, typed: Mapping[str, str], error: str) -> str:
    value = typed[option.name]
    if option.type == "enum":
        near = difflib.get_close_matches(value, option.domain, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"{option.name}={value}: expected one of {', '.join(filter(None, option.domain))}{meant}."
    expected = "true or false" if option.type == "bool" else str(option.domain or option.type)
    return f"{option.name}={value}: {error}; expected {expected}."


def typed_options(given: Sequence[str] | None) -> dict[str, str]:
    """`NAME=VALUE` texts; a name alone switches on."""
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not name:
            raise Trouble(Exit.USAGE, f"--option {each!r}: expected NAME=VALUE, such as dsm=true.")
        found[name] = value if equals else "true"
    return found
