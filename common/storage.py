"""S3. The only file that knows boto3.

StorageFault            something about S3 went wrong
├── BucketMissing       the bucket does not exist
├── ObjectMissing       the object does not exist
├── AccessRefused       S3 knows us, or does not, and says no
├── StorageUnreachable  no answer; it may pass
├── ConditionFailed     a conditional write found another version
├── ConditionUnknown    the server has no conditional writes
└── StorageRefused      S3 answered with some other error
"""

import asyncio
import ipaddress
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast
from urllib.parse import quote, urlsplit

import boto3
import botocore.session
import tenacity
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
)

from common.references import Reference
from common.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

P = ParamSpec("P")
R = TypeVar("R")
Piece = bytes | bytearray | memoryview

PART_BYTES = 8 * 1024 * 1024
"""Size of the parts of a multipart upload, and so the memory that one stream takes."""
MOST_READ_BYTES = 16 * 1024 * 1024
"""`read` is for documents, not for images."""
_MOST_PARTS = 10_000
"""S3 takes no more parts of one object."""
_BLOCK = 1 << 20
_DELETED_AT_ONCE = 1000
"""S3 takes no more keys in one request."""
_MOST_COPIED_AT_ONCE = 5 * 1024**3
"""S3 copies no more in one request, and not every server can copy in parts."""
_THREADS = 32
_CREDENTIALS_PATIENCE_S = 600
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED = frozenset(
    {
        "AccessDenied",
        "403",
        "Forbidden",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AllAccessDisabled",
        "ExpiredToken",
    }
)


class StorageFault(Exception):
    """Something about S3 went wrong."""

    may_pass = False
    """Whether trying again later may help."""


class BucketMissing(StorageFault):
    """The bucket does not exist."""


class ObjectMissing(StorageFault):
    """The object does not exist."""


class AccessRefused(StorageFault):
    """S3 does not let us."""


class StorageUnreachable(StorageFault):
    """S3 does not answer."""

    may_pass = True


class ConditionFailed(StorageFault):
    """The object is not, or no longer, the version that a conditional write was for."""


class ConditionUnknown(StorageFault):
    """The server has no conditional writes."""


class StorageRefused(StorageFault):
    """S3 answered with an error that we have no better word for."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing."""

    reference: Reference
    size: int
    modified: datetime | None = None
    """When it was written, by S3's clock."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part of an object that is not yet whole."""

    number: int
    size: int
    tag: str


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload in parts that was begun, and neither finished nor given up."""

    reference: Reference
    upload_id: str
    begun: datetime


class Traffic(Protocol):
    """Is told of every request, on whatever thread makes it."""

    def sent(self, size: int) -> None:
        """A request goes out whose body has so many bytes."""
        ...

    def answered(self, operation: str, status: int | None, size: int) -> None:
        """It was answered with this status and a body of so many bytes, which is yet to be read; None: it was not."""
        ...


class Storage:
    """One S3, reached with one set of credentials. Thread-safe; `run` brings it to asyncio."""

    def __init__(self, client: "S3Client", public_client: "S3Client", endpoint: str) -> None:
        """`public_client` signs URLs for the address at which clients reach S3; `endpoint` is for messages."""
        self._client = client
        self._public = public_client
        self._endpoint = endpoint
        self._others: dict[str, S3Client] = {}
        """Other S3s that tasks may name, by host and port."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        self._make_hasty: Callable[[], S3Client] = lambda: client
        self._hasty: S3Client | None = None
        """Made when somebody looks: one that gives up at once, so that no thread is held by an S3 that hangs."""

    @classmethod
    def from_settings(cls, settings: S3Settings, traffic: Traffic | None = None) -> "Storage":
        """Connect lazily: nothing is asked of S3 before the first call. `traffic` is told of each one."""
        endpoint = settings.endpoint
        session = _session(settings)
        client = _client(session, settings, endpoint)
        public = _client(session, settings, settings.public_endpoint or endpoint)
        storage = cls(client, public, endpoint or "AWS S3")
        storage._others = {netloc_of(each): _client(session, settings, each) for each in settings.endpoints}
        storage._make_hasty = lambda: _client(session, settings, endpoint, _HASTY)
        if traffic is not None:
            for each in (client, *storage._others.values()):
                _watch(each, traffic)
        return storage

    def endpoint_named(self, raw: str) -> str:
        """The `endpoint` of references into the S3 that a client names so; empty for our own. Raises `StorageRefused`.

        Our own has two names: ours, and the one by which clients reach it.
        """
        asked = netloc_of(raw if "://" in raw else f"https://{raw}")
        if asked in self._others:
            return asked
        own = [netloc_of(str(each.meta.endpoint_url)) for each in (self._client, self._public)]
        if asked and asked in own:
            return ""
        known = ", ".join(sorted({*own, *self._others}))
        raise StorageRefused(
            f"s3Endpoint {asked[:200]!r} is not one that tasks may use here; known are {known}. Leave it out, or ask "
            "the administrator for it (SCALEODM_S3_ENDPOINTS)."
        )

    def _of(self, reference: Reference, public: bool = False) -> "S3Client":
        """Who speaks with the S3 that this lies in."""
        if not reference.endpoint:
            return self._public if public else self._client
        if reference.endpoint not in self._others:
            self.endpoint_named(reference.endpoint)
        return self._others.get(reference.endpoint, self._client)

    def _where(self, reference: Reference) -> str:
        return reference.endpoint or self._endpoint

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do blocking work on a thread of our own, so that the event loop never waits for S3."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def listing(self, prefix: Reference) -> Iterator[StoredObject]:
        """Everything whose key begins as `prefix` does."""
        with self._told(prefix):
            pages = self._of(prefix).get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
            for page in pages:
                for each in page.get("Contents", []):
                    reference = replace(prefix, key=each["Key"])
                    yield StoredObject(reference, each["Size"], each.get("LastModified"))

    def look(self, prefix: Reference) -> None:
        """Ask our own S3 for one object below a prefix: does it answer, does it let us? Within a few seconds, once."""
        if self._hasty is None:
            self._hasty = self._make_hasty()
        with self._told(prefix):
            self._hasty.list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key, MaxKeys=1)

    def some(self, prefix: Reference, most: int) -> list[Reference]:
        """What lies below a prefix, in the order of its keys, and no more of it than so many objects."""
        with self._told(prefix):
            found = self._of(prefix).list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key, MaxKeys=most)
            return [replace(prefix, key=each["Key"]) for each in found.get("Contents", [])]

    def folders(self, prefix: Reference) -> Iterator[Reference]:
        """What lies directly below a prefix and holds something, without looking into it."""
        with self._told(prefix):
            pages = (
                self._of(prefix)
                .get_paginator("list_objects_v2")
                .paginate(Bucket=prefix.bucket, Prefix=prefix.key, Delimiter="/")
            )
            for page in pages:
                for each in page.get("CommonPrefixes", []):
                    yield replace(prefix, key=each["Prefix"])

    def exists(self, reference: Reference) -> bool:
        """Whether the object is there."""
        try:
            with self._told(reference):
                self._of(reference).head_object(Bucket=reference.bucket, Key=reference.key)
        except ObjectMissing:
            return False
        return True

    def read(self, reference: Reference) -> bytes:
        """A small object, whole. Raises `StorageRefused` above `MOST_READ_BYTES`."""
        with self._told(reference):
            answer = self._of(reference).get_object(Bucket=reference.bucket, Key=reference.key)
            if answer["ContentLength"] > MOST_READ_BYTES:
                raise StorageRefused(f"{reference} has {answer['ContentLength']} bytes; expected a small document.")
            return answer["Body"].read()

    def write(
        self, reference: Reference, data: bytes | Sequence[Piece], content_type: str = "application/octet-stream"
    ) -> None:
        """Store an object in one request; its bytes may come in pieces."""
        with self._told(reference):
            self._of(reference).put_object(
                Bucket=reference.bucket, Key=reference.key, Body=cast("bytes", _Body(data)), ContentType=content_type
            )

    def read_tagged(self, reference: Reference) -> tuple[bytes, str]:
        """A small object, whole, and the tag of this very version of it."""
        with self._told(reference):
            answer = self._of(reference).get_object(Bucket=reference.bucket, Key=reference.key)
            return answer["Body"].read(MOST_READ_BYTES), answer["ETag"]

    def write_if(self, reference: Reference, data: bytes, tag: str | None) -> bool:
        """Store a small object if it still is the version of this tag (None: if there is none); false if it is not.

        A server that knows no conditions writes anyway, so it is asked before, and what lies there is read afterwards.
        """
        if self.tag(reference) != tag:
            return False
        condition: dict[str, str] = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            with self._told(reference):
                self._of(reference).put_object(
                    Bucket=reference.bucket,
                    Key=reference.key,
                    Body=data,
                    ContentType="application/json",
                    **condition,  # type: ignore[arg-type]  # the stubs know the names, not a choice of them
                )
        except ConditionUnknown:
            self.write(reference, data, "application/json")
        except ConditionFailed:
            return False
        return self.read(reference) == data

    def tag(self, reference: Reference) -> str | None:
        """The tag of the version that is there now; None where there is no such object."""
        try:
            with self._told(reference):
                return self._of(reference).head_object(Bucket=reference.bucket, Key=reference.key)["ETag"]
        except ObjectMissing:
            return None

    def holds(self, reference: Reference, data: bytes) -> bool:
        """Whether the object is there, and is just these bytes."""
        try:
            with self._told(reference):
                answer = self._of(reference).get_object(Bucket=reference.bucket, Key=reference.key)
                with closing(answer["Body"]) as body:
                    return answer["ContentLength"] == len(data) and body.read() == data
        except ObjectMissing:
            return False

    def same_content(self, one: Reference, other: Reference) -> bool:
        """Whether two objects are there and equal, byte by byte."""
        try:
            with self._told(one):
                left = self._of(one).get_object(Bucket=one.bucket, Key=one.key)
                right = self._of(other).get_object(Bucket=other.bucket, Key=other.key)
                with left["Body"] as first, right["Body"] as second:
                    return left["ContentLength"] == right["ContentLength"] and all(
                        first.read(_BLOCK) == second.read(_BLOCK) for _ in range(left["ContentLength"] // _BLOCK + 1)
                    )
        except ObjectMissing:
            return False

    def download(self, reference: Reference, path: Path) -> None:
        """Fetch an object into a file: whole or not at all, in one stream, for not every server knows ranges."""
        draft = path.with_name(path.name + ".part")
        try:
            with self._told(reference):
                answer = self._of(reference).get_object(Bucket=reference.bucket, Key=reference.key)
                with draft.open("wb") as file:
                    for block in answer["Body"].iter_chunks(_BLOCK):
                        file.write(block)
                if draft.stat().st_size != answer["ContentLength"]:
                    raise StorageUnreachable(f"{reference} broke off after {draft.stat().st_size} bytes; try again.")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def blocks(self, reference: Reference) -> Iterator[bytes]:
        """An object bit by bit. Raises `StorageUnreachable` when it breaks off."""
        with self._told(reference):
            answer = self._of(reference).get_object(Bucket=reference.bucket, Key=reference.key)
            read = 0
            with closing(answer["Body"]) as body:
                for block in body.iter_chunks(_BLOCK):
                    read += len(block)
                    yield block
            if read != answer["ContentLength"]:
                raise StorageUnreachable(f"{reference} broke off after {read} bytes; try again.")

    def copy(self, source: Reference, target: Reference) -> None:
        """Copy an object within this S3; its bytes do not come here."""
        with self._told(source):
            self._of(source).copy(
                {"Bucket": source.bucket, "Key": source.key},
                target.bucket,
                target.key,
                Config=TransferConfig(multipart_threshold=_MOST_COPIED_AT_ONCE),
            )

    def upload(self, path: Path, reference: Reference) -> None:
        """Store a file, in parts when it is large."""
        with self._told(reference):
            self._of(reference).upload_file(
                str(path),
                reference.bucket,
                reference.key,
                Config=TransferConfig(multipart_threshold=4 * PART_BYTES),
            )

    def stream_to(
        self, reference: Reference, content_type: str = "application/octet-stream", about_bytes: int = 0
    ) -> "ObjectWriter":
        """Store an object whose bytes come bit by bit and whose size nobody knows yet.

        `about_bytes`: about how many will come, where that is known; an object of more than 80 GiB needs larger parts.
        """
        return ObjectWriter(self, reference, content_type, max(PART_BYTES, about_bytes // (_MOST_PARTS * 9 // 10)))

    def delete(self, reference: Reference) -> None:
        """Delete an object; one that is not there is deleted already."""
        with self._told(reference):
            self._of(reference).delete_object(Bucket=reference.bucket, Key=reference.key)

    def delete_prefix(self, prefix: Reference) -> int:
        """Delete everything below a prefix, uploads in parts that were given up included; gives how many objects."""
        if not prefix.key.endswith("/"):
            raise StorageRefused(f"{prefix} is not a folder; only what ends with / is deleted whole.")
        found = [each.reference for each in self.listing(prefix)]
        self.delete_all(found)
        self.abort_left_uploads(prefix)
        return len(found)

    def delete_all(self, references: Sequence[Reference]) -> None:
        """Delete objects of one bucket, many in one request; those that are not there are deleted already."""
        for begin in range(0, len(references), _DELETED_AT_ONCE):
            batch = references[begin : begin + _DELETED_AT_ONCE]
            self._delete_many(batch[0], [each.key for each in batch])

    def _delete_many(self, prefix: Reference, keys: list[str]) -> None:
        with self._told(prefix):
            answer = self._of(prefix).delete_objects(
                Bucket=prefix.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        for error in answer.get("Errors", []):
            raise StorageRefused(f"s3://{prefix.bucket}/{error.get('Key')} could not be deleted: {error.get('Code')}")

    def abort_left_uploads(self, prefix: Reference) -> None:
        """Abort multipart uploads below a prefix: S3 keeps, and bills, their parts for ever otherwise."""
        with self._told(prefix):
            try:
                answer = self._of(prefix).list_multipart_uploads(Bucket=prefix.bucket, Prefix=prefix.key)
            except self._of(prefix).exceptions.NoSuchUpload:
                return  # rclone's way of saying that there are none
            for each in answer.get("Uploads", []):
                if each["Key"].startswith(prefix.key):
                    self._of(prefix).abort_multipart_upload(
                        Bucket=prefix.bucket, Key=each["Key"], UploadId=each["UploadId"]
                    )

    def unfinished(self, prefix: Reference) -> Iterator[UnfinishedUpload]:
        """Multipart uploads below a prefix that nobody has ended."""
        with self._told(prefix):
            try:
                pages = (
                    self._of(prefix)
                    .get_paginator("list_multipart_uploads")
                    .paginate(Bucket=prefix.bucket, Prefix=prefix.key)
                )
                for page in pages:
                    for each in page.get("Uploads", []):
                        if each["Key"].startswith(prefix.key):
                            reference = replace(prefix, key=each["Key"])
                            yield UnfinishedUpload(reference, each["UploadId"], each["Initiated"])
            except self._of(prefix).exceptions.NoSuchUpload:
                return  # rclone's way of saying that there are none

    def abort(self, upload: UnfinishedUpload) -> None:
        """Give an upload in parts up; one that is over is over."""
        reference = upload.reference
        with self._told(reference), suppress(self._of(reference).exceptions.NoSuchUpload):
            self._of(reference).abort_multipart_upload(
                Bucket=reference.bucket, Key=reference.key, UploadId=upload.upload_id
            )

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is ours already is fine."""
        with self._told(Reference(bucket, "")):
            try:
                self._client.create_bucket(Bucket=bucket)
            except (
                self._client.exceptions.BucketAlreadyOwnedByYou,
                self._client.exceptions.BucketAlreadyExists,
            ):
                return

    def presigned_put(self, reference: Reference, size: int, content_type: str, expires_s: int) -> str:
        """A URL that takes this one object, of just this size and type, for a while."""
        with self._told(reference):
            return self._of(reference, public=True).generate_presigned_url(
                "put_object",
                Params={
                    "Bucket": reference.bucket,
                    "Key": reference.key,
                    "ContentLength": size,
                    "ContentType": content_type,
                },
                ExpiresIn=expires_s,
            )

    def begin_parts(self, reference: Reference, content_type: str) -> str:
        """Begin an object whose parts others will send; gives the id of this upload."""
        with self._told(reference):
            begun = self._of(reference).create_multipart_upload(
                Bucket=reference.bucket, Key=reference.key, ContentType=content_type
            )
            return begun["UploadId"]

    def presigned_part(self, reference: Reference, upload_id: str, number: int, size: int, expires_s: int) -> str:
        """A URL that takes this one part, of just this size, for a while. Parts are numbered from 1."""
        with self._told(reference):
            return self._of(reference, public=True).generate_presigned_url(
                "upload_part",
                Params={
                    "Bucket": reference.bucket,
                    "Key": reference.key,
                    "UploadId": upload_id,
                    "PartNumber": number,
                    "ContentLength": size,
                },
                ExpiresIn=expires_s,
            )

    def parts(self, reference: Reference, upload_id: str) -> list[StoredPart] | None:
        """The parts that have come; None when that upload is over, one way or the other."""
        with self._told(reference):
            pages = (
                self._of(reference)
                .get_paginator("list_parts")
                .paginate(Bucket=reference.bucket, Key=reference.key, UploadId=upload_id)
            )
            try:
                return [
                    StoredPart(each["PartNumber"], each["Size"], each["ETag"])
                    for page in pages
                    for each in page.get("Parts", [])
                ]
            except self._of(reference).exceptions.NoSuchUpload:
                return None

    def finish_parts(self, reference: Reference, upload_id: str, parts: Sequence[StoredPart]) -> None:
        """Make an object of its parts; an upload that is over stays as it is."""
        with self._told(reference), suppress(self._of(reference).exceptions.NoSuchUpload):
            self._of(reference).complete_multipart_upload(
                Bucket=reference.bucket,
                Key=reference.key,
                UploadId=upload_id,
                MultipartUpload={"Parts": [{"ETag": each.tag, "PartNumber": each.number} for each in parts]},
            )

    def presigned_get(self, reference: Reference, expires_s: int, filename: str, head: bool = False) -> str:
        """A URL from which anybody can fetch the object for a while, ranges included where the server has them.

        `head`: one that answers `HEAD` instead, for a signature holds for one method only.
        """
        with self._told(reference):
            return self._of(reference, public=True).generate_presigned_url(
                "head_object" if head else "get_object",
                Params={
                    "Bucket": reference.bucket,
                    "Key": reference.key,
                    "ResponseContentDisposition": _attachment(filename),
                },
                ExpiresIn=expires_s,
            )

    @contextmanager
    def _told(self, reference: Reference) -> Iterator[None]:
        """Foreign errors in, ours out: which reference, what was wrong, what to do. Never a key or a signature."""
        try:
            yield
        except ClientError as refused:
            raise self._fault(reference, refused) from refused
        except (EndpointConnectionError, HTTPClientError, ConnectionClosedError) as unreachable:
            raise StorageUnreachable(
                f"S3 at {self._where(reference)} does not answer for {reference} ({type(unreachable).__name__})."
            ) from unreachable
        except BotoCoreError as broken:
            raise StorageRefused(f"S3 at {self._where(reference)} cannot be used for {reference}: {broken}") from broken

    def _fault(self, reference: Reference, refused: ClientError) -> StorageFault:
        error = refused.response.get("Error", {})
        code = str(error.get("Code", "unknown"))
        status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return BucketMissing(
                f"The bucket of {reference} does not exist on {self._where(reference)}. Check its name."
            )
        if code in _MISSING:
            return ObjectMissing(f"{reference} does not exist.")
        if code in _REFUSED:
            return AccessRefused(
                f"Access to {reference} was refused ({code}). Check the bucket's name, and that our S3 credentials "
                "may read the input and write the output."
            )
        if status == 412 or code in {"PreconditionFailed", "ConditionalRequestConflict"}:
            return ConditionFailed(f"{reference} was changed by somebody else meanwhile.")
        if status == 501 or code == "NotImplemented":
            return ConditionUnknown(f"S3 at {self._where(reference)} does not know what it was asked for {reference}.")
        if status >= 500 or code in {"SlowDown", "RequestTimeout"}:
            return StorageUnreachable(f"S3 at {self._where(reference)} could not answer for {reference} ({code}).")
        return StorageRefused(f"S3 at {self._where(reference)} refused {reference}: {code}, {error.get('Message', '')}")


class _Body:
    """Bytes as the file that boto3 makes of them, but read without copies and in large blocks.

    boto3 would send 16 KiB at a time, and take the interpreter from everybody else after each.
    """

    def __init__(self, data: bytes | Sequence[Piece]) -> None:
        self._pieces = [memoryview(each) for each in ([data] if isinstance(data, bytes) else data) if len(each)]
        self._begins = list(accumulate((len(each) for each in self._pieces), initial=0))
        self._at = 0

    def read(self, size: int | None = None) -> bytes | memoryview:
        if size is None or size < 0:
            return b"".join(iter(partial(self.read, _BLOCK), b""))
        if self._at >= self._begins[-1]:
            return b""
        number = bisect_right(self._begins, self._at) - 1
        begin = self._at - self._begins[number]
        block = self._pieces[number][begin : begin + max(size, _BLOCK)]
        self._at += len(block)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._begins[-1])[whence]
        return self._at

    def tell(self) -> int:
        return self._at


class ObjectWriter:
    """Writes one object of unknown size in bounded memory. Nothing is to be seen of it before `finish`."""

    def __init__(self, storage: Storage, reference: Reference, content_type: str, part_bytes: int) -> None:
        """Made by `Storage.stream_to`."""
        self._part_bytes = part_bytes
        self._storage = storage
        self._reference = reference
        self._content_type = content_type
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []

    def write(self, data: bytes | bytearray) -> int:
        """Take more bytes; sends a part whenever one is full."""
        self._buffer += data
        while len(self._buffer) >= self._part_bytes:
            self._send_part(bytes(self._buffer[: self._part_bytes]))
            del self._buffer[: self._part_bytes]
        return len(data)

    def finish(self) -> None:
        """Make the object appear."""
        if self._upload_id is None:
            self._storage.write(self._reference, bytes(self._buffer), self._content_type)
            return
        if self._buffer:
            self._send_part(bytes(self._buffer))
        with self._storage._told(self._reference):
            self._storage._of(self._reference).complete_multipart_upload(
                Bucket=self._reference.bucket,
                Key=self._reference.key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": self._parts},
            )
        self._upload_id = None

    def abort(self) -> None:
        """Leave nothing behind. Safe after `finish` and to repeat."""
        self._buffer.clear()
        if self._upload_id is None:
            return
        upload_id, self._upload_id = self._upload_id, None
        with self._storage._told(self._reference):
            self._storage._of(self._reference).abort_multipart_upload(
                Bucket=self._reference.bucket, Key=self._reference.key, UploadId=upload_id
            )

    def _send_part(self, part: bytes) -> None:
        with self._storage._told(self._reference):
            client = self._storage._of(self._reference)
            bucket, key = self._reference.bucket, self._reference.key
            if self._upload_id is None:
                started = client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=self._content_type)
                self._upload_id = started["UploadId"]
            number = len(self._parts) + 1
            body = cast("bytes", _Body(part))
            sent = client.upload_part(Bucket=bucket, Key=key, UploadId=self._upload_id, PartNumber=number, Body=body)
            self._parts.append({"ETag": sent["ETag"], "PartNumber": number})


def _attachment(filename: str) -> str:
    """`Content-Disposition` for a download of this name: bare as NodeODM sends it, else as RFC 6266 has it."""
    if filename.replace(".", "").replace("-", "").replace("_", "").isalnum() and filename.isascii():
        return f"attachment; filename={filename}"
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"


def _refreshing(url: str, token: str) -> RefreshableCredentials:
    """Credentials that a node mints for one of its pods, asked for anew before they expire."""
    import httpx  # only such pods need it, and every run would wait for it

    def fetch() -> dict[str, str]:
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=15),
            stop=tenacity.stop_after_delay(_CREDENTIALS_PATIENCE_S),
            reraise=True,
        )
        try:
            answer = again(_ask_for_credentials, url, token)
        except httpx.HTTPError as unreachable:
            raise StorageUnreachable(
                f"The node does not give out S3 credentials at {url} ({type(unreachable).__name__})."
            ) from unreachable
        return {
            "access_key": answer["AccessKeyId"],
            "secret_key": answer["SecretAccessKey"],
            "token": answer["Token"],
            "expiry_time": answer["Expiration"],
        }

    return RefreshableCredentials.create_from_metadata(fetch(), refresh_using=fetch, method="scaleodm-node")


def _ask_for_credentials(url: str, token: str) -> dict[str, str]:
    import httpx

    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    if answer.status_code == httpx.codes.FORBIDDEN:
        raise AccessRefused(
            "The node gives this run no S3 credentials: it is not, or no longer, the task's current run."
        )
    answer.raise_for_status()
    document: dict[str, str] = answer.json()
    return document


def _session(settings: S3Settings) -> boto3.session.Session:
    if settings.credentials_url is None or settings.credentials_token is None:
        return boto3.session.Session()
    inner = botocore.session.get_session()
    inner._credentials = _refreshing(  # type: ignore[attr-defined]  # botocore has no public way to hand over credentials
        settings.credentials_url, settings.credentials_token.get_secret_value()
    )
    return boto3.session.Session(botocore_session=inner)


def netloc_of(url: str) -> str:
    """Host and port of an endpoint, as references name it: without the port where it is the scheme's own."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    usual = {"http": 80, "https": 443}.get(parts.scheme.lower())
    return host if port in (None, usual) else f"{host}:{port}"


def _watch(client: "S3Client", traffic: Traffic) -> None:
    """Tell of every request that a client makes, the ones that it repeats by itself too."""

    def sent(request: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's own
        traffic.sent(int(request.headers.get("Content-Length") or 0))

    def answered(response: Any, operation: Any, **_: Any) -> None:  # noqa: ANN401 - likewise
        status = None if response is None else int(response[0].status_code)
        is_body = response is not None and operation.name == "GetObject" and response[0].status_code < 300
        traffic.answered(operation.name, status, int(response[1].get("ContentLength", 0)) if is_body else 0)

    client.meta.events.register("before-send.s3", sent)
    # The one event that comes after every try, whether it was answered or not. What a handler gives back would make
    # botocore try again; these give nothing.
    client.meta.events.register("needs-retry.s3", answered)


def _can_be_altered_on_its_way(endpoint: str | None) -> bool:
    """Whether a signature has to cover each body, which takes as long as to send it: TLS covers it as well."""
    if endpoint is None:
        return False
    parts = urlsplit(endpoint)
    return parts.scheme.lower() != "https" and not _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Asking:
    """Whether a body goes out before the server has said that it wants it.

    boto3 asks with every body, and reads the answer byte by byte: thirty calls to the system, and as many fights for
    the interpreter, for one file. Once a bucket has taken something, it is not asked again before it refuses: a server
    that refuses may hang up while a body still comes, and then nobody hears why.
    """

    def __init__(self) -> None:
        self._taking: set[str] = set()

    def watch(self, client: "S3Client") -> None:
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"request-created.s3.{operation}", self._created)
            client.meta.events.register(f"after-call.s3.{operation}", self._answered)
            client.meta.events.register(f"after-call-error.s3.{operation}", self._failed)

    def _created(self, request: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's own
        if _bucket(request.context) in self._taking:
            del request.headers["Expect"]

    def _answered(self, http_response: Any, context: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - likewise
        if http_response.status_code < 300:
            self._taking.add(_bucket(context))
        else:
            self._taking.discard(_bucket(context))

    def _failed(self, context: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - likewise
        self._taking.discard(_bucket(context))


def _bucket(context: dict[str, Any]) -> str:
    return str(context["input_params"]["Bucket"])


_PATIENT = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=60)
_HASTY = Config(retries={"mode": "standard", "max_attempts": 1}, connect_timeout=2, read_timeout=2)


def _client(
    session: boto3.session.Session, settings: S3Settings, endpoint: str | None, patience: Config = _PATIENT
) -> "S3Client":
    secret, session_token = settings.secret_access_key, settings.session_token
    client: S3Client = session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=session_token.get_secret_value() if session_token else None,
        config=Config(
            signature_version="s3v4",
            # Servers other than AWS rarely have a host name per bucket.
            s3={
                "addressing_style": "path" if endpoint else "auto",
                "payload_signing_enabled": _can_be_altered_on_its_way(endpoint),
            },
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=_THREADS,
        ).merge(patience),
    )
    _Asking().watch(client)
    return client
