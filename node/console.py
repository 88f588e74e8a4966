"""Console lines in a file, readable by line number, in memory that does not grow with their length."""

import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from common.families import without_family_tokens

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def clean_line(raw: str) -> str:
    """A line as clients may see it: no colours, none of our tokens, never the bare word `error`, on which PyODM
    chokes (contract 8.1)."""
    line = without_family_tokens(_COLOURS.sub("", raw).replace("\x00", "").strip())
    return f"[{line}]" if line == "error" else line


class ConsoleWriter:
    """Appends lines to a console file; each is there for readers at once."""

    def __init__(self, path: Path) -> None:
        """`path`: the console file, made when missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, text: str) -> None:
        """Append the non-blank lines of `text`."""
        for raw in text.splitlines():
            line = clean_line(raw)
            if line:
                self._file.write(line + "\n")

    def close(self) -> None:
        """No more lines."""
        self._file.close()


class Console:
    """Reads a console file that another process may still be writing: eight bytes of memory a line."""

    def __init__(self, path: Path) -> None:
        """`path`: the console file; it need not exist yet."""
        self._path = path
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        """How many whole lines there are now."""
        self._index()
        return len(self._ends) - 1

    def lines(self, first: int, most: int | None = None) -> list[str]:
        """Lines from number `first` on, at most `most` of them."""
        last = len(self) if most is None else min(len(self), first + most)
        if first >= last:
            return []
        with self._path.open("rb") as file:
            file.seek(self._ends[first])
            block = file.read(self._ends[last] - self._ends[first])
        return block.decode("utf-8", "replace").split("\n")[:-1]

    def _index(self) -> None:
        """Look at what was appended since the last look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            position = self._ends[-1]
            file.seek(position)
            for block in _blocks(file.read):
                found = block.find(b"\n")
                while found >= 0:
                    self._ends.append(position + found + 1)
                    found = block.find(b"\n", found + 1)
                position += len(block)


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(1 << 20):
        yield block
