"""A router that no node has joined says so, instead of taking tasks that nobody will run."""

from pathlib import Path

import httpx

from common.embedded.stack import Stack
from common.references import Reference
from tests.client import JPEG, Wire


def test_nothing_is_taken_while_no_node_has_joined(tmp_path: Path) -> None:
    """With what to do; its own surface works all the same."""
    with Stack(tmp_path / "data", nodes=0) as stack, httpx.Client(timeout=30) as http:
        wire = Wire(stack.router_url, stack.user_token, http)
        told = "No node has joined this router"
        assert told in wire.error("/task/new/init", files={"name": (None, "x")})
        assert told in wire.error("/task/new", json={"readS3Path": "s3://staging/x/"})
        assert told in wire.error("/task/new", files={"images": ("a.jpg", JPEG)})
        assert wire.get("/info").json()["maxParallelTasks"] == 0
        assert len(wire.get("/options").json()) == 82, "ODM's own list until nodes tell theirs"
        assert list(stack.storage().listing(Reference.parse("s3://staging/"))) == []
