"""Texts are found in memory as a plain search through them would find them, whatever came and went."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from router.texts import Texts

WORDS = st.text(alphabet="aB0 İß%\x1f", max_size=6)
TEXTS = st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=3), st.tuples(WORDS, WORDS), max_size=20)


def plain(text: str) -> str:
    """How large and small letters are made one, and what stands between parts stands in none."""
    return text.casefold().replace("\x1f", " ")


@given(first=TEXTS, gone=st.lists(st.text(alphabet="abc", max_size=3)), later=TEXTS, wanted=WORDS.filter(bool))
def test_what_is_there_is_found_and_nothing_else(
    first: dict[str, tuple[str, str]], gone: list[str], later: dict[str, tuple[str, str]], wanted: str
) -> None:
    """Within one part, or at the beginning of one; after some were dropped, and came again under the same uuid."""
    texts, there = Texts(), dict(first)
    for uuid, parts in first.items():
        texts.add(uuid, *parts)
    for uuid in gone:
        if there.pop(uuid, None) is not None:
            texts.drop(uuid)
    for uuid, parts in later.items():
        if uuid not in there:
            there[uuid] = parts
            texts.add(uuid, *parts)
    found, begun = texts.holding(wanted, sys.maxsize), texts.beginning(wanted, sys.maxsize)
    assert found is not None
    assert begun is not None
    assert len(found) == len(set(found))
    needle = plain(wanted)
    assert set(found) == {uuid for uuid, parts in there.items() if any(needle in plain(part) for part in parts)}
    assert set(begun) == {
        uuid for uuid, parts in there.items() if any(plain(part).startswith(needle) for part in parts)
    }


def test_many_are_told_as_many_and_the_newest_stand_first() -> None:
    """Whoever asks for at most three gets three, or None."""
    texts = Texts()
    for number in range(4):
        texts.add(str(number), f"Field {number}")
    assert texts.holding("field", 4) == ["3", "2", "1", "0"]
    assert texts.holding("field", 3) is None
    texts.drop("2")
    assert texts.holding("FIELD", 3) == ["3", "1", "0"]


def test_what_has_gone_takes_no_room_for_ever() -> None:
    """A router that runs for months forgets as many tasks as it sees."""
    texts = Texts()
    for number in range(10_000):
        texts.add(str(number), "Field", "default")
        if number >= 10:
            texts.drop(str(number - 10))
    assert texts.holding("default", 20) == [str(number) for number in range(9_999, 9_989, -1)]
    assert len(texts._ids) <= 22
