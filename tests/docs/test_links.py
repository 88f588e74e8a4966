"""Every link between the project's documents leads somewhere, and every page can be found from the index."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors, documents, inline, internal, slug_of

INDEX = ROOT / "docs" / "README.md"
_PATH = re.compile(r"(?:common|router|node|tests|deploy|docs)/[\w./-]*\w(?:/|\.\w+|::\w+)*")


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, in the repository and not above it; an anchor to a heading."""
    broken = [target for target, path, anchor in internal(page) if not _leads(path, anchor)]
    assert broken == []


def _leads(path: Path, anchor: str) -> bool:
    if not path.exists() or not path.is_relative_to(ROOT):
        return False
    return not anchor or (path.suffix == ".md" and anchor in anchors(path))


def test_every_page_is_in_the_index() -> None:
    """Of docs and deploy: a page that nobody is led to is not read."""
    linked = {path for _, path, _ in internal(INDEX)}
    pages = {path for path in documents() if path.parent != ROOT} - {INDEX}
    assert sorted(str(path.relative_to(ROOT)) for path in pages - linked) == []


def test_the_index_is_found_from_the_readme() -> None:
    """And CONTRIBUTING and the changelog."""
    linked = {path for _, path, _ in internal(ROOT / "README.md")}
    assert {INDEX, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"} <= linked


def test_no_picture_lies_about_unused() -> None:
    """And none is missing, which the links tell."""
    pictures = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".svg", ".png", ".jpg")}
    shown = {path for page in documents() for _, path, _ in internal(page)}
    assert sorted(str(path.relative_to(ROOT)) for path in pictures - shown) == []


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_the_prose_names_are_there(page: Path) -> None:
    """What stands between backticks and looks like a path below one of our folders."""
    named = [each.partition("::")[0] for each in inline(page) if _PATH.fullmatch(each)]
    assert [each for each in named if not (ROOT / each).exists() and not (page.parent / each).exists()] == []


@pytest.mark.parametrize(
    ("heading", "slug"),
    [
        ("Router ↔ node", "router--node"),
        ("`zipurl` over http(s)", "zipurl-over-https"),
        ("In [Python](x.md)", "in-python"),
        ("2.1 `GET /`", "21-get-"),
    ],
)
def test_anchors_are_those_that_github_makes(heading: str, slug: str) -> None:
    """Letters, digits, hyphens and underscores stay; blanks become hyphens."""
    assert slug_of(heading) == slug
