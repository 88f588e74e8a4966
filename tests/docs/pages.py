"""The project's documents, read: what they link to, and the commands and code that they show."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(<?(?P<target>[^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HTML_LINK = re.compile(r"<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=\"(?P<target>[^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)\s*#*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a (?:id|name)=\"(?P<name>[^\"]+)\"")
_NOTE = re.compile(r"<!-- (?P<verb>not run|goes on until): (?P<said>[^>]+?) -->\s*\Z")
_INLINE = re.compile(r"(?<!`)`(?P<text>[^`\n]+)`(?!`)")
SHELL = ("sh", "bash", "shell")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document, with the note that stands right before it."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    """Why the test of commands does not run it."""
    until: str = ""
    """Text by which it shows that it is there: a program that goes on until it is stopped."""

    def __str__(self) -> str:
        """Where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """Every document that people read, README first."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    below = [path for folder in ("docs", "deploy") for path in sorted((ROOT / folder).rglob("*.md"))]
    return [path for path in top if path.exists()] + below


def blocks(page: Path) -> list[Block]:
    """Its fenced blocks, in order."""
    text = page.read_text()
    return [_block(page, text, found) for found in _FENCE.finditer(text)]


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    note = _NOTE.search(text, 0, found.start())
    said = {note["verb"]: " ".join(note["said"].split())} if note else {}
    line = text.count("\n", 0, found.start()) + 1
    inside = re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
    return Block(page, line, found["language"], inside, said.get("not run", ""), said.get("goes on until", ""))


def inline(page: Path) -> list[str]:
    """What stands between single backticks."""
    return [found["text"] for found in _INLINE.finditer(_prose(page))]


def links(page: Path) -> list[str]:
    """Where it links to, outside of blocks."""
    text = _INLINE.sub("", _prose(page))
    return [found["target"] for pattern in (_LINK, _HTML_LINK) for found in pattern.finditer(text)]


def anchors(page: Path) -> set[str]:
    """What a link into it may name: its headings as GitHub names them, and anchors made by hand."""
    text = _prose(page)
    found: list[str] = []
    for heading in _HEADING.finditer(text):
        slug = slug_of(heading["text"])
        again = sum(1 for each in found if each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each))
        found.append(f"{slug}-{again}" if again else slug)
    return {*found, *(each["name"] for each in _ANCHOR.finditer(text))}


def slug_of(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def internal(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Links into the project: as written, the file that is meant, and the anchor in it."""
    for target in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        yield target, ((page.parent / path).resolve() if path else page), anchor


def _prose(page: Path) -> str:
    """Without blocks, which may hold anything."""
    return _FENCE.sub("", page.read_text())
