"""Images that already lie in S3 are processed where they lie: no byte of them passes the router."""

import json
import uuid
from pathlib import Path

import httpx
from pyodm import Node

from common.embedded.stack import Stack
from common.references import Reference


def test_s3_in_s3_out(stack: Stack, router: Node, flight: list[str]) -> None:
    """A prefix goes in, products and a manifest come out beside it; PyODM follows the task as any other."""
    storage = stack.storage()
    survey = Reference.parse(f"s3://staging/surveys/{uuid.uuid4()}/")
    for file in flight:
        storage.upload(Path(file), survey / "images/" / Path(file).name)
    body = {
        "name": "by reference",
        "readS3Path": str(survey / "images/"),
        "writeS3Path": str(survey / "products/"),
        "options": json.dumps([{"name": "fast-orthophoto", "value": True}]),
    }
    answer = httpx.post(f"{stack.router_url}/task/new", json=body, params={"token": stack.user_token}).json()
    task = router.get_task(answer["uuid"])
    task.wait_for_completion(interval=1)
    assert task.info().images_count == len(flight)
    manifest = json.loads(storage.read(survey / "products/manifest.json"))
    for entry in manifest["objects"]:
        assert storage.exists(survey / "products/" / entry["name"]), entry["name"]
    assert "odm_orthophoto/odm_orthophoto.tif" in {entry["name"] for entry in manifest["objects"]}
