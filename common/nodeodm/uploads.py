"""Files on their way from a client's request to S3 staging, in bounded memory.

A multipart body is parsed as it arrives and every file streamed onward. S3 shows an object only when it is whole,
so a connection that drops in the middle of a file leaves nothing behind; and a file that comes twice, because the
client never saw our answer, is kept once (contract 2.10 tells how NodeODM fails at both).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from common.nodeodm.messages import clean_name, next_name
from common.references import Reference
from common.storage import PART_BYTES, ObjectWriter, Piece, Storage

FILE_FIELD = "images"
MOST_FIELD_BYTES = 1024 * 1024
"""Longest text field (contract 1.2)."""
MOST_FIELDS = 1000
MOST_TEXT_BYTES = 8 * 1024 * 1024
"""Of all text fields together."""
_LARGE_PIECE = 64 * 1024
"""Bytes of a file that are kept as they came; smaller ones are put together."""
PATIENCE_S = 5.0
"""How long a file waits for another of its name that is on its way, before it takes the next name."""
_EXTENDED_FILENAME = re.compile(rb";\s*filename\*\s*=\s*utf-8'[^';]*'([^;\s]*)", re.IGNORECASE)


class FormUnreadable(Exception):
    """A multipart body cannot be read; the texts are NodeODM's (contract 1.2)."""


class FileReceiver(Protocol):
    """Takes one file of a form."""

    async def write(self, data: bytes | memoryview) -> None:
        """More of the file, of bytes that never change."""
        ...

    async def finish(self) -> None:
        """The file is whole."""
        ...

    async def abort(self) -> None:
        """The file will never be whole: leave nothing of it."""
        ...


class Inbox(Protocol):
    """The names of an upload's files. A name is claimed before its file is stored."""

    async def take(self, name: str) -> bool:
        """Take a name; false when it is taken. Raises `Refused` when the upload is no longer open."""
        ...

    async def release(self, name: str) -> None:
        """The name is free again."""
        ...


class MemoryInbox:
    """An inbox of one process."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """`names`: those that are taken already."""
        self._names = set(names)

    def names(self) -> list[str]:
        """The names that are taken."""
        return sorted(self._names)

    async def take(self, name: str) -> bool:
        """See `Inbox`."""
        if name in self._names:
            return False
        self._names.add(name)
        return True

    async def release(self, name: str) -> None:
        """See `Inbox`."""
        self._names.discard(name)


class StagedFile:
    """One file on its way into staging: one PUT when it is small, in parts when it is large.

    Two different files of one name are both kept. The very same file under a name that was taken is a client's
    repetition: it yields to the one that came first. Where the first one is still on its way, as happens when a client
    lost its connection and comes again at once, what becomes of it is waited for.
    """

    def __init__(self, asked: str, inbox: Inbox, storage: Storage, prefix: Reference) -> None:
        """`asked`: what the client calls it; `prefix`: where the upload's files lie."""
        self._asked = clean_name(asked)
        self._inbox = inbox
        self._storage = storage
        self._prefix = prefix
        self._held: list[Piece] = []
        self._held_bytes = 0
        self._name: str | None = None
        self._writer: ObjectWriter | None = None

    async def write(self, data: bytes | memoryview) -> None:
        """Hold small files back; send large ones on, part by part."""
        if len(data) >= _LARGE_PIECE or not self._held or not isinstance(self._held[-1], bytearray):
            self._held.append(data if len(data) >= _LARGE_PIECE else bytearray(data))
        else:
            self._held[-1] += data
        self._held_bytes += len(data)
        if self._held_bytes >= PART_BYTES:
            await self._storage.run((await self._opened()).write, b"".join(self._taken()))

    async def finish(self) -> None:
        """Store what is left, unless the file is a repetition."""
        if self._writer is None:
            await self._store_whole(self._taken())
        else:
            await self._store_rest(self._writer)
        self._name = None

    async def _store_whole(self, content: Sequence[Piece]) -> None:
        name = self._asked
        while not await self._taken_at_last(name):
            if await self._storage.run(self._storage.holds, self._prefix / name, b"".join(content)):
                return
            name = next_name(name)
        self._name = name
        await self._storage.run(self._storage.write, self._prefix / name, content)

    async def _store_rest(self, writer: ObjectWriter) -> None:
        """Only now can it be seen whether a large file is a repetition; then it is forgotten again."""
        target = self._prefix / await self._claimed()
        await self._storage.run(writer.write, b"".join(self._taken()))
        await self._storage.run(writer.finish)
        if await self._repeats_an_earlier_one(target):
            await self._storage.run(self._storage.delete, target)
            await self._inbox.release(target.name)

    async def abort(self) -> None:
        """Leave neither a part nor a name."""
        self._taken()
        if self._writer is not None:
            await self._storage.run(self._writer.abort)
        if self._name is not None:
            await self._inbox.release(self._name)
            self._name = None

    def _taken(self) -> Sequence[Piece]:
        """What was held back; nothing is held back afterwards."""
        pieces, self._held, self._held_bytes = self._held, [], 0
        return pieces

    async def _claimed(self) -> str:
        if self._name is None:
            name = self._asked
            while not await self._taken_at_last(name):
                name = next_name(name)
            self._name = name
        return self._name

    async def _taken_at_last(self, name: str) -> bool:
        """Whether the name is ours: once its holder gave it up, if that is how it ends."""
        waited_s, pause_s = 0.0, 0.02
        while not await self._inbox.take(name):
            if waited_s >= PATIENCE_S or await self._storage.run(self._storage.exists, self._prefix / name):
                return False
            await asyncio.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, 0.5)
        return True

    async def _opened(self) -> ObjectWriter:
        if self._writer is None:
            self._writer = self._storage.stream_to(self._prefix / await self._claimed())
        return self._writer

    async def _repeats_an_earlier_one(self, target: Reference) -> bool:
        earlier = self._asked
        while earlier != target.name:
            if await self._storage.run(self._storage.same_content, self._prefix / earlier, target):
                return True
            earlier = next_name(earlier)
        return False


class _Part:
    """One part of a form while it is read."""

    def __init__(self) -> None:
        self.headers: dict[str, bytes] = {}
        self.header_name = bytearray()
        self.header_value = bytearray()
        self.text = bytearray()
        self.name = ""
        self.receiver: FileReceiver | None = None

    def keep_header(self) -> None:
        self.headers[self.header_name.decode("latin-1").lower()] = bytes(self.header_value)
        self.header_name.clear()
        self.header_value.clear()


class _FormReader:
    """The parser's callbacks only note what happened; `take` then does it, awaiting where it must."""

    def __init__(self, boundary: bytes, on_file: Callable[[str], Awaitable[FileReceiver]] | None) -> None:
        self.fields: dict[str, str] = {}
        self._text_bytes = 0
        self._ended = False
        self._on_file = on_file
        self._part = _Part()
        self._events: list[tuple[str, bytes | memoryview]] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self._note("begin"),
                "on_header_field": lambda data, start, end: self._note("name", data[start:end]),
                "on_header_value": lambda data, start, end: self._note("value", data[start:end]),
                "on_header_end": lambda: self._note("header"),
                "on_headers_finished": lambda: self._note("headers"),
                "on_part_data": lambda data, start, end: self._note("data", memoryview(data)[start:end]),
                "on_part_end": lambda: self._note("end"),
                "on_end": lambda: self._note("done"),
            },
        )

    def _note(self, kind: str, data: bytes | memoryview = b"") -> None:
        self._events.append((kind, data))

    async def take(self, block: bytes) -> None:
        """One more block of the body."""
        try:
            self._parser.write(block)
        except FormParserError as broken:
            raise FormUnreadable("Unexpected end of multipart data") from broken
        events, self._events = self._events, []
        for kind, data in events:
            await self._handle(kind, data)

    async def _handle(self, kind: str, data: bytes | memoryview) -> None:
        part = self._part
        match kind:
            case "data":
                await self._take_data(part, data)
            case "begin":
                self._part = _Part()
            case "name":
                part.header_name += data
            case "value":
                part.header_value += data
            case "header":
                part.keep_header()
            case "headers":
                await self._open(part)
            case "end":
                await self._close(part)
            case _:
                self._ended = True

    async def _open(self, part: _Part) -> None:
        disposition = part.headers.get("content-disposition", b"")
        _, parameters = parse_options_header(disposition)
        part.name = parameters.get(b"name", b"").decode("utf-8", "replace")
        filename = parameters.get(b"filename", _extended_filename(disposition))
        if filename is None:
            if len(self.fields) >= MOST_FIELDS:
                raise FormUnreadable("Too many fields")
            return
        if part.name != FILE_FIELD or self._on_file is None:
            raise FormUnreadable("Unexpected field")
        part.receiver = await self._on_file(filename.decode("utf-8", "replace"))

    async def _take_data(self, part: _Part, data: bytes | memoryview) -> None:
        if part.receiver is not None:
            await part.receiver.write(data)
            return
        part.text += data
        self._text_bytes += len(data)
        if len(part.text) > MOST_FIELD_BYTES or self._text_bytes > MOST_TEXT_BYTES:
            raise FormUnreadable("Field value too long")

    async def _close(self, part: _Part) -> None:
        if part.receiver is None:
            self.fields.setdefault(part.name, part.text.decode("utf-8", "replace"))
        else:
            await part.receiver.finish()
            part.receiver = None

    def check_ended(self) -> None:
        """The body is over: it must have come to its closing boundary."""
        if not self._ended:
            raise FormUnreadable("Unexpected end of multipart data")

    async def abort(self) -> None:
        """Give up the file that is open, if any."""
        if self._part.receiver is not None:
            await self._part.receiver.abort()
            self._part.receiver = None


async def read_form(
    body: AsyncIterator[bytes], content_type: str, on_file: Callable[[str], Awaitable[FileReceiver]] | None
) -> dict[str, str]:
    """Read a form: its text fields are the result, its files go to what `on_file` gives for their names.

    A body of another type has no fields. Raises `FormUnreadable`; whatever is raised, also by a client that hangs
    up, no partial file survives.
    """
    kind, parameters = parse_options_header(content_type)
    if kind.lower() != b"multipart/form-data":
        await _drained(body)
        return {}
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        await _drained(body)
        raise FormUnreadable("Multipart: Boundary not found")
    try:
        reader = _FormReader(boundary, on_file)
    except FormParserError as too_long:
        await _drained(body)
        raise FormUnreadable("Multipart: Boundary too long") from too_long
    try:
        async for block in body:
            await reader.take(block)
        reader.check_ended()
    except FormUnreadable:
        await reader.abort()
        await _drained(body)
        raise
    except BaseException:
        await reader.abort()
        raise
    return reader.fields


def _extended_filename(disposition: bytes) -> bytes | None:
    """A name that is given only as in e-mail, `filename*=utf-8''…`: not allowed in forms, and sent all the same."""
    found = _EXTENDED_FILENAME.search(disposition)
    return unquote_to_bytes(found.group(1)) if found else None


async def _drained(body: AsyncIterator[bytes]) -> None:
    """Read on to the end: a client that is still sending would not read an answer."""
    async for _ in body:
        pass
