"""What an engine should have left in its project."""

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from common.nodeodm.options import Setting
from common.products import DSM, DTM, ORTHOPHOTO, RECONSTRUCTION
from common.publishing import ProductsMissing
from node.products import check, expected
from node.runs import Order
from tests.standin_odm import save_raster

STOP = "opensfm/split_merge_stop_at_reconstruction.txt"


def order(engine: str = "odm", outputs: tuple[str, ...] = (), **options: Any) -> Order:
    """An order with these options."""
    chosen = tuple(Setting(name.replace("_", "-"), value) for name, value in options.items())
    return Order("u", 1, engine, "3.6.0", (), "s3://b/in/", "s3://b/out/", chosen, outputs)


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        (order(), [ORTHOPHOTO]),
        (order(dsm=True, dtm=True), [DSM, DTM, ORTHOPHOTO]),
        (order(dsm=False, skip_orthophoto=True), []),
        (order(fast_orthophoto=True, dsm=True), [DSM, ORTHOPHOTO]),
        (order("orthomosaic", fast_orthophoto=True, dsm=True), [ORTHOPHOTO]),
        (order(end_with="odm_georeferencing", dsm=True), []),
        (order(end_with="odm_dem", dsm=True), [DSM]),
        (order(end_with="odm_orthophoto", dsm=True), [DSM, ORTHOPHOTO]),
        (order(end_with="odm_postprocess"), [ORTHOPHOTO]),
        (order(merge="pointcloud", dsm=True), []),
        (order(merge="dem", dsm=True), [DSM]),
        (order(outputs=("odm_dem", "odm_report"), dsm=True), [DSM]),
        (order(outputs=("odm_orthophoto/odm_orthophoto_cut.tif",)), []),
        (order(outputs=("odm_orthophoto",)), [ORTHOPHOTO]),
    ],
)
def test_what_must_be_there_follows_from_the_options(given: Order, paths: list[str], tmp_path: Path) -> None:
    """Of that what the client will get."""
    assert [each.path for each in expected(given, tmp_path)] == paths


def test_a_part_that_stops_at_its_reconstruction_needs_no_orthophoto(tmp_path: Path) -> None:
    """Contract 8.3, 9.2: the flag of its seed."""
    (tmp_path / "opensfm").mkdir()
    (tmp_path / STOP).touch()
    asked = ("opensfm/matches", RECONSTRUCTION)
    assert [each.path for each in expected(order(outputs=asked, dsm=True), tmp_path)] == [RECONSTRUCTION]


def fails(project: Path, *names: str, of: Order | None = None) -> str:
    """What is said of a project of which these files are to be published."""
    with pytest.raises(ProductsMissing) as told:
        check(project, [PurePosixPath(name) for name in names], (), expected(of or order(), project))
    return str(told.value)


@pytest.mark.contract("6.3 nothing made")
def test_a_product_that_is_missing_empty_or_broken_is_named_with_the_reason(tmp_path: Path) -> None:
    """Exit code 0 is not enough."""
    (tmp_path / "log.json").write_text("{}")
    missing = fails(tmp_path, "log.json")
    assert missing.startswith(f"The engine ended well but did not make {ORTHOPHOTO}, although skip-orthophoto is not")
    save_raster(tmp_path / ORTHOPHOTO, 10_000)
    assert f"did not make {DSM}, although the option dsm is set" in fails(tmp_path, ORTHOPHOTO, of=order(dsm=True))
    check(tmp_path, [PurePosixPath(ORTHOPHOTO)], (), expected(order(), tmp_path))
    (tmp_path / ORTHOPHOTO).write_bytes((tmp_path / ORTHOPHOTO).read_bytes()[:5000])
    assert f"{ORTHOPHOTO} cannot be read: its picture would end at byte 10000, and the file has 5000" in fails(
        tmp_path, ORTHOPHOTO
    )
    (tmp_path / ORTHOPHOTO).write_bytes(b"")
    assert f"{ORTHOPHOTO} empty" in fails(tmp_path, ORTHOPHOTO)
