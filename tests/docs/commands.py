"""What can be said of a command without running it: that what it names is there.

For commands of the documents that need a cluster, a container engine or an afternoon, and for those in the prose.
"""

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from tests.common.command.document import commands as all_commands
from tests.docs.pages import ROOT

_OUTSIDE = {"apt-get", "docker", "git", "helm", "kind", "kubectl", "make", "pip", "systemctl", "tailscale"}
_SEPARATORS = {"&&", "||", ";", "|", "&", "(", ")", "$("}
_WRAPPERS = {"sudo", "exec", "time", "then", "do", "if", "!"}
_FILES = {"kubectl": ("-f", "-k", "--filename", "--kustomize"), "docker": ("-f", "--file"), "docker-compose": ("-f",)}
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: a program and its arguments."""

    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """Its name, without the folder."""
        return self.words[0].rpartition("/")[2]


def commands_in(script: str) -> list[Command]:
    """The simple commands of a script, in order. Enough of a shell's grammar for documents."""
    found: list[Command] = []
    words: list[str] = []
    for word in [*_words(script), ";"]:
        if word in _SEPARATORS or set(word) <= set("();&|\n"):
            found += _command(words)
            words = []
        else:
            words.append(word)
    return found


def outside(script: str) -> list[str]:
    """Programs in it that reach beyond a folder, and are not for a test to run."""
    named = {each.program for each in commands_in(script)} & _OUTSIDE
    return sorted(named | ({"sudo"} if re.search(r"\bsudo\b", script) else set()))


def _words(script: str) -> Iterator[str]:
    pending = ""
    for line in _without_here_documents(script).replace("\\\n", " ").replace("$(", " ; ").splitlines():
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="();&|")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation goes on in the next line
            pending += "\n"
            continue
        yield from [*words, ";"]
        pending = ""
    if pending:
        raise ValueError(f"a quotation has no end: {pending!r}")


def _without_here_documents(script: str) -> str:
    return re.sub(r"<<-?\s*'?(\w+)'?(.*\n)(?:.*\n)*?\1\n", r"\2", script if script.endswith("\n") else script + "\n")


def _command(words: Sequence[str]) -> list[Command]:
    rest = list(words)
    while rest and (rest[0] in _WRAPPERS or _ASSIGNMENT.fullmatch(rest[0])):
        rest.pop(0)
    return [Command(tuple(rest))] if rest else []


def fault(command: Command) -> str | None:
    """What is wrong with it; None where everything that it names is there, as far as that can be told."""
    if command.program == "scaleodm":
        return _of_scaleodm(command.words[1:])
    if command.program == "make":
        return _of_make(command.words[1:])
    if command.program in ("python", "python3"):
        return _of_python(command.words[1:])
    if command.program == "pytest":
        return _of_tests(command.words[1:])
    if command.program == "pip":
        return _of_pip(command.words[1:])
    if command.program in _FILES:
        return _of_paths(_valued(command.words, _FILES[command.program]))
    return None


def _of_scaleodm(words: Sequence[str]) -> str | None:
    known = dict(all_commands())
    groups = {name.partition(" ")[0] for name in known if " " in name}
    if not words or words[0].startswith("-"):
        return None
    rest = list(words)
    name = rest.pop(0)
    if name in groups:
        is_bare = not rest or rest[0].startswith("-")
        name = f"{name} {'list' if is_bare else rest.pop(0)}"
    if name not in known:
        return f"there is no `scaleodm {name}`"
    return _of_arguments(name, known[name], rest)


def _of_arguments(name: str, command: Any, words: list[str]) -> str | None:
    options = {opt: each for each in command.params for opt in (*each.opts, *each.secondary_opts) if opt[0] == "-"}
    takes = [each for each in command.params if not each.opts[0].startswith("-")]
    given = 0
    while words:
        word = words.pop(0)
        option, has_value, _ = word.partition("=")
        if word == "--help":
            return None
        if not word.startswith("-") or word == "-":
            given += 1
        elif option not in options:
            return f"`scaleodm {name}` has no option {option}"
        elif not options[option].is_flag and not has_value and words:
            words.pop(0)
    needed = sum(1 for each in takes if each.required)
    most = given if any(each.nargs == -1 for each in takes) else len(takes)
    if needed <= given <= most:
        return None
    return f"`scaleodm {name}` takes {needed} to {most} arguments, and gets {given}"


@cache
def make_targets() -> frozenset[str]:
    """The targets of the Makefile that have a rule."""
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _of_make(words: Sequence[str]) -> str | None:
    targets = [each for each in words if not _ASSIGNMENT.fullmatch(each) and not each.startswith("-")]
    variables = [each.partition("=")[0] for each in words if _ASSIGNMENT.fullmatch(each)]
    missing = [each for each in targets if each not in make_targets()]
    makefile = (ROOT / "Makefile").read_text()
    unread = [each for each in variables if f"$({each})" not in makefile and f"${{{each}}}" not in makefile]
    if missing or unread:
        return f"the Makefile has no {', '.join([*missing, *unread])}"
    return None


def _of_tests(words: Sequence[str]) -> str | None:
    return _of_paths([each.partition("::")[0] for each in words if each.startswith("tests")])


def _of_python(words: Sequence[str]) -> str | None:
    if list(words[:2]) == ["-m", "pytest"]:
        return _of_tests(words[2:])
    if len(words) < 2 or words[0] != "-m":
        return _of_paths([each for each in words[:1] if each.startswith(("tests/", "deploy/"))])
    path = ROOT / words[1].replace(".", "/")
    is_ours = words[1].partition(".")[0] in ("tests", "router", "node", "common")
    if not is_ours or path.with_suffix(".py").exists() or (path / "__main__.py").exists():
        return None
    return f"there is no module {words[1]}"


@cache
def extras() -> frozenset[str]:
    """The extras of the distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return frozenset(project["optional-dependencies"])


def _of_pip(words: Sequence[str]) -> str | None:
    asked = {name for word in words for found in re.findall(r"\[([\w,]+)\]", word) for name in found.split(",")}
    return f"there are no extras {sorted(asked - extras())}" if asked - extras() else None


def _of_paths(paths: Sequence[str]) -> str | None:
    """Paths as seen from the project's root; what is no path of the project (a URL, a placeholder) is let pass."""
    ours = [each.removeprefix("./") for each in paths if re.match(r"(\./)?(deploy|docs|tests|compose)", each)]
    missing = [each for each in ours if not (ROOT / each).exists()]
    return f"there is no {', '.join(missing)}" if missing else None


def _valued(words: Sequence[str], options: Sequence[str]) -> list[str]:
    joined = [word.partition("=")[2] for word in words if word.partition("=")[0] in options and "=" in word]
    return [value for option, value in pairwise(words) if option in options] + joined
