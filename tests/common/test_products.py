"""Whether a raster is whole."""

import contextlib
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio import Affine

from common.products import TiffBroken, check_tiff

PLACE = Affine(0.05, 0, 500_000, 0, -0.05, 6_000_000)


def written(path: Path, **profile: Any) -> Path:
    """A GeoTIFF as GDAL writes it."""
    bands, side = profile.pop("count", 4), profile.pop("side", 300)
    pixels = np.random.default_rng(7).integers(1, 255, (bands, side, side), dtype=np.uint8)
    place = {"crs": "EPSG:32632", "transform": PLACE}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=bands, dtype="uint8", **place, **profile
    ) as made:
        made.write(pixels)
    return path


PROFILES: list[dict[str, Any]] = [
    {},
    {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "DEFLATE"},
    {"BIGTIFF": "YES", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "LZW"},
    {"BIGTIFF": "YES"},
    {"ENDIANNESS": "BIG", "interleave": "band"},
    {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    {"compress": "JPEG", "count": 3, "photometric": "YCBCR"},
    {"SPARSE_OK": "TRUE", "tiled": True, "blockxsize": 64, "blockysize": 64},
]


def size_checked(path: Path) -> None:
    """Look at a file."""
    with path.open("rb") as file:
        check_tiff(file, path.stat().st_size)


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_what_gdal_writes_is_whole(tmp_path: Path, profile: dict[str, Any]) -> None:
    """Strips and tiles, both byte orders, BigTIFF, compressed or not, with overviews and a mask."""
    path = written(tmp_path / "a.tif", **profile)
    size_checked(path)
    with rasterio.open(path, "r+") as opened:
        opened.build_overviews([2, 4])
        opened.write_mask(True)
    size_checked(path)


@pytest.mark.parametrize("profile", PROFILES[:7], ids=str)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99])
def test_what_was_broken_off_is_not_whole(tmp_path: Path, profile: dict[str, Any], share: float) -> None:
    """As a full disk leaves it."""
    content = written(tmp_path / "a.tif", **profile).read_bytes()
    size = int(len(content) * share)
    with pytest.raises(TiffBroken):
        check_tiff(io.BytesIO(content[:size]), size)


def test_a_sparse_raster_is_whole_and_one_without_any_data_is_not(tmp_path: Path) -> None:
    """GDAL may leave out pieces of nothing; an orthophoto of nothing else is none."""
    path = tmp_path / "a.tif"
    kind: dict[str, Any] = {"driver": "GTiff", "width": 512, "height": 512, "count": 1, "dtype": "uint8"}
    for filled in (True, False):
        with rasterio.open(path, "w", tiled=True, SPARSE_OK="TRUE", transform=PLACE, **kind) as sparse:
            if filled:
                sparse.write(np.ones((1, 256, 256), np.uint8), window=((0, 256), (0, 256)))
        if filled:
            size_checked(path)
        else:
            with pytest.raises(TiffBroken, match="no data at all"):
                size_checked(path)


def test_what_pillow_writes_is_whole(tmp_path: Path) -> None:
    """The stand-ins and the embedded engine write so."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.tif", compression="tiff_lzw")
    size_checked(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "would end at byte 8"),
        (b"II*\x00 not really a picture", "would end at byte"),
        (b"\xff\xd8\xff\xe0 a JPEG of that name", "does not begin as a TIFF does"),
        (struct.pack("<2sHIH", b"II", 42, 0, 0), "holds no picture"),
        (struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 3, 1, 7, 8), "does not say how large"),
        (struct.pack("<2sHIHI", b"II", 42, 8, 0, 8), "has 0 entries"),
    ],
)
def test_what_is_no_tiff_is_told_so(content: bytes, says: str) -> None:
    """Rather than anything else that a parser may stumble over."""
    with pytest.raises(TiffBroken, match=says):
        check_tiff(io.BytesIO(content), len(content))


def test_directories_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    """A broken file does not hold up a run for ever."""
    content = bytearray(written(tmp_path / "a.tif").read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, first)
    with pytest.raises(TiffBroken, match="circle"):
        check_tiff(io.BytesIO(content), len(content))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.sampled_from([42, 43]))
def test_no_bytes_make_the_check_stumble(content: bytes, little: bool, version: int) -> None:
    """Whole or broken: nothing else is raised, and no memory is taken that the file does not have."""
    head = struct.pack("<2sHI" if little else ">2sHI", b"II" if little else b"MM", version, 8)
    for data in (content, head + content):
        with contextlib.suppress(TiffBroken):
            check_tiff(io.BytesIO(data), len(data))
