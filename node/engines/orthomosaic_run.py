"""The program behind the engine: `python -m node.engines.orthomosaic_run [options] --project-path DIR NAME`.

ODM's command line, log, exit codes and result tree (contract 9), with `pyorthomosaic` doing the work.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from orthomosaic import Options, Options3D, build_3d, build_orthomosaic, write_quality_report
from orthomosaic.camera import focal_from_exif
from orthomosaic.imageio import Frame, read_frame
from PIL import Image

from common.nodeodm.options import Option
from common.references import is_image
from node.engines.odm_log import LibraryLog, OdmLog, write_document
from node.engines.orthomosaic import ORTHOMOSAIC

Image.MAX_IMAGE_PIXELS = None  # aerial mosaics and medium-format cameras exceed Pillow's limit by right

FEWEST_IMAGES = 2
_FEATURE_SIDE = {"ultra": 8192, "high": 4096, "medium": 2048, "low": 1024, "lowest": 512}
_PLANAR_FEATURE_SIDE = {"ultra": 4096, "high": 2000, "medium": 1400, "low": 1000, "lowest": 700}
_DEPTH_SIDE = {"ultra": 3200, "high": 2400, "medium": 1600, "low": 800, "lowest": 400}
_PLANAR_STAGES = {
    "Reading metadata": "opensfm",
    "Aligned": "odm_orthophoto",
}
_DENSE_STAGES = {
    "Reading metadata": "opensfm",
    "Densify:": "openmvs",
    "Dense cloud:": "odm_filterpoints",
    "Dense cloud -> DSM": "odm_dem",
    "Orthophoto grid": "odm_orthophoto",
    "True orthophoto": "odm_orthophoto",
}


class DatasetUnusable(Exception):
    """The dataset cannot be processed; the text is what the user is told."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One usable image."""

    path: Path
    frame: Frame


def parser() -> argparse.ArgumentParser:
    """ODM's command line, as far as this engine honours it. A bad value ends with exit code 2."""
    arguments = argparse.ArgumentParser("orthomosaic", allow_abbrev=False)
    arguments.add_argument("--project-path", required=True, type=Path)
    arguments.add_argument("--gcp", type=Path)
    for unused in ("--geo", "--align", "--split-image-groups"):
        arguments.add_argument(unused, type=Path)
    for option in ORTHOMOSAIC.options:
        _add(arguments, option)
    arguments.add_argument("name", nargs="?", default="code")
    return arguments


def _add(arguments: argparse.ArgumentParser, option: Option) -> None:
    flag, text = f"--{option.name}", option.help.replace("%(choices)s", "see below")
    match option.type:
        case "bool":
            arguments.add_argument(flag, action="store_true", help=text)
        case "enum":
            arguments.add_argument(flag, choices=option.domain, default=option.value, help=text)
        case "int":
            arguments.add_argument(flag, type=int, default=int(option.value), help=text)
        case "float":
            arguments.add_argument(flag, type=float, default=float(option.value), help=text)
        case _:
            arguments.add_argument(flag, default=option.value, help=text)


class Dataset:
    """One project on its way from images to products."""

    def __init__(self, given: argparse.Namespace, log: OdmLog) -> None:
        """`given`: the parsed command line."""
        self._given = given
        self._log = log
        self._project: Path = given.project_path / given.name
        self._work = self._project / ".orthomosaic"
        self._photos: list[Photo] = []
        if self._given.gcp is None and (self._project / "gcp_list.txt").is_file():
            self._given.gcp = self._project / "gcp_list.txt"

    def process(self) -> int:
        """Run all stages; gives the exit code."""
        error: str | None = None
        try:
            self._stages()
        except (DatasetUnusable, ValueError, RuntimeError) as unusable:
            error = str(unusable)
            self._log.error(error)
        except MemoryError:
            error = "MemoryError: the machine ran out of memory; use fewer images or a lower quality."
            self._log.error(error)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)
        if self._project.is_dir():
            document = self._log.document(len(self._photos), _listed(self._given), error)
            write_document(self._project / "log.json", document)
        return 0 if error is None else 1

    def _stages(self) -> None:
        self._print_options()
        self._log.reach("dataset")
        self._photos = self._load_photos()
        write_document(self._project / "images.json", [_record(photo) for photo in self._photos])
        for name in ("geo.txt", "image_groups.txt", "align.laz", "align.las", "align.tif"):
            if (self._project / name).exists():
                self._log.warning(f"{name} is not used by this engine.")
        self._work.mkdir(exist_ok=True)
        report = self._planar() if self._given.fast_orthophoto else self._dense()
        self._log.reach("odm_report")
        self._report(report)
        self._log.reach("odm_postprocess")
        write_document(self._project / "options.json", _listed(self._given))
        self._log.finish()

    def _print_options(self) -> None:
        self._log.info("==============")
        for name, value in sorted(_listed(self._given).items()):
            self._log.info(f"{name}: {value}")
        self._log.info("==============")

    def _load_photos(self) -> list[Photo]:
        """Every image that can really be decoded; the others are told, as ODM tells them."""
        folder = self._project / "images"
        if not folder.is_dir():
            raise DatasetUnusable(f"{folder} does not exist: expected a project folder with images/ in it.")
        paths = sorted(path for path in folder.iterdir() if is_image(path.name))
        self._log.info(f"Loading {len(paths)} images")
        photos = [photo for photo in map(self._load, paths) if photo is not None]
        self._log.info(f"Found {len(photos)} usable images")
        if len(photos) < FEWEST_IMAGES:
            raise DatasetUnusable(
                f"Not enough usable images: {len(photos)} of {len(paths)} can be read, at least {FEWEST_IMAGES} that "
                "overlap are needed. Check the files named above and upload more images."
            )
        return photos

    def _load(self, path: Path) -> Photo | None:
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                warnings.simplefilter("ignore")
                image.load()
            return Photo(path, read_frame(str(path)))
        except (OSError, ValueError, SyntaxError) as broken:
            self._log.warning(f"{path.name} seems corrupted and will not be used ({_short(broken, path)})")
            return None

    def _paths(self) -> list[str]:
        return [str(photo.path) for photo in self._photos]

    def _planar(self) -> dict[str, Any]:
        """fast-orthophoto: one plane, no surface."""
        given = self._given
        for flag, wanted in (("gcp", given.gcp), ("rolling-shutter", given.rolling_shutter)):
            if wanted:
                self._log.warning(f"--{flag} has no effect with fast-orthophoto.")
        options = Options(
            backend="cpu",
            workers=given.max_concurrency,
            feature_max_dim=_PLANAR_FEATURE_SIDE[given.feature_quality],
            n_features=given.min_num_features or 5000,
            neighbors=given.matcher_neighbors or 8,
            gps_sigma=given.gps_accuracy,
            resolution=self._planar_resolution(),
            preview=False,
        )
        target = self._work / "orthophoto.tif"
        with _stages_from(self._log, _PLANAR_STAGES):
            report: dict[str, Any] = build_orthomosaic(self._paths(), str(target), options)
        if not given.skip_orthophoto:
            self._keep(target, "odm_orthophoto/odm_orthophoto.tif")
        return report

    def _planar_resolution(self) -> float | None:
        """Meters a pixel: as asked, but no finer than the images are, unless that is asked too; None is native."""
        asked = float(self._given.orthophoto_resolution) / 100
        heights = [
            photo.frame.rel_alt / focal_from_exif(photo.frame)[0]
            for photo in self._photos
            if photo.frame.rel_alt is not None and photo.frame.rel_alt > 0
        ]
        if self._given.ignore_gsd:
            return asked
        return max(asked, float(np.median(heights))) if heights else None

    def _dense(self) -> dict[str, Any]:
        """The full pipeline: dense cloud, surface, true orthophoto."""
        given = self._given
        formats = ("las", "laz") if given.pc_las else ("laz",)
        options = Options3D(
            backend="cpu",
            workers=given.max_concurrency,
            feature_max_dim=_FEATURE_SIDE[given.feature_quality],
            n_features=given.min_num_features,
            neighbors=given.matcher_neighbors,
            gps_sigma=given.gps_accuracy,
            rolling_shutter=given.rolling_shutter,
            rolling_shutter_readout=given.rolling_shutter_readout,
            depth_max_image=_DEPTH_SIDE[given.pc_quality],
            dsm_resolution=given.dem_resolution / 100,
            dem_gapfill_steps=given.dem_gapfill_steps,
            ortho_resolution=given.orthophoto_resolution / 100,
            ignore_gsd=given.ignore_gsd,
            dtm=given.dtm or given.pc_classify,
            classify_cloud=given.pc_classify,
            gcp=str(given.gcp) if given.gcp else None,
            formats=formats,
            preview=False,
        )
        with _stages_from(self._log, _DENSE_STAGES):
            report: dict[str, Any] = build_3d(self._paths(), str(self._work), options)
        self._keep_dense()
        return report

    def _keep_dense(self) -> None:
        given = self._given
        wanted = {
            "orthophoto.tif": "" if given.skip_orthophoto else "odm_orthophoto/odm_orthophoto.tif",
            "dsm.tif": "odm_dem/dsm.tif" if given.dsm else "",
            "dtm.tif": "odm_dem/dtm.tif" if given.dtm else "",
            "dense.laz": "odm_georeferencing/odm_georeferenced_model.laz",
            "dense.las": "odm_georeferencing/odm_georeferenced_model.las" if given.pc_las else "",
        }
        for source, target in wanted.items():
            if target and (self._work / source).exists():
                self._keep(self._work / source, target)

    def _keep(self, source: Path, target: str) -> None:
        """Rename into the result tree: a product is there whole or not at all."""
        place = self._project / target
        place.parent.mkdir(parents=True, exist_ok=True)
        source.replace(place)

    def _report(self, report: dict[str, Any]) -> None:
        write_document(self._project / "cameras.json", _cameras(self._photos, report))
        folder = self._project / "odm_report"
        write_document(folder / "shots.geojson", _shots(self._photos))
        if self._given.skip_report:
            return
        write_document(folder / "stats.json", {key: value for key, value in report.items() if key != "cameras"})
        if not self._given.fast_orthophoto:
            write_quality_report(str(self._work / "report.json"), str(self._work / "report.html"))
            self._keep(self._work / "report.html", "odm_report/report.html")


class _stages_from:  # noqa: N801 - read as a with statement
    """While the library works, its log becomes ours."""

    def __init__(self, log: OdmLog, stages: dict[str, str]) -> None:
        self._handler = LibraryLog(log, stages)
        self._logger = logging.getLogger("orthomosaic")

    def __enter__(self) -> None:
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)


def _listed(given: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}


def _short(broken: Exception, path: Path) -> str:
    return str(broken).replace(str(path), path.name).split("\n")[0]


def _record(photo: Photo) -> dict[str, Any]:
    """One entry of `images.json` (contract 7)."""
    frame = photo.frame
    return {
        "filename": photo.path.name,
        "width": frame.width,
        "height": frame.height,
        "latitude": frame.lat,
        "longitude": frame.lon,
        "altitude": frame.alt,
        "camera_make": frame.make,
        "camera_model": frame.model,
        "orientation": frame.orientation,
    }


def _camera_name(frame: Frame) -> str:
    words = ["v2", frame.make, frame.model, str(frame.width), str(frame.height), "perspective"]
    return " ".join(word for word in words if word).lower()


def _cameras(photos: Sequence[Photo], report: dict[str, Any]) -> dict[str, Any]:
    """`cameras.json`: focal length as a share of the longer side, as OpenSfM has it."""
    solved = report.get("cameras", {})
    cameras: dict[str, Any] = {}
    for photo in photos:
        frame = photo.frame
        found = solved.get(photo.path.name, {})
        focal = found.get("f", focal_from_exif(frame)[0])
        cameras[_camera_name(frame)] = {
            "projection_type": "perspective",
            "width": frame.width,
            "height": frame.height,
            "focal": float(focal) / max(frame.width, frame.height),
            "k1": found.get("k1", 0.0),
            "k2": found.get("k2", 0.0),
        }
    return cameras


def _shots(photos: Sequence[Photo]) -> dict[str, Any]:
    """`shots.geojson`: where each image was taken."""
    features = [
        {
            "type": "Feature",
            "properties": {"filename": photo.path.name, "camera": _camera_name(photo.frame)},
            "geometry": {
                "type": "Point",
                "coordinates": [photo.frame.lon, photo.frame.lat, photo.frame.alt or 0.0],
            },
        }
        for photo in photos
        if photo.frame.has_gps
    ]
    return {"type": "FeatureCollection", "features": features}


def _end_now(number: int, frame: object) -> None:
    """ODM ends at once with 1 on SIGTERM; threads of the library would hold up anything gentler."""
    del number, frame
    os._exit(1)


def main() -> int:
    """Process one dataset."""
    signal.signal(signal.SIGTERM, _end_now)
    signal.signal(signal.SIGINT, _end_now)
    given = parser().parse_args()
    odm_log = OdmLog(f"orthomosaic {ORTHOMOSAIC.version}")
    if not (given.project_path / given.name).is_dir():
        odm_log.error(f"The project {given.project_path / given.name} does not exist.")
        return 1
    return Dataset(given, odm_log).process()


if __name__ == "__main__":
    sys.exit(main())
