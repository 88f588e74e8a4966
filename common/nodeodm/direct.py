"""Files that clients send straight to S3, without passing them through us.

A client announces files of an open upload and gets a presigned URL for each, or for large ones one URL per part. What
it announced is on record in staging, beside the files, so that every replica and every later life of this program knows
it; and nothing is committed before all of it lies there whole.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from uuid import uuid4
from weakref import WeakValueDictionary

from common.nodeodm.intake import too_many_images
from common.nodeodm.messages import clean_name, next_name
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import OpenUpload
from common.references import Reference, is_image
from common.storage import Storage, StoredPart

LINK_S = 3600
"""How long an upload link is good for; a client may ask for new ones at any time."""
LARGEST_PUT_BYTES = 64 * 1024 * 1024
"""Larger files are sent in parts."""
SMALLEST_PART_BYTES = 16 * 1024 * 1024
MOST_PARTS = 1000
"""Of one file; larger files have larger parts. S3 would take 10,000."""
MOST_FILE_BYTES = 1024**4
MOST_FILES = 100_000
"""That one upload may announce."""
MOST_AT_ONCE = 1000
"""Files of one request, and also the links that it may need."""
MOST_LINKS = 5000
MOST_BODY_BYTES = 1024 * 1024
MOST_NAME_CHARACTERS = 1024
DEFAULT_TYPE = "application/octet-stream"
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,60}/[A-Za-z0-9!#$&^_.+-]{1,100}")
_NAMED_MISSING = 10


@dataclass(frozen=True, slots=True)
class Announced:
    """One file that a client means to send."""

    asked: str
    """What the client calls it: a name, or a path of its own."""
    name: str
    """Under which it will lie."""
    size: int
    type: str
    upload_id: str | None = None
    """Of the upload in parts, when it is sent so."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file of a request for links, checked."""

    asked: str
    size: int
    type: str


def wanted_files(document: Mapping[str, object]) -> list[Wanted]:
    """The files of a request for links. Raises `Refused` for the first that is wrong."""
    files = document.get("files")
    if not isinstance(files, list) or not files:
        raise Refused('Expected {"files": [{"name": "a.jpg", "size": 1234}, …]} with at least one file.')
    if len(files) > MOST_AT_ONCE:
        raise Refused(f"{len(files)} files in one request; ask for at most {MOST_AT_ONCE} at once.")
    wanted = [_wanted(each, place) for place, each in enumerate(files)]
    links = sum(len(part_sizes(each.size)) if each.size > LARGEST_PUT_BYTES else 1 for each in wanted)
    if links > MOST_LINKS and len(wanted) > 1:
        raise Refused(f"These files need {links} links; ask for fewer files at once, so that {MOST_LINKS} are enough.")
    return wanted


def _wanted(raw: object, place: int) -> Wanted:
    where = f"files[{place}]"
    if not isinstance(raw, dict):
        raise Refused(f"{where} is no object such as {{}}.")
    size, kind = raw.get("size"), raw.get("type", DEFAULT_TYPE)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_FILE_BYTES:
        raise Refused(f"{where}.size must be the file's bytes, from 0 to {MOST_FILE_BYTES}.")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise Refused(f"{where}.type must be a media type such as image/jpeg.")
    return Wanted(_usable_name(raw.get("name"), f"{where}.name"), size, kind)


def _usable_name(raw: object, where: str) -> str:
    if not isinstance(raw, str) or not raw or len(raw) > MOST_NAME_CHARACTERS:
        raise Refused(f"{where} must be a file's name, of at most {MOST_NAME_CHARACTERS} characters.")
    try:
        raw.encode()
    except UnicodeEncodeError as broken:
        raise Refused(f"{where} is no text: it holds half a character.") from broken
    return raw


def names_of(document: Mapping[str, object]) -> list[str]:
    """The names in a request about files that were announced. Raises `Refused`."""
    names = document.get("names")
    if not isinstance(names, list) or not names:
        raise Refused('Expected {"names": ["a.jpg", …]}: names as the announcement\'s answer gave them.')
    return [_usable_name(each, f"names[{place}]") for place, each in enumerate(names)]


def part_sizes(size: int) -> list[int]:
    """The sizes of the parts of a large file, all the same but for the last."""
    least = -(-size // MOST_PARTS)
    mebibyte = 1024 * 1024
    part = max(SMALLEST_PART_BYTES, -(-least // mebibyte) * mebibyte)
    return [min(part, size - begin) for begin in range(0, size, part)]


def announcements(storage: Storage, images: Reference) -> dict[str, Announced]:
    """What has been announced for the upload whose files lie at `images`, by name."""
    found = {}
    for note in storage.listing(_notes(images)):
        for each in json.loads(storage.read(note.reference)):
            found[each["name"]] = Announced(**each)
    return found


def _notes(images: Reference) -> Reference:
    return Reference(images.bucket, images.key.removesuffix("images/")) / "announced/"


class DirectUploads:
    """Announces files, hands out links, and sees to it that what was announced is there."""

    def __init__(self, storage: Storage) -> None:
        """Keeps nothing but locks: what is known lies in S3."""
        self._storage = storage
        self._locks: WeakValueDictionary[Reference, asyncio.Lock] = WeakValueDictionary()

    def _lock(self, opened: OpenUpload) -> asyncio.Lock:
        return self._locks.setdefault(opened.prefix, asyncio.Lock())

    async def announce(
        self, opened: OpenUpload, wanted: Sequence[Wanted], most_images: int | None
    ) -> list[dict[str, object]]:
        """Links for these files; the answer's entries, in their order.

        A file of the same name and size as one announced before is that one, with fresh links; the second of such a
        pair within one request is the second that was announced.
        """
        async with self._lock(opened):
            known = await self._storage.run(announcements, self._storage, opened.prefix)
            matched = _matched(wanted, known.values())
            _check_counts(known.values(), [new for new, old in zip(wanted, matched, strict=True) if old is None])
            _check_images(known.values(), wanted, matched, most_images)
            files = await self._on_record(opened, wanted, matched)
        stored = await self._stored(opened.prefix)
        return await self._storage.run(lambda: [self._answer(opened.prefix, each, stored) for each in files])

    async def _on_record(
        self, opened: OpenUpload, wanted: Sequence[Wanted], matched: Sequence[Announced | None]
    ) -> list[Announced]:
        """The announcements of a request: those known before, and new ones, which are written down."""
        taken: list[str] = []
        files, new = [], []
        try:
            for ask, old in zip(wanted, matched, strict=True):
                if old is None:
                    name = await _claimed(opened, clean_name(ask.asked))
                    taken.append(name)
                    old = await self._with_parts(opened.prefix, Announced(ask.asked, name, ask.size, ask.type))
                    new.append(old)
                elif (again := await self._with_parts(opened.prefix, old)) != old:
                    await self._forget_notes(opened.prefix, {old.name})
                    new.append(again)
                    old = again
                files.append(old)
            await self._note(opened.prefix, new)
        except BaseException:
            for name in taken:
                await opened.inbox.release(name)
            raise
        return files

    async def _with_parts(self, images: Reference, file: Announced) -> Announced:
        """The same with an upload in parts that is open, where the file is a large one."""
        if file.size <= LARGEST_PUT_BYTES:
            return file
        target = images / file.name
        if file.upload_id is not None:
            is_open = await self._storage.run(self._storage.parts, target, file.upload_id) is not None
            if is_open or await self._storage.run(self._storage.exists, target):
                return file
        return replace(file, upload_id=await self._storage.run(self._storage.begin_parts, target, file.type))

    def _answer(self, images: Reference, file: Announced, stored: Mapping[str, int]) -> dict[str, object]:
        target = images / file.name
        answer: dict[str, object] = {"asked": file.asked, "name": file.name, "size": file.size}
        answer["stored"] = stored.get(file.name) == file.size
        if file.upload_id is None:
            url = self._storage.presigned_put(target, file.size, file.type, LINK_S)
            return answer | {"put": {"url": url, "headers": {"Content-Type": file.type}}}
        sizes = part_sizes(file.size)
        here = {each.number: each.size for each in self._storage.parts(target, file.upload_id) or ()}
        parts = [
            {"number": number, "offset": (number - 1) * sizes[0], "size": size}
            | {"url": self._storage.presigned_part(target, file.upload_id, number, size, LINK_S)}
            for number, size in enumerate(sizes, 1)
            if not answer["stored"] and here.get(number) != size
        ]
        return answer | {"parts": parts}

    async def withdraw(self, opened: OpenUpload, names: Sequence[str]) -> None:
        """These files will not come after all: what came of them goes, and nobody waits for them."""
        async with self._lock(opened):
            known = await self._storage.run(announcements, self._storage, opened.prefix)
            _check_known(names, known)
            for name in names:
                await self._storage.run(self._give_up, opened.prefix / name)
            await self._forget_notes(opened.prefix, set(names))
            for name in names:
                await opened.inbox.release(name)

    def _give_up(self, target: Reference) -> None:
        for each in self._storage.unfinished(target):
            if each.reference == target:
                self._storage.abort(each)
        self._storage.delete(target)

    async def complete(self, opened: OpenUpload, names: Sequence[str]) -> list[dict[str, object]]:
        """Make large files whole whose parts have all come; tells of each file whether it is, and what it lacks."""
        known = await self._storage.run(announcements, self._storage, opened.prefix)
        _check_known(names, known)
        files = [known[name] for name in names]
        lacking = await self._completed(opened.prefix, files)
        stored = await self._stored(opened.prefix)
        return [
            {
                "name": each.name,
                "stored": stored.get(each.name) == each.size,
                "missingParts": lacking.get(each.name, []),
            }
            for each in files
        ]

    async def settle(self, opened: OpenUpload) -> bool:
        """Before a commit: everything that was announced is there whole, or `Refused` tells what is not.

        Gives whether anything was announced.
        """
        known = await self._storage.run(announcements, self._storage, opened.prefix)
        if not known:
            return False
        stored = await self._stored(opened.prefix)
        open_parts = [each for each in known.values() if each.upload_id and stored.get(each.name) != each.size]
        if open_parts:
            await self._completed(opened.prefix, open_parts)
            stored = await self._stored(opened.prefix)
        missing = [each for each in known.values() if stored.get(each.name) != each.size]
        if missing:
            raise Refused(_missing_text(missing, stored))
        return True

    async def forget(self, opened: OpenUpload) -> None:
        """After a commit: the announcements are history, and so are parts of which nothing came."""
        await self._storage.run(self._storage.abort_left_uploads, opened.prefix)
        await self._storage.run(self._storage.delete_prefix, _notes(opened.prefix))

    async def _completed(self, images: Reference, files: Iterable[Announced]) -> dict[str, list[int]]:
        """Finish what can be finished; gives by name which parts are still missing."""
        parts = [each for each in files if each.upload_id is not None]
        lacking = await asyncio.gather(*(self._storage.run(self._finished, images, each) for each in parts))
        return dict(zip((each.name for each in parts), lacking, strict=True))

    def _finished(self, images: Reference, file: Announced) -> list[int]:
        assert file.upload_id is not None
        here = self._storage.parts(images / file.name, file.upload_id)
        if here is None:
            return []
        lacking = _lacking(file, here)
        if not lacking:
            self._storage.finish_parts(images / file.name, file.upload_id, here)
        return lacking

    async def _stored(self, images: Reference) -> dict[str, int]:
        """Sizes of what lies in staging, by name."""

        def look() -> dict[str, int]:
            return {each.reference.key.removeprefix(images.key): each.size for each in self._storage.listing(images)}

        return await self._storage.run(look)

    async def _note(self, images: Reference, files: Sequence[Announced]) -> None:
        if files:
            document = json.dumps([asdict(each) for each in files]).encode()
            note = _notes(images) / f"{uuid4()}.json"
            await self._storage.run(self._storage.write, note, document, "application/json")

    async def _forget_notes(self, images: Reference, names: set[str]) -> None:
        """Write the notes that hold these names once more, without them."""

        def write_anew() -> None:
            for note in list(self._storage.listing(_notes(images))):
                before = json.loads(self._storage.read(note.reference))
                after = [each for each in before if each["name"] not in names]
                if not after:
                    self._storage.delete(note.reference)
                elif after != before:
                    self._storage.write(note.reference, json.dumps(after).encode(), "application/json")

        await self._storage.run(write_anew)


async def _claimed(opened: OpenUpload, name: str) -> str:
    while not await opened.inbox.take(name):
        name = next_name(name)
    return name


def _matched(wanted: Iterable[Wanted], known: Iterable[Announced]) -> list[Announced | None]:
    """For each file the announcement of an earlier request that it repeats, if any."""
    left: dict[tuple[str, int], Iterator[Announced]] = {}
    slots: dict[tuple[str, int], list[Announced]] = {}
    for each in known:
        slots.setdefault((each.asked, each.size), []).append(each)
    for key, some in slots.items():
        left[key] = iter(sorted(some, key=lambda each: (len(each.name), each.name)))
    return [next(left.get((each.asked, each.size), iter(())), None) for each in wanted]


def _check_counts(known: Iterable[Announced], new: Sequence[Wanted]) -> None:
    count = sum(1 for _ in known) + len(new)
    if new and count > MOST_FILES:
        raise Refused(f"{count} files announced, but one upload may have {MOST_FILES}.")


def _check_images(
    known: Iterable[Announced], wanted: Sequence[Wanted], matched: Sequence[Announced | None], most: int | None
) -> None:
    """Told now, and not after hours of sending."""
    new = [ask for ask, old in zip(wanted, matched, strict=True) if old is None]
    images = sum(is_image(each.name) for each in known) + sum(is_image(clean_name(each.asked)) for each in new)
    if new and most is not None and images > most:
        raise Refused(too_many_images(images, most))


def _check_known(names: Sequence[str], known: Mapping[str, Announced]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refused(f"{unknown[0]!r} was not announced. Names are those that the announcement's answer gave.")


def _lacking(file: Announced, here: Sequence[StoredPart]) -> list[int]:
    sizes = {each.number: each.size for each in here}
    return [number for number, size in enumerate(part_sizes(file.size), 1) if sizes.get(number) != size]


def _missing_text(missing: Sequence[Announced], stored: Mapping[str, int]) -> str:
    told = [
        f"{each.name} ({stored[each.name]} bytes of {each.size})" if each.name in stored else each.name
        for each in sorted(missing, key=lambda each: each.name)
    ]
    rest = f" and {len(told) - _NAMED_MISSING} more" if len(told) > _NAMED_MISSING else ""
    verb = "file is" if len(told) == 1 else "files are"
    return (
        f"{len(told)} announced {verb} not here yet: {', '.join(told[:_NAMED_MISSING])}{rest}. Nothing is lost: send "
        "what is missing, or withdraw it, and commit again."
    )
