"""S3, on two servers that differ: rclone answers ranges with 200, moto keeps everything in memory."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore
from common.references import Reference
from common.settings import S3Settings
from common.storage import (
    PART_BYTES,
    AccessRefused,
    BucketMissing,
    ObjectMissing,
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
    stranger = _with_keys(rclone.url, "stranger", "a-very-secret-key")
    with pytest.raises(AccessRefused, match="Access to s3://staging/x was refused") as told:
        stranger.read(Reference("staging", "x"))
    assert "a-very-secret-key" not in str(told.value)


def test_a_server_that_is_away_is_told_as_passing() -> None:
    """Whoever hears it may try again."""
    nobody = _with_keys(f"http://127.0.0.1:{free_port()}", "a", "b")
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
        storage = _with_keys(f"http://127.0.0.1:{server.server_address[1]}", "a", "b")
        with pytest.raises(AccessRefused, match=r"Access to s3://theirs/x/ was refused \(AccessDenied\)") as told:
            list(storage.listing(Reference("theirs", "x/")))
        server.shutdown()
    assert not told.value.may_pass


def _with_keys(url: str, access: str, secret: str) -> Storage:
    return Storage.from_settings(
        S3Settings.model_construct(
            endpoint=url,
            public_endpoint=None,
            region="us-east-1",
            access_key_id=access,
            secret_access_key=SecretStr(secret),
            session_token=None,
            staging="s3://staging/",
        )
    )
