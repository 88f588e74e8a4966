"""The documentation's own code sends images straight to S3, and they become a task."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.embedded.stack import Stack
from common.nodeodm.direct import LARGEST_PUT_BYTES
from common.references import Reference, staged_root
from tests.client import JPEG, Wire

DOCUMENT = Path(__file__).parents[2] / "docs/uploading.md"
STAGING = Reference.parse("s3://staging/")


def example() -> str:
    """The Python code of the document."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(code)


@pytest.mark.parametrize("address", ["router", "node"])
def test_the_documented_client_uploads_a_folder(
    address: str, request: pytest.FixtureRequest, federation: Stack, tmp_path: Path
) -> None:
    """As a program of its own, against router and node, with a file that goes in parts among the others."""
    wire: Wire = request.getfixturevalue(f"{address}_wire")
    script, folder = tmp_path / "upload.py", tmp_path / "images"
    script.write_text(example())
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(JPEG + bytes([number]))
    (folder / "large.tif").write_bytes(bytes(LARGEST_PUT_BYTES + 1))
    argv = [sys.executable, str(script), wire.url, wire.token, str(folder)]
    told = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=50)
    assert told.returncode == 0, told.stderr
    uuid = told.stdout.strip()
    assert wire.ended(uuid)["imagesCount"] == 5
    assert wire.act("remove", uuid) == {"success": True}
    leftover = [each.reference.key for each in federation.storage().listing(staged_root(STAGING, uuid))]
    assert leftover == []
