"""What makes an output finished, whoever made its products: their description, and last of all the manifest (4.3)."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from typing_extensions import Buffer

from common.fencing import Fence, Outdated
from common.references import ALL_ZIP, MANIFEST, TASK_OUTPUT, Reference
from common.storage import ObjectMissing, Storage

ARCHIVED = (
    "odm_orthophoto/odm_orthophoto.tif",
    "odm_orthophoto/odm_orthophoto.tfw",
    "odm_orthophoto/odm_orthophoto.png",
    "odm_orthophoto/odm_orthophoto.wld",
    "odm_orthophoto/odm_orthophoto.mbtiles",
    "odm_orthophoto/odm_orthophoto.kmz",
    "odm_orthophoto/odm_orthophoto_extent.dxf",
    "odm_orthophoto/cutline.gpkg",
    "odm_georeferencing",
    "odm_texturing",
    "odm_dem/dsm.tif",
    "odm_dem/dtm.tif",
    "odm_dem/dsm.euclideand.tif",
    "odm_dem/dtm.euclideand.tif",
    "dsm_tiles",
    "dtm_tiles",
    "orthophoto_tiles",
    "potree_pointcloud",
    "entwine_pointcloud",
    "3d_tiles",
    "odm_report",
    "images.json",
    "cameras.json",
    "task_output.txt",
    "log.json",
)
"""What goes into `all.zip` unless the client names its own outputs (contract 6.3)."""
MOST_MANIFEST_BYTES = 256 * 1024 * 1024
"""A manifest lists each tile of a pyramid, and there may be hundreds of thousands."""


class ManifestUnreadable(Exception):
    """What lies in the manifest's place is not one of ours."""


class ProductsMissing(Exception):
    """The engine said it succeeded, but what it should have made is not there."""


@dataclass(frozen=True, slots=True)
class Published:
    """One object of the output, as the manifest lists it."""

    name: str
    size: int
    sha256: str


class Measured:
    """What is written through: counts and digests the bytes on their way to S3."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """`write` takes the bytes."""
        self._write = write
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: Buffer, /) -> int:
        """Pass on."""
        block = bytes(data)
        self._write(block)
        self.sha256.update(block)
        self.size += len(block)
        return len(block)

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The writer below is finished or aborted by whoever made it."""

    def published(self, name: str) -> Published:
        """What has been written, as an object of this name."""
        return Published(name, self.size, self.sha256.hexdigest())


def check_sizes(sizes: Mapping[str, int], asked: Sequence[str]) -> None:
    """Exit code 0 is not enough: a run that lost a stage to lack of memory may end so too.

    `sizes` of the products by name. Raises `ProductsMissing`.
    """
    made = {name: size for name, size in sizes.items() if PurePosixPath(name).name != TASK_OUTPUT}
    empty = [name for name, size in sorted(made.items()) if name.endswith((".tif", ".laz")) and not size]
    if empty:
        raise ProductsMissing(f"The engine ended well but left {', '.join(empty)} empty; see the console.")
    if not made:
        wanted = ", ".join(asked) or "an orthophoto or any other product"
        raise ProductsMissing(f"The engine ended well but made none of: {wanted}. See the console for what it skipped.")


def begin(storage: Storage, output: Reference, fence: Fence) -> None:
    """Before the first product. An output without its manifest is not finished, so the old one goes first.

    Raises `Outdated` or `AlreadyPublished`.
    """
    fence.begin()
    storage.delete(output / MANIFEST)


def finish(
    storage: Storage, output: Reference, fence: Fence, identity: Mapping[str, object], published: Sequence[Published]
) -> None:
    """After the last product. `identity` (uuid, attempt, engine) stands in the manifest, which is written last.

    Raises `Outdated`, and leaves no manifest, when another attempt has taken the output meanwhile.
    """
    manifest = {**identity, "objects": [asdict(each) for each in published]}
    document = json.dumps(manifest, separators=(",", ":")).encode()
    storage.write(output / MANIFEST, document, "application/json")
    try:
        fence.finish()
    except Outdated:
        _withdraw(storage, output / MANIFEST, document)
        raise


def read_manifest(storage: Storage, output: Reference) -> dict[str, Any]:
    """What `finish` has written: identity and objects. Raises `ObjectMissing`, or `ManifestUnreadable`."""
    read = bytearray()
    for block in storage.blocks(output / MANIFEST):
        read += block
        if len(read) > MOST_MANIFEST_BYTES:
            raise ManifestUnreadable(f"{output / MANIFEST} has more than {MOST_MANIFEST_BYTES} bytes.")
    try:
        manifest = json.loads(read)
        manifest["objects"] = [
            {**each, "name": str(each["name"]), "size": int(each["size"])} for each in manifest["objects"]
        ]
    except (ValueError, KeyError, TypeError) as odd:
        raise ManifestUnreadable(f"{output / MANIFEST} is not a manifest: {odd}") from odd
    return dict(manifest)


def replaced(storage: Storage, output: Reference, published: Iterable[Published]) -> list[Published]:
    """Products in whose place a late request of an outdated attempt has put another object."""
    sizes = {each.reference: each.size for each in storage.listing(output)}
    return [
        each
        for each in published
        if each.name not in (ALL_ZIP, TASK_OUTPUT) and sizes.get(output / each.name) != each.size
    ]


def _withdraw(storage: Storage, manifest: Reference, mine: bytes) -> None:
    """Delete our manifest, unless another attempt has put its own in its place already."""
    with suppress(ObjectMissing):
        if storage.read(manifest) == mine:
            storage.delete(manifest)
