"""Products of many megabytes reach the client whole, also from an S3 server that does not know ranges."""

import hashlib
import json
from pathlib import Path

import pytest
from pyodm import Node

from common.embedded.stack import Stack
from common.references import Reference
from tests.client import Wire


@pytest.mark.contract("8.1 large archive")
@pytest.mark.timeout(180)
def test_pyodm_downloads_what_it_would_like_in_parts(federation: Stack, router_wire: Wire, tmp_path: Path) -> None:
    """Over 10 MiB PyODM asks for ranges; rclone answers with the whole, and PyODM goes on with its first stream."""
    uuid = router_wire.task("megabytes 40")
    router_wire.completed(uuid)
    client = Node.from_url(f"{federation.router_url}?token={federation.user_token}")
    percents: list[float] = []
    folder = Path(client.get_task(uuid).download_assets(str(tmp_path), progress_callback=percents.append))
    output = Reference.parse(f"s3://staging/{uuid}/output/")
    manifest = json.loads(federation.storage().read(output / "manifest.json"))
    digests = {entry["name"]: entry["sha256"] for entry in manifest["objects"]}
    assert hashlib.sha256((folder / "odm_dem/dsm.tif").read_bytes()).hexdigest() == digests["odm_dem/dsm.tif"]
    assert percents[-1] == pytest.approx(100)
    client.get_task(uuid).remove()
