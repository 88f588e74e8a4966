"""S3. The only file that knows boto3.

StorageFault            something about S3 went wrong
├── BucketMissing       the bucket does not exist
├── ObjectMissing       the object does not exist
├── AccessRefused       S3 knows us, or does not, and says no
├── StorageUnreachable  no answer; it may pass
└── StorageRefused      S3 answered with some other error
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
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

PART_BYTES = 8 * 1024 * 1024
"""Size of the parts of a multipart upload, and so the memory that one stream takes."""
MOST_READ_BYTES = 16 * 1024 * 1024
"""`read` is for documents, not for images."""
_BLOCK = 1 << 20
_DELETED_AT_ONCE = 1000
"""S3 takes no more keys in one request."""
_THREADS = 32
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


class StorageRefused(StorageFault):
    """S3 answered with an error that we have no better word for."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing."""

    reference: Reference
    size: int


class Storage:
    """One S3, reached with one set of credentials. Thread-safe; `run` brings it to asyncio."""

    def __init__(self, client: "S3Client", public_client: "S3Client", endpoint: str) -> None:
        """`public_client` signs URLs for the address at which clients reach S3; `endpoint` is for messages."""
        self._client = client
        self._public = public_client
        self._endpoint = endpoint
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")

    @classmethod
    def from_settings(cls, settings: S3Settings) -> "Storage":
        """Connect lazily: nothing is asked of S3 before the first call."""
        endpoint = settings.endpoint
        client = _client(settings, endpoint)
        public = _client(settings, settings.public_endpoint or endpoint)
        return cls(client, public, endpoint or "AWS S3")

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do blocking work on a thread of our own, so that the event loop never waits for S3."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def listing(self, prefix: Reference) -> Iterator[StoredObject]:
        """Everything whose key begins as `prefix` does."""
        with self._told(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
            for page in pages:
                for each in page.get("Contents", []):
                    reference = Reference(prefix.bucket, each["Key"])
                    yield StoredObject(reference, each["Size"])

    def exists(self, reference: Reference) -> bool:
        """Whether the object is there."""
        try:
            with self._told(reference):
                self._client.head_object(Bucket=reference.bucket, Key=reference.key)
        except ObjectMissing:
            return False
        return True

    def read(self, reference: Reference) -> bytes:
        """A small object, whole. Raises `StorageRefused` above `MOST_READ_BYTES`."""
        with self._told(reference):
            answer = self._client.get_object(Bucket=reference.bucket, Key=reference.key)
            if answer["ContentLength"] > MOST_READ_BYTES:
                raise StorageRefused(f"{reference} has {answer['ContentLength']} bytes; expected a small document.")
            return answer["Body"].read()

    def write(
        self, reference: Reference, data: bytes | bytearray, content_type: str = "application/octet-stream"
    ) -> None:
        """Store an object in one request."""
        with self._told(reference):
            self._client.put_object(
                Bucket=reference.bucket, Key=reference.key, Body=cast("bytes", data), ContentType=content_type
            )

    def same_content(self, one: Reference, other: Reference) -> bool:
        """Whether two objects are there and equal, byte by byte."""
        try:
            with self._told(one):
                left = self._client.get_object(Bucket=one.bucket, Key=one.key)
                right = self._client.get_object(Bucket=other.bucket, Key=other.key)
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
                answer = self._client.get_object(Bucket=reference.bucket, Key=reference.key)
                with draft.open("wb") as file:
                    for block in answer["Body"].iter_chunks(_BLOCK):
                        file.write(block)
                if draft.stat().st_size != answer["ContentLength"]:
                    raise StorageUnreachable(f"{reference} broke off after {draft.stat().st_size} bytes; try again.")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def upload(self, path: Path, reference: Reference) -> None:
        """Store a file, in parts when it is large."""
        with self._told(reference):
            self._client.upload_file(
                str(path),
                reference.bucket,
                reference.key,
                Config=TransferConfig(multipart_threshold=4 * PART_BYTES),
            )

    def stream_to(self, reference: Reference, content_type: str = "application/octet-stream") -> "ObjectWriter":
        """Store an object whose bytes come bit by bit and whose size nobody knows yet."""
        return ObjectWriter(self, reference, content_type)

    def delete(self, reference: Reference) -> None:
        """Delete an object; one that is not there is deleted already."""
        with self._told(reference):
            self._client.delete_object(Bucket=reference.bucket, Key=reference.key)

    def delete_prefix(self, prefix: Reference) -> int:
        """Delete everything below a prefix, uploads in parts that were given up included; gives how many objects."""
        if not prefix.key.endswith("/"):
            raise StorageRefused(f"{prefix} is not a folder; only what ends with / is deleted whole.")
        found = [each.reference.key for each in self.listing(prefix)]
        for begin in range(0, len(found), _DELETED_AT_ONCE):
            self._delete_many(prefix, found[begin : begin + _DELETED_AT_ONCE])
        self.abort_left_uploads(prefix)
        return len(found)

    def _delete_many(self, prefix: Reference, keys: list[str]) -> None:
        with self._told(prefix):
            answer = self._client.delete_objects(
                Bucket=prefix.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        for error in answer.get("Errors", []):
            raise StorageRefused(f"s3://{prefix.bucket}/{error.get('Key')} could not be deleted: {error.get('Code')}")

    def abort_left_uploads(self, prefix: Reference) -> None:
        """Abort multipart uploads below a prefix: S3 keeps, and bills, their parts for ever otherwise."""
        with self._told(prefix):
            try:
                answer = self._client.list_multipart_uploads(Bucket=prefix.bucket, Prefix=prefix.key)
            except self._client.exceptions.NoSuchUpload:
                return  # rclone's way of saying that there are none
            for each in answer.get("Uploads", []):
                if each["Key"].startswith(prefix.key):
                    self._client.abort_multipart_upload(
                        Bucket=prefix.bucket, Key=each["Key"], UploadId=each["UploadId"]
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

    def presigned_get(self, reference: Reference, expires_s: int, filename: str) -> str:
        """A URL from which anybody can fetch the object for a while, ranges included where the server has them."""
        with self._told(reference):
            return self._public.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": reference.bucket,
                    "Key": reference.key,
                    "ResponseContentDisposition": f"attachment; filename={filename}",
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
                f"S3 at {self._endpoint} does not answer for {reference} ({type(unreachable).__name__})."
            ) from unreachable
        except BotoCoreError as broken:
            raise StorageRefused(f"S3 at {self._endpoint} cannot be used for {reference}: {broken}") from broken

    def _fault(self, reference: Reference, refused: ClientError) -> StorageFault:
        error = refused.response.get("Error", {})
        code = str(error.get("Code", "unknown"))
        status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return BucketMissing(f"The bucket of {reference} does not exist on {self._endpoint}. Check its name.")
        if code in _MISSING:
            return ObjectMissing(f"{reference} does not exist.")
        if code in _REFUSED:
            return AccessRefused(
                f"Access to {reference} was refused ({code}). Check the bucket's name, and that our S3 credentials "
                "may read the input and write the output."
            )
        if status >= 500 or code in {"SlowDown", "RequestTimeout"}:
            return StorageUnreachable(f"S3 at {self._endpoint} could not answer for {reference} ({code}).")
        return StorageRefused(f"S3 at {self._endpoint} refused {reference}: {code}, {error.get('Message', '')}")


class ObjectWriter:
    """Writes one object of unknown size in bounded memory. Nothing is to be seen of it before `finish`."""

    def __init__(self, storage: Storage, reference: Reference, content_type: str) -> None:
        """Made by `Storage.stream_to`."""
        self._storage = storage
        self._reference = reference
        self._content_type = content_type
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []

    def write(self, data: bytes | bytearray) -> int:
        """Take more bytes; sends a part whenever one is full."""
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            self._send_part(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def finish(self) -> None:
        """Make the object appear."""
        if self._upload_id is None:
            self._storage.write(self._reference, bytes(self._buffer), self._content_type)
            return
        if self._buffer:
            self._send_part(bytes(self._buffer))
        with self._storage._told(self._reference):
            self._storage._client.complete_multipart_upload(
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
            self._storage._client.abort_multipart_upload(
                Bucket=self._reference.bucket, Key=self._reference.key, UploadId=upload_id
            )

    def _send_part(self, part: bytes) -> None:
        with self._storage._told(self._reference):
            client = self._storage._client
            bucket, key = self._reference.bucket, self._reference.key
            if self._upload_id is None:
                started = client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=self._content_type)
                self._upload_id = started["UploadId"]
            number = len(self._parts) + 1
            sent = client.upload_part(Bucket=bucket, Key=key, UploadId=self._upload_id, PartNumber=number, Body=part)
            self._parts.append({"ETag": sent["ETag"], "PartNumber": number})


def _client(settings: S3Settings, endpoint: str | None) -> "S3Client":
    secret, session = settings.secret_access_key, settings.session_token
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=session.get_secret_value() if session else None,
        config=Config(
            signature_version="s3v4",
            # Servers other than AWS rarely have a host name per bucket.
            s3={"addressing_style": "path" if endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=_THREADS,
        ),
    )
