"""`s3://` references, and where a task's input, output and manifest lie (design 4.3). Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

MANIFEST = "manifest.json"
"""Written last: an output without it is not finished."""
ALL_ZIP = "all.zip"
TASK_OUTPUT = "task_output.txt"

_SCHEME = "s3://"
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_IMAGES = frozenset({"jpg", "jpeg", "png", "tif", "tiff", "bmp", "raw", "dng", "nef", "jxl", "mp4", "mov", "lrv", "ts"})
"""Extensions that ODM takes as images, or as videos to take images from (contract 9.1)."""
_SIDE_FILES = frozenset({"txt", "zip", "las", "laz", "srt"})
"""Extensions of what may lie beside the images and belongs to the input (contract 5)."""


class ReferenceUnreadable(Exception):
    """Something that should be an `s3://` reference is not one."""

    def __init__(self, raw: str, problem: str) -> None:
        """`problem`: what is wrong with it."""
        super().__init__(f"{raw!r} is not a usable S3 reference: {problem}. Expected s3://bucket/folder/.")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One object, or, where the key ends with a slash or is empty, everything below a prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, raw: str) -> "Reference":
        """Read `s3://bucket/key`."""
        if raw[: len(_SCHEME)].lower() != _SCHEME:
            raise ReferenceUnreadable(raw, "it does not begin with s3://")
        bucket, _, key = raw[len(_SCHEME) :].partition("/")
        if not _BUCKET.match(bucket):
            raise ReferenceUnreadable(raw, f"{bucket!r} is not a bucket's name")
        if _CONTROL.search(key) or ".." in key.split("/"):
            raise ReferenceUnreadable(raw, "its key holds control characters or ..")
        return cls(bucket, key.lstrip("/"))

    def __str__(self) -> str:
        """As `s3://bucket/key`."""
        return f"{_SCHEME}{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> "Reference":
        """What lies at `name` below this prefix."""
        return Reference(self.bucket, self.as_prefix().key + name)

    def as_prefix(self) -> "Reference":
        """The same as a prefix: with a slash at the end, unless it is the whole bucket."""
        return self if self.is_prefix else Reference(self.bucket, self.key + "/")

    def is_within(self, prefix: "Reference") -> bool:
        """Whether this lies at or below `prefix`."""
        return self.bucket == prefix.bucket and self.key.startswith(prefix.as_prefix().key)

    @property
    def is_prefix(self) -> bool:
        """Whether this means everything below, and not one object."""
        return not self.key or self.key.endswith("/")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rstrip("/").rpartition("/")[2]


class Listed(Protocol):
    """An object as a listing gives it."""

    @property
    def reference(self) -> Reference:
        """Where it is."""
        ...


Found = TypeVar("Found", bound=Listed)


def staged_root(staging: Reference, uuid: str) -> Reference:
    """Everything of ours about one upload."""
    return staging / f"{uuid}/"


def staged_images(staging: Reference, uuid: str) -> Reference:
    """Where the files of an upload lie."""
    return staging / f"{uuid}/images/"


def output_for(read: Reference, write: Reference | None) -> Reference:
    """Where products go: where the client said, else beside what it gave."""
    if write is not None:
        return write.as_prefix()
    return Reference.parse(zipurl_output(str(read))) if read.key.lower().endswith(".zip") else read / "output/"


def zipurl_output(zipurl: str) -> str:
    """Where the products of `zipurl=s3://x/y/` go: `s3://x/y-output/`."""
    return zipurl.rstrip("/").removesuffix(".zip") + "-output/"


def is_image(name: str) -> bool:
    """Whether ODM would take a file of this name as an image; masks belong to images and are none."""
    stem, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in _IMAGES and not stem.lower().endswith("_mask")


def belongs_to_input(name: str) -> bool:
    """Whether a file of this name has any part in a task's input."""
    extension = name.rpartition(".")[2].lower()
    return extension in _IMAGES or extension in _SIDE_FILES


def inputs_under(objects: Iterable[Found], source: Reference, output: Reference) -> Iterator[Found]:
    """Of what a listing of `source` gave, what is input: no folder markers, and nothing of the output below it."""
    guarded = output.is_within(source) and output != source
    for each in objects:
        reference = each.reference
        if reference.key.endswith("/") or (guarded and reference.is_within(output)):
            continue
        if belongs_to_input(reference.name):
            yield each
