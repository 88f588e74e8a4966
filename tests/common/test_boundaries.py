"""One polygon, or a sentence that says what is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.boundaries import MOST_BYTES, MOST_POINTS, BoundaryUnusable, boundary_of
from common.nodeodm.catalogue import ODM_OPTIONS
from common.nodeodm.options import OptionsInvalid, Setting, parse_options
from tests.fuzzing import TIMEOUT_S, fuzzed

RING = [[-91.99, 46.84], [-91.98, 46.84], [-91.98, 46.85], [-91.99, 46.84]]
POLYGON: dict[str, Any] = {"type": "Polygon", "coordinates": [RING]}
FEATURE: dict[str, Any] = {"type": "Feature", "properties": {}, "geometry": POLYGON}
COLLECTION: dict[str, Any] = {"type": "FeatureCollection", "features": [FEATURE]}


@pytest.mark.parametrize("document", [POLYGON, FEATURE, COLLECTION])
def test_one_polygon_is_taken_in_whichever_way_it_is_wrapped(document: dict[str, Any]) -> None:
    """As text, or as the object itself in a JSON body; kept compact."""
    compact = json.dumps(document, separators=(",", ":"))
    assert boundary_of(json.dumps(document, indent=4)) == compact
    assert boundary_of(document) == compact


def test_a_polygon_may_have_holes_and_heights() -> None:
    """As GeoJSON allows."""
    raised = [[*point, 120.5] for point in RING]
    assert boundary_of({"type": "Polygon", "coordinates": [raised, RING]})


def test_a_boundary_in_s3_is_taken_as_it_is() -> None:
    """It is read when the run begins."""
    assert boundary_of(" s3://bucket/areas/field 1.geojson ") == "s3://bucket/areas/field 1.geojson"


def with_ring(*ring: Any) -> dict[str, Any]:
    """A polygon of one ring."""
    return {"type": "Polygon", "coordinates": [list(ring)]}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("field.geojson", "is not JSON"),
        ("[]", "no JSON object"),
        (None, "is nothing"),
        (7, "is 7"),
        ("{}", "is of type nothing; it must be one Polygon"),
        ({"type": "MultiPolygon", "coordinates": [[RING]]}, "is of type 'MultiPolygon'; it must be one Polygon"),
        ({"type": "Point", "coordinates": [0, 0]}, "is of type 'Point'"),
        ({"type": "FeatureCollection", "features": [FEATURE, FEATURE]}, "has 2 features; it must be one polygon"),
        ({"type": "FeatureCollection", "features": []}, "has 0 features"),
        ({"type": "FeatureCollection", "features": [POLYGON]}, "where a Feature should be"),
        ({"type": "Feature", "geometry": None}, "its geometry is nothing"),
        ({"type": "Polygon", "coordinates": []}, "has no ring"),
        (with_ring(), "has 0 points in ring 1"),
        (with_ring(*RING[:3]), "has 3 points in ring 1"),
        (with_ring(*RING[:3], [0, 0]), "does not close"),
        (with_ring([1, 1], [1, 1], [1, 1], [1, 1]), "has no area"),
        (with_ring([1, 1], [200, 1], [2, 2], [1, 1]), "longitude goes from -180 to 180"),
        (with_ring([1, 1], [1, -91], [2, 2], [1, 1]), "latitude from -90 to 90"),
        (with_ring([1, 1], [1, "2"], [2, 2], [1, 1]), "'2' in point 2 of ring 1, which is no usable number"),
        (with_ring([1, 1], [1, True], [2, 2], [1, 1]), "True in point 2 of ring 1, which is no usable number"),
        (with_ring([1, 1], [1], [2, 2], [1, 1]), "a point is [longitude, latitude]"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 1], [1, 2], [2, 2], [NaN, 1]]]}', "NaN is no number of JSON"),
        ('{"type": "Polygon", "coordinates": [[[1e999, 1], [1, 2], [2, 2], [1, 1]]]}', "no usable number"),
        ('{"a":' * 300_000, "bytes: simplify"),
        ('{"a":' * 40_000 + "1", "nested too deeply"),
        (" " * MOST_BYTES + "{}", f"has more than {MOST_BYTES} bytes"),
        (with_ring(*[[0, 0]] * (MOST_POINTS + 1)), f"has more than {MOST_POINTS} points"),
        ("s3://bucket", "names no object in S3"),
        ("s3://bucket/folder/", "names no object in S3"),
        ("s3://bucket/../x.geojson", "names no object in S3"),
    ],
)
def test_what_is_no_single_polygon_is_told(raw: object, problem: str) -> None:
    """What is wrong, where, and what is expected instead."""
    with pytest.raises(BoundaryUnusable) as told:
        boundary_of(raw)
    assert problem in str(told.value)
    assert "Expected GeoJSON such as" in str(told.value)
    assert len(str(told.value)) < 600


def test_a_bad_boundary_is_told_beside_other_bad_options_in_nodeodms_shape() -> None:
    """Contract 4.3: every problem at once, as a list of name and error."""
    given_options = [{"name": "boundary", "value": "{}"}, {"name": "feature-type", "value": "zzz"}]
    with pytest.raises(OptionsInvalid) as told:
        parse_options(given_options, ODM_OPTIONS)
    problems = {each["name"]: each["error"] for each in json.loads(str(told.value))}
    assert set(problems) == {"boundary", "feature-type"}
    assert problems["boundary"].startswith("The boundary is of type nothing; it must be one Polygon.")


def test_a_good_boundary_becomes_an_option() -> None:
    """The engine reads it as text or from a file."""
    parsed = parse_options([{"name": "boundary", "value": POLYGON}], ODM_OPTIONS)
    assert parsed == (Setting("boundary", boundary_of(POLYGON)),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["type", "coordinates", "geometry", "features", "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)
NUMBERS = st.one_of(st.floats(-200, 200), st.integers(), st.floats(), st.booleans(), st.text(max_size=2))
POINTS = st.lists(NUMBERS, max_size=5)
RINGS = st.lists(POINTS, max_size=6).map(lambda ring: [*ring, ring[0]] if ring else ring)
NEARLY = st.builds(
    lambda kind, rings, wrap: wrap({"type": kind, "coordinates": rings}),
    st.sampled_from(["Polygon", "Polygon", "MultiPolygon", "", None]),
    st.lists(RINGS, max_size=3) | JSON,
    st.sampled_from(
        [
            lambda each: each,
            lambda each: {"type": "Feature", "geometry": each},
            lambda each: {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": each}]},
        ]
    ),
)


@given(st.one_of(JSON, NEARLY, st.text(max_size=200), (JSON | NEARLY).map(json.dumps)))
@fuzzed(200)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_boundary_is_one_polygon_or_refused(raw: object) -> None:
    """No crash; what is taken is taken again unchanged, and is JSON without infinities."""
    try:
        taken = boundary_of(raw)
    except BoundaryUnusable as unusable:
        told = str(unusable)
        if len(told) > 800:
            pytest.fail(f"a very long sentence: {told}")
        return
    assert boundary_of(taken) == taken
    if not taken.lower().startswith("s3://"):
        json.loads(taken, parse_constant=lambda name: pytest.fail(f"{name} was taken"))
