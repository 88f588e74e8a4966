"""`s3://` references, and where a task's input, output and manifest lie (design 4.3). Pure."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from common.tasks import NO_WISHES, Wishes

ATTEMPT = ".scaleodm/attempt.json"
"""Which attempt holds an output (`common.fencing`)."""
MANIFEST = "manifest.json"
"""Written last: an output without it is not finished."""
ALL_ZIP = "all.zip"
TASK_OUTPUT = "task_output.txt"

DEFAULT_EXCLUDES = (
    "output/**",
    "*-output/**",
    "odm/**",
    "odm_orthophoto/**",
    "odm_dem/**",
    "odm_dem_tiles/**",
    "odm_texturing/**",
    "odm_texturing_25d/**",
    "odm_meshing/**",
    "odm_filterpoints/**",
    "odm_georeferencing/**",
    "odm_report/**",
    "entwine_pointcloud/**",
    "images_resize/**",
    "mapproxy/**",
    "submodels/**",
    "thumbs/**",
    "thumbnails/**",
    "__MACOSX/**",
    ".*",
    ".*/**",
)
"""What is left out below an S3 prefix unless `useDefaultExcludes` is false: products of earlier runs, thumbnails, and
what archivers leave behind (contract 8.5)."""

_SCHEME = "s3://"
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_ENDPOINT = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})(?::\d{1,5})?$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_IMAGES = frozenset({"jpg", "jpeg", "png", "tif", "tiff", "bmp", "raw", "dng", "nef", "jxl", "mp4", "mov", "lrv", "ts"})
"""Extensions that ODM takes as images, or as videos to take images from (contract 9.1)."""
_SIDE_FILES = frozenset({"txt", "las", "laz", "srt"})
"""Extensions of what may lie beside the images and belongs to the input (contract 5)."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LINK = re.compile(r"(?:^|/)\.scaleodm/zipurl-[0-9a-f]{32}\.link$")


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
    endpoint: str = ""
    """Host and port of the S3 that it lies in; empty means our own."""

    @classmethod
    def parse(cls, raw: str) -> "Reference":
        """Read `s3://bucket/key`, or `s3://bucket@host:port/key` for what lies in another S3 than our own."""
        if raw[: len(_SCHEME)].lower() != _SCHEME:
            raise ReferenceUnreadable(raw, "it does not begin with s3://")
        place, _, key = raw[len(_SCHEME) :].partition("/")
        bucket, at, endpoint = place.partition("@")
        if not _BUCKET.match(bucket):
            raise ReferenceUnreadable(raw, f"{bucket!r} is not a bucket's name")
        if at and not _ENDPOINT.match(endpoint):
            raise ReferenceUnreadable(raw, f"{endpoint!r} is not the host and port of an S3")
        if _CONTROL.search(key) or ".." in key.split("/"):
            raise ReferenceUnreadable(raw, "its key holds control characters or ..")
        return cls(bucket, key.lstrip("/"), endpoint.lower())

    def __str__(self) -> str:
        """As `parse` reads it."""
        place = f"{self.bucket}@{self.endpoint}" if self.endpoint else self.bucket
        return f"{_SCHEME}{place}/{self.key}"

    def __truediv__(self, name: str) -> "Reference":
        """What lies at `name` below this prefix."""
        return replace(self, key=self.as_prefix().key + name)

    def as_prefix(self) -> "Reference":
        """The same as a prefix: with a slash at the end, unless it is the whole bucket."""
        return self if self.is_prefix else replace(self, key=self.key + "/")

    def is_within(self, prefix: "Reference") -> bool:
        """Whether this lies at or below `prefix`."""
        same = (self.bucket, self.endpoint) == (prefix.bucket, prefix.endpoint)
        return same and self.key.startswith(prefix.as_prefix().key)

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
    return Reference.parse(zipurl_output(str(read))) if is_archive(read.key) else read / "output/"


def zipurl_output(zipurl: str) -> str:
    """Where the products of `zipurl=s3://x/y/` go: `s3://x/y-output/`."""
    path = zipurl.rstrip("/")
    return path[: len(path) - len(archive_extension(path))] + "-output/"


def located(raw: str, endpoint: str) -> str:
    """An `s3://` reference that names no S3, in the one at `endpoint`."""
    bucket, slash, key = raw[len(_SCHEME) :].partition("/")
    is_plain = raw[: len(_SCHEME)].lower() == _SCHEME and "@" not in bucket
    return f"{_SCHEME}{bucket}@{endpoint}{slash}{key}" if endpoint and is_plain else raw


def archive_extension(name: str) -> str:
    """How the name of an archive that is unpacked ends; empty for any other name."""
    lower = name.lower()
    return max((each for each in _ARCHIVES if lower.endswith(each)), key=len, default="")


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive whose members are input."""
    return bool(archive_extension(name))


def link_in(staging: Reference, uuid: str, url: str) -> Reference:
    """Where the `zipurl` of a task is kept: it may hold a secret, so the task itself names only this object."""
    return staged_root(staging, uuid) / f".scaleodm/zipurl-{hashlib.sha256(url.encode()).hexdigest()[:32]}.link"


def link_beside(images: Reference, uuid: str) -> Reference:
    """Where the `zipurl` of an upload is kept, whose archive belongs to its files: one for each upload."""
    return images / f".scaleodm/zipurl-{hashlib.sha256(uuid.encode()).hexdigest()[:32]}.link"


def is_link(reference: Reference) -> bool:
    """Whether this object holds the address of the input, or of some of it, and not the input."""
    return _LINK.search(reference.key) is not None


def is_image(name: str) -> bool:
    """Whether ODM would take a file of this name as an image; masks belong to images and are none."""
    stem, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in _IMAGES and not stem.lower().endswith("_mask")


def belongs_to_input(name: str) -> bool:
    """Whether a file of this name has any part in a task's input."""
    extension = name.rpartition(".")[2].lower()
    return extension in _IMAGES or extension in _SIDE_FILES or (is_archive(name) and name.lower() != ALL_ZIP)


def inputs_under(
    objects: Iterable[Found], source: Reference, output: Reference, wishes: Wishes = NO_WISHES
) -> Iterator[Found]:
    """Of what a listing of `source` gave, what is input: no folder markers, and nothing of the output below it.

    `wishes` may leave out more: what lies deeper than its scan depth, or matches one of its patterns.
    """
    guarded = output.is_within(source) and output != source
    excluded = [_parts(each) for each in wishes.exclude]
    for each in objects:
        reference = each.reference
        if reference.key.endswith("/") or (guarded and reference.is_within(output)):
            continue
        path = reference.key.removeprefix(source.key)
        if is_link(reference) and path.startswith(".scaleodm/"):
            yield each
            continue
        too_deep = wishes.scan_depth is not None and path.count("/") >= wishes.scan_depth
        if too_deep or any(_matches(parts, "/" + path) for parts in excluded):
            continue
        if belongs_to_input(reference.name):
            yield each


def _parts(glob: str) -> list[str]:
    """A path pattern as rclone reads it: `*` stays within a folder, `**` does not, a leading slash is the prefix."""
    found = re.findall(r"\*\*|.", glob, re.DOTALL)
    return found if glob.startswith("/") else ["**", "/", *found]


def _matches(parts: Sequence[str], path: str) -> bool:
    """Whether the whole path matches, in steps that its length bounds: clients write these patterns, and no regular
    expression with many wildcards is safe from them."""
    places = _with_skipped(parts, {0})
    for letter in path:
        stepped = set()
        for place in places - {len(parts)}:
            part = parts[place]
            if part == "**" or (part == "*" and letter != "/"):
                stepped.add(place)
            elif part == letter or (part == "?" and letter != "/"):
                stepped.add(place + 1)
        places = _with_skipped(parts, stepped)
        if not places:
            return False
    return len(parts) in places


def _with_skipped(parts: Sequence[str], places: set[int]) -> set[int]:
    """The places in a pattern, and those beyond wildcards that stand for nothing."""
    reached = set(places)
    for place in places:
        while place < len(parts) and parts[place] in ("*", "**"):
            place += 1
            reached.add(place)
    return reached
