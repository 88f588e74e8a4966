"""A node that has joined no router, as a process of its own, for clients that use nodes directly."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.embedded.children import free_port, start_child
from common.embedded.stack import answers
from tests.arrangements import ENGINE


@contextmanager
def node_alone(folder: Path, s3: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[str]:
    """Gives its URL. `s3`: where its S3 is; `settings`: of the node, beside what every node needs here.

    It asks for no token.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SCALEODM_", "AWS_"))}
    port = free_port()
    needed = {
        "SCALEODM_NODE_NAME": "alone",
        "SCALEODM_NODE_PORT": str(port),
        "SCALEODM_NODE_DATA": str(folder / "node"),
        "SCALEODM_NODE_AUTH": "off",
    }
    environment = clean | ENGINE | dict(s3) | needed | dict(settings)
    child = start_child("alone", [sys.executable, "-m", "node"], environment, folder / "node.log")
    try:
        url = f"http://127.0.0.1:{port}"
        child.wait_until(lambda: answers(f"{url}/info"))
        yield url
    finally:
        child.stop()
