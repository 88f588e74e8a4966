"""The synthetic flight: real JPEG files that a mapping program understands."""

from pathlib import Path

import pytest
from orthomosaic.imageio import read_frame
from PIL import Image

from common.embedded.flight import render_flight


def test_images_carry_what_mapping_needs(tmp_path: Path) -> None:
    """GPS, height, focal length, camera."""
    paths = render_flight(tmp_path, rows=2, columns=2, width=400)
    frames = [read_frame(str(path)) for path in paths]
    assert len(paths) == 4
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "JPEG"
    for frame in frames:
        assert frame.lat == pytest.approx(46.8424, abs=0.001)
        assert frame.lon == pytest.approx(-91.9941, abs=0.001)
        assert (frame.rel_alt, frame.gimbal_pitch, frame.make) == (60.0, -90.0, "DJI")
        assert frame.focal35_mm
    assert len({(frame.lat, frame.lon) for frame in frames}) == 4


def test_the_same_seed_gives_the_same_flight(tmp_path: Path) -> None:
    """Byte for byte."""
    one, two, other = (
        [path.read_bytes() for path in render_flight(tmp_path / name, 1, 2, 300, seed)]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == two
    assert one != other
