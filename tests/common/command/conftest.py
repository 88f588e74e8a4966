"""One federation, and shells beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.embedded.stack import Stack
from tests.client import JPEG
from tests.common.command.running import Shell
from tests.common.command.standins import Serve, little_servers


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    """A shell that knows of no router."""
    return Shell(tmp_path)


@pytest.fixture
def admin(bare: Shell, federation: Stack) -> Shell:
    """An administrator's shell."""
    return bare.under(SCALEODM_URL=federation.router_url, SCALEODM_TOKEN=federation.admin_token)


@pytest.fixture
def user(bare: Shell, federation: Stack) -> Shell:
    """The shell of one who submits tasks."""
    return bare.under(SCALEODM_URL=federation.router_url, SCALEODM_TOKEN=federation.user_token)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two images, and something that is none of a task's business."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(JPEG + name.encode())
    (folder / "notes.docx").write_bytes(b"no input")
    return folder


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts little web servers."""
    with little_servers() as start:
        yield start
