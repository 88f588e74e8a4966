"""Every setting is in the docs, and nothing else is."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from tests.docs.generated import written
from tests.docs.pages import ROOT, documents
from tests.docs.settings import ESSENTIAL, classes, rows, variables

_NOT_SETTINGS = {"SCALEODM_ORDER", "SCALEODM_WORKSPACE", "SCALEODM_TERMINATION_LOG"}
"""What a node says to the containers of its own Jobs (`node.manifests`)."""


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_generated_is_what_the_code_says(page: Path) -> None:
    """Settings, and what tasks take. `python -m tests.docs` writes it anew."""
    assert page.read_text() == written(page.read_text())


def test_every_setting_has_a_row() -> None:
    """On the page that has all of them."""
    page = (ROOT / "docs" / "settings.md").read_text()
    assert [each for each in sorted(_known()) if f"`{each}`" not in page] == []


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: str(kind.__name__))
def test_every_setting_says_what_it_means(kind: type[BaseSettings]) -> None:
    """By a docstring below its field; and every class by its own."""
    assert kind.__doc__
    assert [row.variable for row in rows(kind) if len(row.meaning) < len("Region.")] == []


def test_all_classes_are_found() -> None:
    """The six that there have always been, wherever they stand."""
    assert {
        "S3Settings",
        "InputSettings",
        "RouterSettings",
        "NodeSettings",
        "JobSettings",
        "CommandSettings",
    } <= {kind.__name__ for kind in classes()}


def test_no_document_names_a_setting_that_is_not_there() -> None:
    """Nor one that was renamed; in documents, manifests and what compose reads."""
    places = [*documents(), ROOT / "compose.yml", ROOT / ".env.example"]
    places += [path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".yaml", ".yml", ".env")]
    text = "\n".join(path.read_text() for path in places if path.exists())
    named = {name for name in re.findall(r"\bSCALEODM_[A-Z0-9_]+\b", text) if not name.endswith("_")}
    assert named - _known() - _of_tests() == set()


def test_the_code_reads_no_variable_that_is_no_setting() -> None:
    """A name in quotes that begins with ours is one that somebody can find."""
    sources = "".join(path.read_text() for package in ("common", "router", "node") for path in _sources(package))
    read = {name for name in re.findall(r"[\"'](SCALEODM_[A-Z0-9_]+)[\"']", sources) if not name.endswith("_")}
    assert read - _known() == _NOT_SETTINGS


def test_the_essential_ones_are_there() -> None:
    """README has these alone."""
    assert set(ESSENTIAL) <= _known()


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _known() -> set[str]:
    return {name for kind in classes() for name in variables(kind)}


def _of_tests() -> set[str]:
    """What steers tests is described where the tests are."""
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return set(re.findall(r"SCALEODM_TEST_[A-Z0-9_]+", sources))
