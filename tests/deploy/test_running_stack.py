"""The running stack of compose.yml, as a client has it: `docker compose run --rm test` runs this beside all others."""

import os
from pathlib import Path

import pytest
from pyodm import Node

from common.embedded.flight import render_flight

# Read before the tests' own clean-up of the environment.
STACK_URL = os.environ.get("SCALEODM_TEST_STACK_URL", "")

pytestmark = pytest.mark.skipif(not STACK_URL, reason="no stack runs: docker compose run --rm test starts one")


@pytest.mark.timeout(900)
def test_images_become_an_orthophoto(tmp_path: Path) -> None:
    """README's example, at the address that its .env tells."""
    images = [str(path) for path in render_flight(tmp_path / "flight")]
    task = Node.from_url(STACK_URL).create_task(images, {"fast-orthophoto": True}, name="from within the stack")
    task.wait_for_completion(interval=1)
    task.download_assets(str(tmp_path / "products"))
    assert (tmp_path / "products" / "odm_orthophoto" / "odm_orthophoto.tif").exists()
