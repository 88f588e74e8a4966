"""The main story: drone images in, an orthophoto out, by the client that everybody uses."""

from pathlib import Path

import httpx
import pytest
import rasterio
from pyodm import Node
from pyodm.types import TaskInfo, TaskStatus

from common.embedded.stack import Stack

BRIGHTON_BEACH = Path(__file__).parents[3] / "shared/data/brighton_beach"


@pytest.mark.contract("8.1 whole way")
@pytest.mark.parametrize("address", ["router", "node"])
def test_images_become_an_orthophoto(
    address: str, request: pytest.FixtureRequest, flight: list[str], tmp_path: Path
) -> None:
    """The same client code works against the router and against a node alone."""
    client: Node = request.getfixturevalue(address)
    uploaded: list[float] = []
    task = client.create_task(flight, {"fast-orthophoto": True}, name="a field", progress_callback=uploaded.append)
    seen: list[TaskInfo] = []
    task.wait_for_completion(seen.append, interval=1)
    assert uploaded[-1] == 100
    progress = [info.progress for info in seen]
    assert progress == sorted(progress), "progress never goes back (I6)"
    assert {info.status for info in seen} <= {TaskStatus.RUNNING, TaskStatus.COMPLETED}, "never 10 with free slots"
    folder = Path(task.download_assets(str(tmp_path)))
    with rasterio.open(folder / "odm_orthophoto/odm_orthophoto.tif") as orthophoto:
        assert orthophoto.crs.to_epsg() == 32615
        assert (orthophoto.dataset_mask() > 0).mean() > 0.5
    assert "ODM app finished" in (folder / "task_output.txt").read_text()
    assert {"images.json", "cameras.json", "log.json", "odm_report"} <= {path.name for path in folder.iterdir()}
    assert task.remove()


def test_why_a_node_got_the_task_can_be_read(stack: Stack, router: Node, flight: list[str]) -> None:
    """Placement explains itself (design 7), to whoever owns the task and to nobody else."""
    task = router.create_task(flight, {"fast-orthophoto": True}, name="why here")
    task.wait_for_completion(interval=1)
    url = f"{stack.router_url}/task/{task.uuid}/why"
    why = httpx.get(url, params={"token": stack.user_token}).json()
    assert why["node"] in stack.node_urls
    assert why["node"] in why["text"]
    assert {reason["node"] for reason in why["reasons"]} == set(stack.node_urls)
    assert httpx.get(url, params={"token": "wrong"}).status_code == 401


@pytest.mark.skipif(not BRIGHTON_BEACH.is_dir(), reason=f"the 18 photographs are not there: {BRIGHTON_BEACH}")
@pytest.mark.timeout(300)
def test_eighteen_real_photographs(router: Node, tmp_path: Path) -> None:
    """Brighton Beach, Duluth: UTM zone 15N, a shore in the north of the United States."""
    images = [str(path) for path in sorted(BRIGHTON_BEACH.glob("*.JPG"))]
    assert len(images) == 18
    task = router.create_task(images, {"fast-orthophoto": True}, name="Brighton Beach")
    task.wait_for_completion(interval=1)
    folder = Path(task.download_assets(str(tmp_path)))
    with rasterio.open(folder / "odm_orthophoto/odm_orthophoto.tif") as orthophoto:
        assert orthophoto.driver == "GTiff"
        assert orthophoto.crs.to_epsg() == 32615
        assert min(orthophoto.width, orthophoto.height) >= 1000
        assert (orthophoto.dataset_mask() > 0).mean() > 0.4


@pytest.mark.timeout(300)
def test_surface_terrain_and_point_cloud(router: Node, flight: list[str], tmp_path: Path) -> None:
    """The full pipeline makes elevation models and a point cloud where asked."""
    task = router.create_task(flight, {"dsm": True, "dtm": True, "pc-quality": "lowest"}, name="in depth")
    task.wait_for_completion(interval=1)
    folder = Path(task.download_assets(str(tmp_path)))
    for name in ("odm_dem/dsm.tif", "odm_dem/dtm.tif", "odm_orthophoto/odm_orthophoto.tif"):
        with rasterio.open(folder / name) as raster:
            assert raster.crs.to_epsg() == 32615, name
    assert (folder / "odm_georeferencing/odm_georeferenced_model.laz").read_bytes().startswith(b"LASF")
