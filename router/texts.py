"""Finding a text among those of a hundred thousand tasks, in memory and at the speed of `str.rfind`.

Postgres would read every row for it: what makes that fast there is an extension that not every Postgres lets one have.
All texts lie in one long string, the newest last. What is dropped stays in it until that is half of it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator

_BREAK = "\x1f"
"""Stands before every part of a text, and in none."""


class Texts:
    """Short texts by uuid."""

    def __init__(self) -> None:
        """None yet."""
        self._ids: list[str] = []
        self._starts = array("Q")
        self._text = ""
        self._length = 0
        self._new: list[str] = []
        """What is still to be put at the end of the long string."""
        self._dropped: set[str] = set()

    def add(self, uuid: str, *parts: str) -> None:
        """Keep a text under a uuid that has none; a search finds what lies within one of its parts."""
        if uuid in self._dropped:
            self._compact()
        self._append(uuid, "".join(f"{_BREAK}{_folded(part)}" for part in parts))

    def drop(self, uuid: str) -> None:
        """Forget one that is there."""
        self._dropped.add(uuid)
        if len(self._dropped) * 2 > len(self._ids):
            self._compact()

    def holding(self, wanted: str, most: int) -> list[str] | None:
        """Uuids of the texts in which this stands, in small letters or large; None where they are more than `most`."""
        return self._found(_folded(wanted), most)

    def beginning(self, wanted: str, most: int) -> list[str] | None:
        """Likewise of those of which a part begins so."""
        return self._found(_BREAK + _folded(wanted), most)

    def _append(self, uuid: str, text: str) -> None:
        self._ids.append(uuid)
        self._starts.append(self._length)
        self._new.append(text)
        self._length += len(text)

    def _compact(self) -> None:
        kept = list(self._entries())
        self._ids, self._starts, self._text, self._length = [], array("Q"), "", 0
        self._new, self._dropped = [], set()
        for uuid, text in kept:
            self._append(uuid, text)

    def _entries(self) -> Iterator[tuple[str, str]]:
        text, ends = self._joined(), [*self._starts[1:], self._length]
        for uuid, start, end in zip(self._ids, self._starts, ends, strict=True):
            if uuid not in self._dropped:
                yield uuid, text[start:end]

    def _joined(self) -> str:
        if self._new:
            self._text = "".join((self._text, *self._new))
            self._new.clear()
        return self._text

    def _found(self, wanted: str, most: int) -> list[str] | None:
        found: list[str] = []
        text, end = self._joined(), self._length
        while (at := text.rfind(wanted, 0, end)) >= 0:
            place = bisect_right(self._starts, at) - 1
            # Once is enough: what is looked for next ends before this text begins.
            end = self._starts[place]
            if self._ids[place] in self._dropped:
                continue
            if len(found) == most:
                return None
            found.append(self._ids[place])
        return found


def _folded(text: str) -> str:
    """As texts are kept and looked for: large and small letters are one, and nothing is taken for a break."""
    return text.casefold().replace(_BREAK, " ")
