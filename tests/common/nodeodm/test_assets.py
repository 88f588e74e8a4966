"""By which names products are known, and which of them there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nodeodm.assets import ALIASES, additional_limit, listing, may_come, resolve

LAZ, PLY = "odm_georeferencing/odm_georeferenced_model.laz", "odm_georeferencing/odm_georeferenced_model.ply"


@pytest.mark.parametrize(
    ("asset", "products", "found"),
    [
        ("point_cloud", {PLY: 1, LAZ: 1}, LAZ),
        ("point_cloud", {PLY: 1}, PLY),
        ("georeferenced_model.laz", {LAZ: 1}, LAZ),
        (LAZ, {LAZ: 1}, LAZ),
        ("dsm.tif", {"dsm.tif": 1, "odm_dem/dsm.tif": 1}, "dsm.tif"),
        ("dsm", {}, None),
        ("nonsense", {LAZ: 1}, None),
        ("", {LAZ: 1}, None),
    ],
)
def test_an_asset_is_a_path_or_the_best_of_what_an_alias_means(
    asset: str, products: dict[str, int], found: str | None
) -> None:
    """A path goes before an alias."""
    assert resolve(asset, products) == found


@given(st.one_of(st.text(), st.sampled_from(sorted(ALIASES))), st.dictionaries(st.text(), st.integers()))
def test_nothing_is_found_that_is_not_a_product(asset: str, products: dict[str, int]) -> None:
    """Whatever is asked for."""
    assert resolve(asset, products) in {None, *products}


@pytest.mark.parametrize(
    ("asset", "outputs", "expected"),
    [
        ("orthophoto", (), True),
        ("odm_report/report.pdf", (), True),
        ("odm_report/../images/a.jpg", (), False),
        ("../odm_report", (), False),
        ("images/a.jpg", (), False),
        ("images/a.jpg", ("images",), True),
        ("nonsense", (), False),
        ("", (), False),
    ],
)
def test_what_may_come_is_what_the_archive_takes(asset: str, outputs: tuple[str, ...], expected: bool) -> None:
    """While a task works, an asset of any other name is no asset."""
    assert may_come(asset, outputs) is expected


def test_links_are_fit_for_a_url() -> None:
    """Names may hold anything."""
    document = listing("u", {"odm_texturing/größe 1?.png": 7}, 10)
    assert document["additional"] == [
        {
            "asset": "odm_texturing/größe 1?.png",
            "downloadUrl": "/task/u/download/odm_texturing/gr%C3%B6%C3%9Fe%201%3F.png",
            "size": 7,
        }
    ]


@pytest.mark.parametrize(
    ("wanted", "limit", "most"),
    [
        (None, None, None),
        ("false", "5", None),
        ("true", None, 100),
        ("TRUE", "5", 5),
        ("1", "0", 100),
        ("true", "-3", 100),
        ("true", "many", 100),
        ("true", "5000", 1000),
        ("true", "9" * 5000, 100),
    ],
)
def test_others_are_listed_on_demand_and_within_scaleodms_bounds(
    wanted: str | None, limit: str | None, most: int | None
) -> None:
    """Odd values are not errors."""
    assert additional_limit(wanted, limit) == most
