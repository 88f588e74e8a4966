"""S3, on two servers that differ: rclone answers ranges with 200, moto keeps everything in memory."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore, storage_at
from common.references import Reference
from common.storage import (
    PART_BYTES,
    AccessRefused,
    BucketMissing,
    ObjectMissing,
    Piece,
    Storage,
    StorageRefused,
    StorageUnreachable,
)


def test_what_is_written_is_read(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """By bytes and by file."""
    storage.write(bucket / "a/b.txt", b"hello", "text/plain")
    assert storage.read(bucket / "a/b.txt") == b"hello"
    storage.download(bucket / "a/b.txt", tmp_path / "b.txt")
    storage.upload(tmp_path / "b.txt", bucket / "c.txt")
    assert {(each.reference.key, each.size) for each in storage.listing(bucket)} == {("a/b.txt", 5), ("c.txt", 5)}
    assert storage.exists(bucket / "c.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"], "no draft is left"


def test_a_stream_appears_only_when_it_is_finished(storage: Storage, bucket: Reference) -> None:
    """Small and large ones alike; one that is given up leaves nothing."""
    for size in (0, 10, PART_BYTES, 2 * PART_BYTES + 5):
        target = bucket / f"{size}.bin"
        writer = storage.stream_to(target)
        for begin in range(0, size, 1_000_000):
            writer.write(b"x" * min(1_000_000, size - begin))
        assert not storage.exists(target)
        writer.finish()
        assert next(storage.listing(target)).size == size
    given_up = storage.stream_to(bucket / "never.bin")
    given_up.write(b"x" * (PART_BYTES + 1))
    given_up.abort()
    given_up.abort()
    assert not storage.exists(bucket / "never.bin")


def test_more_than_a_page_of_objects_is_listed(storage: Storage, bucket: Reference) -> None:
    """S3 gives a thousand at a time."""
    work = [threading.Thread(target=_write_some, args=(storage, bucket, part)) for part in range(8)]
    for each in work:
        each.start()
    for each in work:
        each.join()
    assert len({each.reference.key for each in storage.listing(bucket / "many/")}) == 1008


def _write_some(storage: Storage, bucket: Reference, part: int) -> None:
    for number in range(126):
        storage.write(bucket / f"many/{part}-{number}", b"")


def test_a_prefix_is_deleted_whole_and_nothing_beside_it(storage: Storage, bucket: Reference) -> None:
    """Uploads in parts that were given up included."""
    for name in ("a/1", "a/2/3", "ab"):
        storage.write(bucket / name, b"x")
    writer = storage.stream_to(bucket / "a/big")
    writer.write(b"x" * (PART_BYTES + 1))
    assert storage.delete_prefix(bucket / "a/") == 2
    assert storage.delete_prefix(bucket / "a/") == 0
    assert [each.reference.key for each in storage.listing(bucket)] == ["ab"]
    with pytest.raises(StorageRefused, match="not a folder"):
        storage.delete_prefix(bucket / "ab")


def test_equal_objects_are_equal(storage: Storage, bucket: Reference) -> None:
    """By content, not by name or size."""
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        storage.write(bucket / name, content)
    assert storage.same_content(bucket / "a", bucket / "b")
    assert not storage.same_content(bucket / "a", bucket / "c")
    assert not storage.same_content(bucket / "a", bucket / "missing")


def test_a_presigned_url_opens_without_any_key(storage: Storage, bucket: Reference) -> None:
    """For a while, under the name that was asked for."""
    storage.write(bucket / "all.zip", b"0123456789")
    url = storage.presigned_get(bucket / "all.zip", 60, "all.zip")
    assert httpx.get(url).content == b"0123456789"
    ranged = httpx.get(url, headers={"Range": "bytes=2-4"})
    assert (ranged.status_code, ranged.content) in {(206, b"234"), (200, b"0123456789"), (200, b"234")}


def test_a_presigned_url_for_head_answers_head(storage: Storage, bucket: Reference) -> None:
    """A signature holds for one method."""
    storage.write(bucket / "all.zip", b"0123456789")
    answer = httpx.head(storage.presigned_get(bucket / "all.zip", 60, "all.zip", head=True))
    assert (answer.status_code, answer.headers["content-length"]) == (200, "10")


@pytest.mark.parametrize(
    ("filename", "disposition"),
    [
        ("all.zip", "attachment; filename=all.zip"),
        ('a"; b.tif', "attachment; filename*=UTF-8''a%22%3B%20b.tif"),
        ("größe.tif", "attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe.tif"),
    ],
)
def test_a_download_has_the_name_that_was_asked_for(
    storage: Storage, bucket: Reference, filename: str, disposition: str
) -> None:
    """Whatever it holds (RFC 6266); a plain one as NodeODM sends it."""
    storage.write(bucket / "x", b"x")
    answer = httpx.get(storage.presigned_get(bucket / "x", 60, filename))
    assert answer.headers["content-disposition"] == disposition


def test_an_object_of_known_size_has_no_more_parts_than_s3_takes(storage: Storage, bucket: Reference) -> None:
    """One of 90 GB in parts of 8 MiB would have too many; here it is the parts that grow."""
    writer = storage.stream_to(bucket / "large", about_bytes=9000 * 2 * PART_BYTES)
    writer.write(b"x" * (2 * PART_BYTES - 1))
    assert list(storage.unfinished(bucket / "large")) == []
    writer.write(b"xx")
    assert len(list(storage.unfinished(bucket / "large"))) == 1
    writer.finish()
    assert next(each.size for each in storage.listing(bucket / "large")) == 2 * PART_BYTES + 1


def test_a_tag_tells_versions_apart(storage: Storage, bucket: Reference) -> None:
    """And that there is none."""
    assert storage.tag(bucket / "x") is None
    storage.write(bucket / "x", b"one")
    first = storage.tag(bucket / "x")
    storage.write(bucket / "x", b"two")
    assert first is not None
    assert storage.tag(bucket / "x") not in (None, first)


def test_a_forged_url_opens_nothing(rclone: ObjectStore) -> None:
    """Asked of rclone only: moto checks no signatures."""
    storage, target = rclone.storage(), Reference("staging", "secret.txt")
    storage.write(target, b"secret")
    url = storage.presigned_get(target, 60, "secret.txt")
    assert httpx.get(url.replace("Signature=", "Signature=0")).status_code == 403


def test_faults_name_the_reference_and_what_to_do(storage: Storage, bucket: Reference) -> None:
    """And are told apart."""
    with pytest.raises(ObjectMissing, match=f"s3://{bucket.bucket}/nothing does not exist"):
        storage.read(bucket / "nothing")
    with pytest.raises(BucketMissing, match="s3://no-such-bucket/x"):
        list(storage.listing(Reference("no-such-bucket", "x")))
    assert not storage.exists(bucket / "nothing")


def test_wrong_keys_are_told_without_showing_them(rclone: ObjectStore) -> None:
    """Not ours: what to check, and no secret (I9)."""
    stranger = storage_at(rclone.url, "stranger", "a-very-secret-key")
    with pytest.raises(AccessRefused, match="Access to s3://staging/x was refused") as told:
        stranger.read(Reference("staging", "x"))
    assert "a-very-secret-key" not in str(told.value)


def test_a_server_that_is_away_is_told_as_passing() -> None:
    """Whoever hears it may try again."""
    nobody = storage_at(f"http://127.0.0.1:{free_port()}", "a", "b")
    with pytest.raises(StorageUnreachable, match="does not answer") as told:
        nobody.read(Reference("staging", "x"))
    assert told.value.may_pass


class _Refusing(BaseHTTPRequestHandler):
    """An S3 that knows us, and lets us do nothing."""

    def do_GET(self) -> None:
        """Access denied, as AWS says it."""
        body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        """Quietly."""


def test_a_bucket_that_is_not_ours_is_told() -> None:
    """What to check, and that trying again will not help."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        storage = storage_at(f"http://127.0.0.1:{server.server_address[1]}", "a", "b")
        with pytest.raises(AccessRefused, match=r"Access to s3://theirs/x/ was refused \(AccessDenied\)") as told:
            list(storage.listing(Reference("theirs", "x/")))
        server.shutdown()
    assert not told.value.may_pass


class _Taking(BaseHTTPRequestHandler):
    """An S3 that takes what is put into `open`, and refuses everything else before its body has come."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str | None, str | None]]

    def handle_expect_100(self) -> bool:
        """As S3 does: who may not write is told before the body is sent."""
        return self._may() and super().handle_expect_100()

    def do_PUT(self) -> None:
        """Note what came."""
        if self._may():
            self.rfile.read(int(self.headers["Content-Length"]))
            self.seen.append((self.path, self.headers["Expect"], self.headers["X-Amz-Content-SHA256"]))
            self._answer(200, b"")

    def _may(self) -> bool:
        if self.path.startswith("/open/"):
            return True
        self.seen.append((self.path, self.headers["Expect"], None))
        self._answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        self.close_connection = True
        return False

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        """Quietly."""


@pytest.fixture
def taking() -> Iterator[ThreadingHTTPServer]:
    """Such an S3, on every address of this machine."""
    _Taking.seen = []
    with ThreadingHTTPServer(("0.0.0.0", 0), _Taking) as server:  # so that it has one that is not loopback
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_an_object_may_come_in_pieces(storage: Storage, bucket: Reference) -> None:
    """Of any size, empty ones among them, sent as they lie in memory."""
    large = os.urandom(3 * 1024 * 1024)
    pieces: list[Piece] = [b"head", bytearray(), memoryview(large)[1:], bytearray(b"tail"), b""]
    storage.write(bucket / "a", pieces)
    assert storage.holds(bucket / "a", b"".join(pieces))
    storage.write(bucket / "b", [])
    assert storage.holds(bucket / "b", b"")


def test_a_bucket_is_asked_before_the_first_body_only(taking: ThreadingHTTPServer) -> None:
    """And one that refuses is asked each time: without, it might hang up on a body that still comes."""
    storage = storage_at(f"http://127.0.0.1:{taking.server_address[1]}", "a", "b")
    for name in ("1", "2", "3"):
        storage.write(Reference("open", name), bytes(PART_BYTES))
    for name in ("4", "5"):
        with pytest.raises(AccessRefused):
            storage.write(Reference("shut", name), bytes(PART_BYTES))
    asked = [(path, expect) for path, expect, _ in _Taking.seen]
    assert asked[:3] == [("/open/1", "100-continue"), ("/open/2", None), ("/open/3", None)]
    assert asked[3:] == [("/shut/4", "100-continue"), ("/shut/5", "100-continue")]


@pytest.mark.parametrize(("host", "is_signed"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_body_is_signed_where_it_could_be_altered_on_its_way(
    taking: ThreadingHTTPServer, host: str, is_signed: bool
) -> None:
    """Over plain HTTP to another machine, that is; 0.0.0.0 stands for one."""
    storage_at(f"http://{host}:{taking.server_address[1]}", "a", "b").write(Reference("open", "1"), b"hello")
    digest = hashlib.sha256(b"hello").hexdigest()
    assert [found for _, _, found in _Taking.seen] == [digest if is_signed else "UNSIGNED-PAYLOAD"]


def test_some_of_a_prefix_is_no_more_than_was_asked_for(storage: Storage, bucket: Reference) -> None:
    """Without looking at all of it."""
    assert storage.some(bucket / "a/", 2) == []
    for name in ("a/3", "a/1", "a/2", "b/1"):
        storage.write(bucket / name, b"x")
    assert storage.some(bucket / "a/", 2) == [bucket / "a/1", bucket / "a/2"]
    assert storage.some(bucket / "b/", 2) == [bucket / "b/1"]
