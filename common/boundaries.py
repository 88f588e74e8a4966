"""The `boundary` of a task: GeoJSON with one polygon, inline or in S3. Pure (contract 8.5, 9.6).

ODM reads nothing else, and says so only hours later, or clips away everything: so it is checked when it comes.
"""

import json
import math
import re
from typing import Any

OPTION = "boundary"
MOST_BYTES = 1024 * 1024
MOST_POINTS = 50_000
_MOST_SHOWN = 40
_OBJECT = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._@:-]*/(?:[^\x00-\x1f\x7f]*[^\x00-\x1f\x7f/])", re.IGNORECASE)
_EXPECTED = (
    'Expected GeoJSON such as {"type": "Polygon", "coordinates": [[[lon, lat], …]]}, or s3://bucket/area.geojson.'
)


class BoundaryUnusable(Exception):
    """No polygon can be made of it; the text says what is wrong, where, and what is expected."""

    def __init__(self, problem: str) -> None:
        """`problem`: what is wrong."""
        super().__init__(f"The boundary {problem}. {_EXPECTED}")


def boundary_of(raw: object) -> str:
    """A client's boundary as it is kept: a reference as it is, GeoJSON checked and as compact as can be.

    Raises `BoundaryUnusable`.
    """
    if is_reference(raw):
        return _checked_reference(str(raw).strip())
    return checked(json.dumps(raw) if isinstance(raw, dict) else raw)


def is_reference(raw: object) -> bool:
    """Whether a boundary lies in S3."""
    return isinstance(raw, str) and raw.strip().lower().startswith("s3://")


def _checked_reference(raw: str) -> str:
    if not _OBJECT.fullmatch(raw) or ".." in raw.split("/"):
        raise BoundaryUnusable(f"is {raw[:200]!r}, which names no object in S3")
    return raw


def checked(raw: object) -> str:
    """GeoJSON with one polygon, as compact text."""
    if not isinstance(raw, str):
        raise BoundaryUnusable(f"is {_shown(raw)}")
    if len(raw) > MOST_BYTES or len(raw.encode("utf-8", "replace")) > MOST_BYTES:
        raise BoundaryUnusable(f"has more than {MOST_BYTES} bytes: simplify its outline")
    try:
        document = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        raise BoundaryUnusable("is nested too deeply") from None
    except ValueError as wrong:
        raise BoundaryUnusable(f"is not JSON ({wrong})") from wrong
    _check_polygon(_geometry(document))
    return json.dumps(document, separators=(",", ":"))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _geometry(document: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    found = _object(document, "it")
    if found.get("type") == "FeatureCollection":
        features = found.get("features")
        if not isinstance(features, list) or len(features) != 1:
            count = len(features) if isinstance(features, list) else "no"
            raise BoundaryUnusable(f"has {count} features; it must be one polygon")
        found = _object(features[0], "its feature")
        if found.get("type") != "Feature":
            raise BoundaryUnusable(f"has {_shown(found.get('type'))} where a Feature should be")
    if found.get("type") == "Feature":
        found = _object(found.get("geometry"), "its geometry")
    if found.get("type") != "Polygon":
        raise BoundaryUnusable(f"is of type {_shown(found.get('type'))}; it must be one Polygon")
    return found


def _object(found: Any, what: str) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(found, dict):
        raise BoundaryUnusable(f"cannot be read: {what} is {_shown(found)} and no JSON object")
    return found


def _check_polygon(geometry: dict[str, Any]) -> None:
    rings = geometry.get("coordinates")
    if not isinstance(rings, list) or not rings:
        raise BoundaryUnusable("has no ring of points")
    if sum(len(ring) for ring in rings if isinstance(ring, list)) > MOST_POINTS:
        raise BoundaryUnusable(f"has more than {MOST_POINTS} points: simplify its outline")
    for number, ring in enumerate(rings, 1):
        _check_ring(ring, f"ring {number}")


def _check_ring(ring: object, which: str) -> None:
    if not isinstance(ring, list) or len(ring) < 4:
        count = len(ring) if isinstance(ring, list) else "no"
        raise BoundaryUnusable(f"has {count} points in {which}; a ring has 4 or more, the last being the first again")
    for place, point in enumerate(ring, 1):
        _check_point(point, f"point {place} of {which}")
    if ring[0][:2] != ring[-1][:2]:
        raise BoundaryUnusable(f"does not close: {which} must end at its first point, {_shown(ring[0])}")
    if len({(point[0], point[1]) for point in ring}) < 3:
        raise BoundaryUnusable(f"has no area: {which} has fewer than 3 different points")


def _check_point(point: object, which: str) -> None:
    if not isinstance(point, list) or not 2 <= len(point) <= 4:
        raise BoundaryUnusable(f"has {_shown(point)} as {which}; a point is [longitude, latitude]")
    for value in point:
        # JSON's numbers may be larger than any that can be calculated with.
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or abs(value) > 1e9
            or not math.isfinite(value)
        ):
            raise BoundaryUnusable(f"has {_shown(value)} in {which}, which is no usable number")
    longitude, latitude = point[:2]
    if abs(longitude) > 180 or abs(latitude) > 90:
        raise BoundaryUnusable(
            f"has {_shown(point)} as {which}; longitude goes from -180 to 180 and latitude from -90 to 90 (WGS84)"
        )


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        shown = (
            "a list" if isinstance(value, list) and len(value) > 4 else "an object" if isinstance(value, dict) else ""
        )
        if shown:
            return shown
    try:
        text = "nothing" if value is None else repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return "a number without end"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"
