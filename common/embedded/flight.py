"""A synthetic flight: views of a textured ground along a lawnmower path, as JPEG files with GPS in their EXIF."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import cos, hypot, radians
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter
from PIL.TiffImagePlugin import IFDRational

METERS_PER_DEGREE = 111_320.0
"""Along a meridian; along a parallel times the cosine of the latitude."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that looks straight down. Lengths in meters, image sizes in pixels."""

    width: int
    height: int
    altitude: float = 60.0
    pixel: float = 0.06
    """Ground sampling distance: meters on the ground of one pixel."""

    @property
    def focal_35mm(self) -> float:
        """Focal length as EXIF gives it: for film of 36 × 24 mm, by its diagonal."""
        return hypot(36, 24) * self.altitude / self.pixel / hypot(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the middle of the flight lies: degrees."""

    latitude: float = 46.8424
    longitude: float = -91.9941


@dataclass(frozen=True, slots=True)
class Shot:
    """One image to be taken: meters east and south of the ground's corner, degrees of heading."""

    east: float
    south: float
    heading: float


def render_flight(folder: Path, rows: int = 3, columns: int = 4, width: int = 1000, seed: int = 7) -> list[Path]:
    """Write `rows` × `columns` images of `width` pixels into `folder`; the same seed gives the same images.

    Forward overlap is 75 %, side overlap 65 %, as a mapping flight has it.
    """
    camera = Camera(width, width * 3 // 4)
    chance = np.random.default_rng(seed)
    shots = _path(camera, rows, columns, chance)
    size = (
        max(shot.east for shot in shots) + camera.width * camera.pixel,
        max(shot.south for shot in shots) + camera.height * camera.pixel,
    )
    ground = _ground(size, camera.pixel, chance)
    folder.mkdir(parents=True, exist_ok=True)
    return [_take(ground, shot, size, camera, folder, number) for number, shot in enumerate(shots, 1)]


def _path(camera: Camera, rows: int, columns: int, chance: np.random.Generator) -> list[Shot]:
    """Row by row, every second one backwards."""
    across, along = camera.width * camera.pixel, camera.height * camera.pixel
    shots = []
    for row in range(rows):
        order = range(columns) if row % 2 == 0 else range(columns - 1, -1, -1)
        for column in order:
            drift = chance.normal(0, 0.01 * across, 2)
            east, south = across * (0.8 + 0.35 * row) + drift[0], along * (0.8 + 0.25 * column) + drift[1]
            shots.append(Shot(float(east), float(south), float(chance.normal(0, 2))))
    return shots


def _ground(size: tuple[float, float], pixel: float, chance: np.random.Generator) -> Image.Image:
    """Fields, roads, roofs, trees and stones, with detail at every scale that features are found at."""
    width, height = (int(length / pixel) + 1 for length in size)
    tones = sum(
        _noise(width, height, step, chance) * weight for step, weight in ((400, 50), (60, 30), (12, 22), (3, 16))
    )
    base = np.stack([100 + tones * 0.9, 115 + tones, 80 + tones * 0.7], axis=-1)
    _paint_blocks(base, chance, count=width * height // 9000)
    _paint_roads(base)
    return Image.fromarray(np.clip(base, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def _noise(width: int, height: int, step: int, chance: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise whose features are `step` pixels wide, between -1 and 1."""
    coarse = chance.uniform(-1, 1, (height // step + 2, width // step + 2)).astype(np.float32)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def _paint_blocks(ground: NDArray[np.float32], chance: np.random.Generator, count: int) -> None:
    """Roofs, cars, beds: sharp corners, which matching lives on."""
    height, width = ground.shape[:2]
    for _ in range(count):
        top, left = chance.integers(0, height), chance.integers(0, width)
        tall, wide = chance.integers(4, 60, 2)
        ground[top : top + tall, left : left + wide] = chance.uniform(40, 220, 3)
        ground[top + tall : top + tall + 3, left + 2 : left + wide + 2] *= 0.5


def _paint_roads(ground: NDArray[np.float32]) -> None:
    height, width = ground.shape[:2]
    for start in range(height // 5, height, height // 3):
        ground[start : start + 70, :] = ground[start : start + 70, :] * 0.3 + 85
        ground[start + 33 : start + 37, ::2] = 230
    ground[:, width // 2 : width // 2 + 60] = ground[:, width // 2 : width // 2 + 60] * 0.3 + 95


def _take(
    ground: Image.Image, shot: Shot, size: tuple[float, float], camera: Camera, folder: Path, number: int
) -> Path:
    """Render one view and write it."""
    turn = radians(shot.heading)
    sine, cosine = np.sin(turn), cos(turn)
    middle_x, middle_y = shot.east / camera.pixel, shot.south / camera.pixel
    half_w, half_h = camera.width / 2, camera.height / 2
    affine = (
        cosine,
        -sine,
        middle_x - cosine * half_w + sine * half_h,
        sine,
        cosine,
        middle_y - sine * half_w - cosine * half_h,
    )
    view = ground.transform(
        (camera.width, camera.height), Image.Transform.AFFINE, affine, resample=Image.Resampling.BICUBIC
    )
    path = folder / f"DJI_{number:04d}.JPG"
    view.save(path, quality=92, exif=_exif(shot, size, camera, number), xmp=_xmp(shot, camera))
    return path


def _exif(shot: Shot, size: tuple[float, float], camera: Camera, number: int) -> Image.Exif:
    place = Place()
    latitude = place.latitude + (size[1] / 2 - shot.south) / METERS_PER_DEGREE
    longitude = place.longitude + (shot.east - size[0] / 2) / (METERS_PER_DEGREE * cos(radians(place.latitude)))
    taken = datetime(2026, 5, 4, 10, 0, tzinfo=UTC) + timedelta(seconds=2 * number)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "DJI"
    exif[ExifTags.Base.Model] = "SYNTHETIC"
    exif[ExifTags.Base.DateTime] = f"{taken:%Y:%m:%d %H:%M:%S}"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = f"{taken:%Y:%m:%d %H:%M:%S}"
    details[ExifTags.Base.FocalLength] = IFDRational(round(camera.focal_35mm * 100), 500)
    details[ExifTags.Base.FocalLengthIn35mmFilm] = round(camera.focal_35mm)
    details[ExifTags.Base.ExifImageWidth] = camera.width
    details[ExifTags.Base.ExifImageHeight] = camera.height
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef] = "N" if latitude >= 0 else "S"
    gps[ExifTags.GPS.GPSLatitude] = _degrees(latitude)
    gps[ExifTags.GPS.GPSLongitudeRef] = "E" if longitude >= 0 else "W"
    gps[ExifTags.GPS.GPSLongitude] = _degrees(longitude)
    gps[ExifTags.GPS.GPSAltitudeRef] = b"\x00"
    gps[ExifTags.GPS.GPSAltitude] = IFDRational(round((camera.altitude + 200) * 100), 100)
    return exif


def _degrees(angle: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """Degrees, minutes, seconds."""
    whole, rest = divmod(abs(angle) * 3600, 3600)
    minutes, seconds = divmod(rest, 60)
    return (
        IFDRational(int(whole), 1),
        IFDRational(int(minutes), 1),
        IFDRational(round(seconds * 100_000), 100_000),
    )


def _xmp(shot: Shot, camera: Camera) -> bytes:
    """The camera's attitude and height above take-off, where DJI writes them."""
    values = {
        "RelativeAltitude": f"+{camera.altitude:.2f}",
        "AbsoluteAltitude": f"+{camera.altitude + 200:.2f}",
        "GimbalPitchDegree": "-90.00",
        "GimbalYawDegree": f"{shot.heading:+.2f}",
    }
    attributes = " ".join(f'drone-dji:{name}="{value}"' for name, value in values.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" {attributes}/></rdf:RDF></x:xmpmeta>'
    ).encode()


if __name__ == "__main__":
    # For whoever has no photographs at hand: docs/quick-start.md.
    render_flight(Path(sys.argv[1]))
