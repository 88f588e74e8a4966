"""Hostile forms: whatever comes, fields and files or an ordinary refusal, in bounded memory.

`SCALEODM_TEST_FUZZ=100000` tries so many of each (`tests.fuzzing`).
"""

import tracemalloc
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from requests_toolbelt import MultipartEncoder  # type: ignore[import-untyped]

from common.embedded.object_store import ObjectStore
from common.nodeodm.messages import LONGEST_NAME_BYTES, clean_name
from common.nodeodm.uploads import FileReceiver, FormUnreadable, MemoryInbox, StagedFile, read_form
from common.references import Reference
from tests.fuzzing import TIMEOUT_S, fuzzed

CONTENT_TYPE = "multipart/form-data; boundary=xx"
MOST_MEMORY = 24 * 1024 * 1024

hostile_names = st.one_of(
    st.text(max_size=300),
    st.text(st.sampled_from("абвДЖ.jpg_ ğمرحباصورة🛰📷é\u0301\u202e\ufffe\uffff\x85"), max_size=60),
    st.text(st.sampled_from("../\\:;%\"'=*\r\n\x00 ~-"), max_size=40),
    st.sampled_from(
        [
            "a" * 300 + ".jpg",
            "я" * 300,
            ".jpg" * 100,
            "body.json",
            "BODY.JSON",
            "..",
            "C:\\a\\b.jpg",
            "\\\\server\\share\\a.jpg",
            "/etc/passwd",
            "a.jpg/",
            "a%2f..%2fb",
            "con",
            "-rf",
        ]
    ),
)
pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"--xx\r\n",
            b"--xx--\r\n",
            b"--xx--",
            b"--xx",
            b"\r\n--xx",
            b"\r\n",
            b"\n",
            b"\r",
            b"--x",
            b'Content-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n',
            b'Content-Disposition: form-data; name="name"\r\n\r\n',
            b"content-disposition:",
            b"Content-Disposition: form-data; filename*=utf-8''%e2%82%ac%00.jpg; name=images\r\n\r\n",
            b"Content-Disposition: form-data; filename*=utf-7''+AC8-; name=images\r\n\r\n",
            b"Content-Type: text/plain; charset=bogus\r\n",
            b"Content-Transfer-Encoding: base64\r\n",
            b": \r\n",
            b"x: " + b"y" * 5000 + b"\r\n",
            b"x: y\r\n" * 50,
        ]
    ),
)


class Folder:
    """What a form's files would become in a folder: names as they would lie, and sizes."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.open = 0

    async def receive(self, name: str) -> FileReceiver:
        """One more file."""
        self.open += 1
        return _Counted(self, clean_name(name))


class _Counted:
    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name, self._size = folder, name, 0

    async def write(self, data: bytes | memoryview) -> None:
        self._size += len(data)

    async def finish(self) -> None:
        self._folder.files[self._name] = self._size
        self._folder.open -= 1

    async def abort(self) -> None:
        self._folder.open -= 1


async def cut(body: bytes, borders: Iterable[int]) -> AsyncIterator[bytes]:
    """The body in pieces, as the network might cut it."""
    begin = 0
    for border in sorted({each % (len(body) + 1) for each in borders}):
        yield body[begin:border]
        begin = border
    yield body[begin:]


async def read(body: bytes, borders: Iterable[int], content_type: str = CONTENT_TYPE) -> tuple[dict[str, str], Folder]:
    """Read it; of a refusal nothing is left. No other exception is one."""
    folder, blocks = Folder(), cut(body, borders)
    try:
        fields = await read_form(blocks, content_type, folder.receive)
    except FormUnreadable:
        fields = {}
        assert [block async for block in blocks] == [], "a client that still sends would not read the refusal"
    assert folder.open == 0
    for name in folder.files:
        assert is_plain(name), repr(name)
    return fields, folder


def is_plain(name: str) -> bool:
    """Whether a file of this name lies in its own folder, on any file system and in any listing."""
    return (
        name not in {"", ".", "..", "body.json"}
        and not set(name) & set("/\\\x00\r\n\ufffe\uffff")
        and 0 < len(name.encode()) <= LONGEST_NAME_BYTES
    )


@fuzzed(150)
@pytest.mark.timeout(TIMEOUT_S)
@given(st.lists(pieces, max_size=12).map(b"".join), st.lists(st.integers(0, 5000), max_size=12))
async def test_no_bytes_break_the_parser_wherever_they_are_cut(body: bytes, borders: list[int]) -> None:
    """Arbitrary bytes, and pieces of forms in any order."""
    whole = await read(body, [])
    parts = await read(body, borders)
    assert (whole[0], whole[1].files) == (parts[0], parts[1].files) or not parts[0]


@fuzzed(150)
@pytest.mark.timeout(TIMEOUT_S)
@given(hostile_names, st.binary(max_size=100), st.lists(st.integers(0, 2000), max_size=8))
@example('a"; filename="../../b.jpg', b"", [])
@example('x"\r\nX-Header: y\r\n\r\n--xx--', b"", [3])
async def test_no_name_puts_a_file_outside(name: str, data: bytes, borders: list[int]) -> None:
    """As it is, without any escaping: a client may send what it likes between the quotes."""
    head = b'--xx\r\nContent-Disposition: form-data; name="images"; filename="'
    body = head + name.encode("utf-8", "surrogatepass") + b'"\r\n\r\n' + data + b"\r\n--xx--\r\n"
    await read(body, borders)


@fuzzed(150)
@pytest.mark.timeout(TIMEOUT_S)
@given(hostile_names.filter(lambda name: "\\" not in name), st.binary(max_size=100))
async def test_names_arrive_as_pyodm_sends_them(name: str, data: bytes) -> None:
    """In any script, quotes and line ends escaped as HTML has it."""
    encoder = MultipartEncoder(fields=[("images", (name or "x", data, "image/jpeg"))])
    _, folder = await read(encoder.to_string(), [], encoder.content_type)
    sent = (name or "x").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    assert folder.files == {clean_name(sent): len(data)}


@fuzzed(150)
@pytest.mark.timeout(TIMEOUT_S)
@given(st.one_of(st.text(st.characters(codec="latin-1"), max_size=400), hostile_names))
@example("boundary=" + "x" * 1000)
@example('boundary="')
@example("boundary=\r\n")
@example("boundary*=utf-8''xx")
@example("boundary=xx; boundary=yy")
async def test_no_content_type_breaks_the_parser(parameters: str) -> None:
    """A missing, endless or nonsensical boundary is refused in words."""
    content_type = "multipart/form-data; " + parameters.encode("latin-1", "replace").decode("latin-1")
    await read(b"--xx\r\n\r\n\r\n--xx--\r\n", [5], content_type)


async def test_a_name_given_only_as_in_an_e_mail_is_a_name() -> None:
    """`filename*=`, and the plain name wins where both are given."""
    head = b"--xx\r\nContent-Disposition: form-data; name=images; "
    for parameters, name in (
        (b"filename*=UTF-8''%D1%8F%20%F0%9F%9B%B0.jpg", "я 🛰.jpg"),
        (b"filename*=utf-8''..%2F..%2Fa.jpg", "a.jpg"),
        (b"filename=plain.jpg; filename*=utf-8''other.jpg", "plain.jpg"),
    ):
        _, folder = await read(head + parameters + b"\r\n\r\nabc\r\n--xx--\r\n", [])
        assert folder.files == {name: 3}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(hostile_names, min_size=1, max_size=4))
@example(names=["A.jpg", "a.jpg", "a.JPG"])
async def test_every_file_lies_in_its_folder_and_can_be_deleted(names: list[str], rclone: ObjectStore) -> None:
    """On a real server over a real file system; names that differ in case only are different names."""
    storage, inbox = rclone.storage(), MemoryInbox()
    prefix = Reference("staging", "fuzz/images/")
    for number, name in enumerate(names):
        staged = StagedFile(name, inbox, storage, prefix)
        await staged.write(f"{number}".encode())
        await staged.finish()
    folder = rclone.folder / "staging" / "fuzz"
    assert {path.relative_to(folder / "images").as_posix() for path in files_below(folder)} == set(inbox.names())
    assert len(inbox.names()) == len(names)
    assert storage.delete_prefix(Reference("staging", "fuzz/")) == len(names)
    assert list(files_below(folder)) == []


def files_below(folder: Path) -> Iterator[Path]:
    """Every file."""
    return (path for path in folder.rglob("*") if path.is_file())


class Endless:
    """A body that is never whole in memory, and how far this process grew while it was read."""

    def __init__(self, block: bytes, count: int, begin: bytes = b"", end: bytes = b"") -> None:
        """`block`: what comes again and again."""
        self._block, self._count, self._begin, self._end = block, count, begin, end
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.grown = 0

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body."""
        yield self._begin
        for _ in range(self._count):
            yield self._block
            self.grown = max(self.grown, self._process.memory_info().rss - self._before)
        yield self._end


FILE_PART = b'--xx\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(lambda: Endless(b"y" * 65536, 1000, b"--xx\r\nx: "), "Unexpected end", id="huge header"),
        pytest.param(lambda: Endless(b"x" * 65536, 1000, b"--xx\r\n"), "Unexpected end", id="huge header name"),
        pytest.param(lambda: Endless(b"x: y\r\n" * 5000, 1000, b"--xx\r\n"), "Unexpected end", id="many headers"),
        pytest.param(lambda: Endless(b"\r\n" * 30000, 1000), "Unexpected end", id="nothing but line ends"),
        pytest.param(
            lambda: Endless((FILE_PART + b"\r\n") * 1000, 100, end=b"--xx--\r\n"), None, id="100,000 empty files"
        ),
        pytest.param(
            lambda: Endless(b"--xx\r\n\r\n\r\n" * 1000, 100, end=b"--xx--\r\n"), None, id="100,000 empty parts"
        ),
        pytest.param(
            lambda: Endless(b"\r\n--x" * 10_000, 100, FILE_PART, b"\r\n--xx--\r\n"), None, id="almost boundaries"
        ),
        pytest.param(
            lambda: Endless(
                b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"z" * 900_000 + b"\r\n", 100
            ),
            "Field value too long",
            id="many long fields",
        ),
    ],
)
async def test_memory_stays_bounded(body: object, told: str | None) -> None:
    """Whatever comes, and however much of it."""
    assert callable(body)
    endless: Endless = body()
    if told is None:
        await read_form(endless.blocks(), CONTENT_TYPE, Folder().receive)
    else:
        with pytest.raises(FormUnreadable, match=told):
            await read_form(endless.blocks(), CONTENT_TYPE, Folder().receive)
    assert endless.grown < MOST_MEMORY


async def test_a_file_that_comes_byte_by_byte_takes_no_more_memory_than_at_once(rclone: ObjectStore) -> None:
    """What is held back of a file is one block, and not a list of crumbs."""
    staged = StagedFile("a.jpg", MemoryInbox(), rclone.storage(), Reference("staging", "crumbs/images/"))
    tracemalloc.start()
    try:
        for _ in range(300_000):
            await staged.write(b"xy")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await staged.abort()
    assert peak < 3_000_000
