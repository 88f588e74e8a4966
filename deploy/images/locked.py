"""The part of requirements.lock that some extras need, for the images: `locked.py --extras router cli > part.txt`.

The lock is for all extras at once, and pip would install all of it. What asked for each package stands in its `# via`
lines; whatever the wanted extras reach by these is kept, with its hashes, and nothing is looked up anywhere. No extra
at all is what the project itself needs. `locked.py --packages hatchling` gives packages of the lock and what they need.
"""

import re
import sys
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

PROJECT = "scaleodm"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==")
_OWN_EXTRAS = re.compile(rf"{PROJECT}\[(?P<extras>[^]]+)\]")


class LockUnusable(Exception):
    """What is asked for is not there; the text says what."""


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(lock: str) -> dict[str, str]:
    """Each package's lines of the lock, by its name; of one that is there in several versions, by markers, all."""
    found: dict[str, str] = {}
    name = ""
    for line in lock.splitlines(keepends=True):
        if pinned := _PINNED.match(line):
            name = normal(pinned["name"])
        if name:
            found[name] = found.get(name, "") + line
    return found


def askers(block: str) -> set[str]:
    """Who needs the package of these lines, by its `# via` comment."""
    comments = re.findall(r"^ +#(?: +via)?(.*)$", block, re.MULTILINE)
    return {normal(name[0]) for comment in comments if (name := _NAME.search(comment))}


def directly_needed(project: Mapping[str, object], extras: Iterable[str]) -> set[str]:
    """What pyproject.toml itself names for these extras, those that they name in turn, and for the project.

    Raises `LockUnusable`.
    """
    optional: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    wanted: deque[str] = deque(extras)
    named: list[str] = list(project["dependencies"])  # type: ignore[call-overload]
    seen: set[str] = set()
    while wanted:
        if (extra := wanted.popleft()) not in seen:
            if extra not in optional:
                raise LockUnusable(f"pyproject.toml has no extra {extra}, only {', '.join(optional)}")
            seen.add(extra)
            own = [(each, _OWN_EXTRAS.match(each)) for each in optional[extra]]
            named += [each for each, found in own if found is None]
            wanted.extend(name.strip() for _, found in own if found for name in found["extras"].split(","))
    return {normal(found[0]) for each in named if (found := _NAME.match(each))}


def reached(found: Mapping[str, str], roots: Iterable[str]) -> set[str]:
    """Every package of the lock that these need, they themselves among them. Raises `LockUnusable`."""
    needs: dict[str, set[str]] = {}
    for name, block in found.items():
        for asker in askers(block):
            needs.setdefault(asker, set()).add(name)
    known: set[str] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name not in found:
            raise LockUnusable(f"requirements.lock has no {name}; make it anew with: make lock")
        if name not in known:
            known.add(name)
            ahead.extend(needs.get(name, ()))
    return known


def part(lock: str, roots: Iterable[str]) -> str:
    """The lines of the lock for these packages and all that they need. Raises `LockUnusable`."""
    found = blocks(lock)
    kept = reached(found, roots)
    return "".join(block for name, block in found.items() if name in kept)


def main(words: list[str]) -> int:
    """Print the part; gives the exit code."""
    if not words or words[0] not in ("--extras", "--packages"):
        sys.stderr.write("expected --extras, with names of extras or none, or --packages, with names of packages\n")
        return 2
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    try:
        roots = directly_needed(project, words[1:]) if words[0] == "--extras" else {normal(each) for each in words[1:]}
        sys.stdout.write(part((root / "requirements.lock").read_text(), roots))
    except LockUnusable as unusable:
        sys.stderr.write(f"{unusable}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
