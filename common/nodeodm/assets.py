"""What of a task's products can be downloaded, by which names, and where it lies in S3 (contract 2.8, 10 row 19)."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from common.nodeodm.refusals import Refused
from common.publishing import ARCHIVED, ManifestUnreadable, read_manifest
from common.references import ALL_ZIP, MANIFEST, Reference
from common.storage import ObjectMissing, Storage
from common.tasks import Task

USUAL_ADDITIONAL, MOST_ADDITIONAL = 100, 1000
"""How many files beside the main ones `/assets` lists, as ScaleODM bounds it."""
MOST_NAMES = 300_000
"""How many names of products are remembered, of all tasks together."""

_MODEL = "odm_georeferencing/odm_georeferenced_model"
_CLOUDS = (f"{_MODEL}.laz", f"{_MODEL}.las", f"{_MODEL}.ply")
_SCALEODM = {
    "orthophoto": ("odm_orthophoto/odm_orthophoto.tif",),
    "dsm": ("odm_dem/dsm.tif",),
    "dtm": ("odm_dem/dtm.tif",),
    "point_cloud": _CLOUDS,
}
"""ScaleODM's words, and the products that each may mean, the best first."""
_WEBODM = {
    **{f"orthophoto.{kind}": (f"odm_orthophoto/odm_orthophoto.{kind}",) for kind in ("tif", "png", "mbtiles", "kmz")},
    **{f"georeferenced_model.{kind}": (f"{_MODEL}.{kind}",) for kind in ("laz", "las", "ply", "csv")},
    **{f"point_cloud.{kind}": (f"{_MODEL}.{kind}",) for kind in ("laz", "las", "ply")},
    "dsm.tif": ("odm_dem/dsm.tif",),
    "dtm.tif": ("odm_dem/dtm.tif",),
    "textured_model.glb": ("odm_texturing/odm_textured_model_geo.glb",),
    "report.pdf": ("odm_report/report.pdf",),
    "shots.geojson": ("odm_report/shots.geojson",),
    "ground_control_points.geojson": ("odm_georeferencing/ground_control_points.geojson",),
}
"""Names by which WebODM's users know single products."""
ALIASES: Mapping[str, tuple[str, ...]] = _SCALEODM | _WEBODM


def resolve(asset: str, products: Mapping[str, int]) -> str | None:
    """The product that a client means: one by its path, or the first that is there of what an alias may mean."""
    return next((path for path in (asset, *ALIASES.get(asset, ())) if path in products), None)


def may_come(asset: str, outputs: Sequence[str]) -> bool:
    """Whether a task with these `outputs` may have such a product once it has ended."""
    paths = [PurePosixPath(path) for path in (asset, *ALIASES.get(asset, ()))]
    return any(path.is_relative_to(kept) for path in paths if ".." not in path.parts for kept in (*ARCHIVED, *outputs))


def listing(uuid: str, products: Mapping[str, int], most_additional: int | None) -> dict[str, object]:
    """The JSON of `GET /task/{uuid}/assets`: ScaleODM's, and the sizes in bytes.

    `products`: sizes by path. `most_additional`: how many of the others to list, None for none of them.
    """
    document: dict[str, object] = {"primary": list(_primary(uuid, products))}
    if most_additional is None:
        return document
    main = {resolve(name, products) for name in (ALL_ZIP, *_SCALEODM)}
    others = sorted(products.keys() - main)
    return document | {
        "additional": [_described(uuid, path, products[path]) for path in others[:most_additional]],
        "additionalTotal": len(others),
    }


def _primary(uuid: str, products: Mapping[str, int]) -> Iterator[dict[str, object]]:
    for name, candidates in (("all_zip", (ALL_ZIP,)), *_SCALEODM.items()):
        found = next((path for path in candidates if path in products), None)
        told = {"asset": candidates[0]} if found is None else _described(uuid, found, products[found])
        yield {"id": name, "exists": found is not None} | told


def _described(uuid: str, path: str, size: int) -> dict[str, object]:
    return {"asset": path, "downloadUrl": f"/task/{uuid}/download/{quote(path)}", "size": size}


def additional_limit(wanted: str | None, limit: str | None) -> int | None:
    """How many other files a query asks for with `includeAdditional` and `additionalLimit`."""
    if (wanted or "").lower() not in ("true", "1"):
        return None
    number = int(limit) if limit is not None and limit.isascii() and limit.isdigit() and len(limit) < 10 else 0
    return min(number or USUAL_ADDITIONAL, MOST_ADDITIONAL)


@dataclass(frozen=True, slots=True)
class _Known:
    """A manifest as it was read, and the tag of that version."""

    tag: str
    products: Mapping[str, int]


class Assets:
    """The products of tasks, as their manifests tell. Nothing that is not in one is given away."""

    def __init__(self, storage: Storage) -> None:
        """`storage`: where the outputs lie."""
        self._storage = storage
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def find(self, task: Task, asset: str) -> Reference:
        """Where the asset lies. Raises `Refused` in NodeODM's words where there is none of that name, or not yet."""
        output = Reference.parse(task.output)
        if asset == ALL_ZIP:
            # As NodeODM does, whatever became of the task: also while its other products are still on their way.
            if not await self._storage.run(self._storage.exists, output / ALL_ZIP):
                raise Refused("Asset not ready")
            return output / ALL_ZIP
        products = await self._products(task, output)
        if products is None:
            raise Refused("Asset not ready" if may_come(asset, task.outputs) else "Invalid asset")
        path = resolve(asset, products)
        if path is None:
            raise Refused("Invalid asset")
        return output / path

    async def listing(self, task: Task, most_additional: int | None) -> dict[str, object]:
        """What can be downloaded now; of a task that has not ended, nothing."""
        products = await self._products(task, Reference.parse(task.output))
        return listing(task.uuid, products or {}, most_additional)

    async def _products(self, task: Task, output: Reference) -> Mapping[str, int] | None:
        """Sizes by path; None while the output is not finished, or is another task's by now."""
        tag = await self._storage.run(self._storage.tag, output / MANIFEST)
        if tag is None:
            return None
        known = self._known.get(task.uuid)
        if known is None or known.tag != tag:
            found = await self._storage.run(self._read, task, output)
            if found is None:
                return None
            known = _Known(tag, found)
            self._remember(task.uuid, known)
        self._known.move_to_end(task.uuid)
        return known.products

    def _read(self, task: Task, output: Reference) -> Mapping[str, int] | None:
        try:
            manifest = read_manifest(self._storage, output)
        except (ObjectMissing, ManifestUnreadable):
            return None
        return (
            {each["name"]: each["size"] for each in manifest["objects"]} if manifest.get("uuid") == task.uuid else None
        )

    def _remember(self, uuid: str, known: _Known) -> None:
        self._known[uuid] = known
        while len(self._known) > 1 and sum(len(each.products) + 1 for each in self._known.values()) > MOST_NAMES:
            self._known.popitem(last=False)
