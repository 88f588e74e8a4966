"""A node of its own: the backend `local`, the stand-in engine, and any S3 server."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.embedded.children import free_port, start_child
from common.embedded.stack import answers
from tests.arrangements import ENGINE
from tests.client import Wire

TOKEN = "lone-node-user"


@dataclass(frozen=True)
class LoneNode:
    """A node that has joined nobody."""

    url: str

    def wire(self, http: httpx.Client) -> Wire:
        """Its NodeODM API."""
        return Wire(self.url, TOKEN, http)


@contextmanager
def lone_node(folder: Path, settings: Mapping[str, str]) -> Iterator[LoneNode]:
    """Runs while the block does. `settings`: its environment, above all where S3 is."""
    port = free_port()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
    own = {
        "SCALEODM_NODE_NAME": "alone",
        "SCALEODM_NODE_PORT": str(port),
        "SCALEODM_NODE_DATA": str(folder / "node"),
        "SCALEODM_NODE_USER_TOKEN": TOKEN,
    }
    child = start_child(
        "alone", [sys.executable, "-m", "node"], {**clean, **ENGINE, **own, **settings}, folder / "node.log"
    )
    try:
        child.wait_until(lambda: answers(f"http://127.0.0.1:{port}/"))
        yield LoneNode(f"http://127.0.0.1:{port}")
    finally:
        child.stop()


def moto_environment(url: str) -> dict[str, str]:
    """By which a program uses moto; its bucket `staging` must be there."""
    keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester", "AWS_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL_S3": url, "SCALEODM_STAGING": "s3://staging/", **keys}
