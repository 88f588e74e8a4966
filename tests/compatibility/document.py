"""`docs/compatibility.md`, written from the catalogue and from the tests that name its rows.

Tests are read, not imported: a mark is a decorator `@pytest.mark.contract("…")` above a function, and what it runs
against is told by the fixtures that the function takes.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.compatibility.catalogue import CATALOGUE, SECTIONS, Kind, Row

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PLACE = ROOT / "docs" / "compatibility.md"
_NOT_COLLECTED = {"cluster"}
"""Folders of tests that need what not every machine has."""

ARRANGEMENTS = {
    "node": "a node on its own, whose runs are processes",
    "kubernetes": "a node whose runs are Jobs of a (stand-in) Kubernetes cluster",
    "one": "a router over one node",
    "router": "a router over two nodes",
    "above": "a router over a router",
}
"""What the fixture `wire` of `tests/conftest.py` runs a test against."""
_FIXTURES: dict[str, tuple[str, ...]] = {
    **{f"{name}_wire": (name,) for name in ARRANGEMENTS},
    "federation": ("router",),
    "stack": ("router",),
    "kubernetes_node": ("kubernetes",),
    "one": ("one",),
    "above": ("above",),
}

_HEAD = """# What a NodeODM client may count on

<!-- Written by `python -m tests.compatibility` from the tests themselves; a test fails when the two differ. -->

A row for each behaviour that the NodeODM API has, or that a client depends on, with the test that proves ours.
*Same*: a client cannot tell us from NodeODM. *Better*: what works there works here, and more does. *Different on
purpose*: the middle column says why. *Not kept*: no client known to us needs it.
Sections are numbered as in the description of the wire contract that this was built from (NodeODM 2.2.4).

Tests marked **all five** run against every arrangement in which the API is spoken: {arrangements}. Other marks name the
arrangements they run against; a test without any needs no server, or starts its own.
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """A test, and what it stands for."""

    path: str
    """Below the project's root."""
    name: str
    rows: tuple[str, ...]
    arrangements: tuple[str, ...]

    def told(self) -> str:
        """A link, for a document in `docs/`."""
        where = "all five" if set(self.arrangements) == set(ARRANGEMENTS) else ", ".join(self.arrangements)
        return f"[`{self.name}`](../{self.path})" + (f" ({where})" if where else "")


def proofs() -> list[Proof]:
    """Every test that names a row, in the order of files and lines."""
    paths = (
        path for path in sorted(TESTS.rglob("test_*.py")) if path.relative_to(TESTS).parts[0] not in _NOT_COLLECTED
    )
    return [proof for path in paths for proof in _proofs_in(path)]


def _proofs_in(path: Path) -> Iterator[Proof]:
    source = path.read_text()
    if "mark.contract" not in source:
        return
    functions = _functions(source)
    conftest = path.with_name("conftest.py")
    near = [*functions, *(_functions(conftest.read_text()) if conftest.exists() else ())]
    own = next((each for each in near if each.name == "wire"), None)
    fixtures = _FIXTURES | {"wire": tuple(ARRANGEMENTS) if own is None else _params(own)}
    for function in sorted(functions, key=lambda each: each.lineno):
        rows = tuple(row for each in function.decorator_list for row in _rows_of(each))
        if rows:
            assert function.name.startswith("test_"), f"{path}: {function.name} is no test"
            found = {each for argument in function.args.args for each in fixtures.get(argument.arg, ())}
            against = tuple(each for each in ARRANGEMENTS if each in found)
            yield Proof(path.relative_to(ROOT).as_posix(), function.name, rows, against)


def _functions(source: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]


def _params(fixture: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    """The arrangements that a fixture `wire` of a file, or of its folder, goes through."""
    nodes = (each for decorator in fixture.decorator_list for each in ast.walk(decorator))
    words = {each.value for each in nodes if isinstance(each, ast.Constant)}
    return tuple(each for each in ARRANGEMENTS if each in words)


def _rows_of(decorator: ast.expr) -> Iterator[str]:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.contract":
        for argument in decorator.args:
            assert isinstance(argument, ast.Constant), f"rows are named in plain text: {ast.unparse(decorator)}"
            yield str(argument.value)


def by_row(found: Iterable[Proof]) -> Mapping[str, list[Proof]]:
    """Tests by the rows that they name."""
    table: defaultdict[str, list[Proof]] = defaultdict(list)
    for proof in found:
        for row in proof.rows:
            table[row].append(proof)
    return table


def document(found: Iterable[Proof]) -> str:
    """The whole file."""
    proven = by_row(found)
    parts = [_HEAD.format(arrangements="; ".join(ARRANGEMENTS.values()))]
    for section, title in SECTIONS.items():
        rows = [row for row in CATALOGUE if row.section == section]
        lines = [f"## {section} {title}", ""]
        if section == "10":
            lines += ["The left column is what ScaleODM in Go does.", ""]
        lines += [_line("behaviour", "ours", "proven by"), _line("---", "---", "---")]
        lines += [_line(_says(row), _ours(row), _proven(proven.get(row.name, []))) for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _says(row: Row) -> str:
    return f"{row.name.partition(' ')[2]}. {row.says}" if row.section == "10" else row.says


def _ours(row: Row) -> str:
    return f"{row.kind}: {row.why}" if row.why else str(row.kind)


def _proven(found: Sequence[Proof]) -> str:
    return "<br>".join(dict.fromkeys(proof.told() for proof in found)) or "–"


def _line(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"


def unproven(found: Iterable[Proof]) -> list[str]:
    """Rows that should have a test and have none."""
    proven = by_row(found)
    return [row.name for row in CATALOGUE if row.kind is not Kind.NOT_KEPT and row.name not in proven]
