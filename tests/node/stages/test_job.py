"""The two containers beside the engine, in one workspace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.nodeodm.options import Setting
from common.references import Reference
from common.storage import Storage
from node.manifests import CONSOLE_CAME_LATE
from node.runs import Order
from node.stages import job
from node.stages.fetch import InputUnusable
from node.stages.job import Stage
from tests.standin_odm import save_raster

JPEG = b"\xff\xd8\xff picture"
NOTE = "The node was away when these products were packed; the console lies beside them in S3.\n"


def order(bucket: Reference, **changes: object) -> Order:
    """What the pod is told."""
    fields = {
        "uuid": "u",
        "attempt": 1,
        "engine": "odm",
        "engine_version": "1",
        "command": (),
        "input": str(bucket / "in/"),
        "output": str(bucket / "out/"),
        "options": (Setting("boundary", '{"a": 1}'),),
        "outputs": (),
    }
    return Order(**(fields | changes))  # type: ignore[arg-type]


def processed(storage: Storage, bucket: Reference, workspace: Path) -> Stage:
    """A workspace in which the engine has worked."""
    storage.write(bucket / "in/a.jpg", JPEG)
    storage.write(bucket / "out/task_output.txt", b"of an earlier run")
    stage = Stage(order(bucket), storage, workspace)
    stage.fetch()
    product = workspace / "projects/u/odm_orthophoto/odm_orthophoto.tif"
    product.parent.mkdir(parents=True)
    save_raster(product, 1024)
    return stage


def test_fetch_prepares_what_the_engine_needs(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Images, options as files, a scratch folder; an earlier console is not taken for ours."""
    processed(storage, bucket, tmp_path)
    assert (tmp_path / "projects/u/images/a.jpg").read_bytes() == JPEG
    assert json.loads((tmp_path / "options/boundary.json").read_text()) == {"a": 1}
    assert (tmp_path / "tmp").is_dir()
    assert not storage.exists(bucket / "out/task_output.txt")


def test_publish_packs_the_console_that_the_node_brought(
    storage: Storage, bucket: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is in S3."""
    stage = processed(storage, bucket, tmp_path)
    storage.write(bucket / "out/task_output.txt", b"what the engine said\n")
    stage.publish()
    assert storage.read(bucket / "out/task_output.txt") == b"what the engine said\n"
    assert CONSOLE_CAME_LATE not in capsys.readouterr().out
    manifest = json.loads(storage.read(bucket / "out/manifest.json"))
    assert {"all.zip", "task_output.txt"} <= {each["name"] for each in manifest["objects"]}


def test_publish_does_not_wait_for_a_node_for_ever(
    storage: Storage,
    bucket: Reference,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The products are worth more; it says so at the very end, and the node brings the console then."""
    monkeypatch.setattr(job, "CONSOLE_PATIENCE_S", 0.5)
    processed(storage, bucket, tmp_path).publish()
    assert storage.read(bucket / "out/task_output.txt").decode() == NOTE
    assert capsys.readouterr().out.splitlines()[-2:] == [CONSOLE_CAME_LATE, "Done"]


@pytest.mark.contract("5 limit", "7.1 max images")
def test_too_many_images_are_told(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """A zip's are only known now."""
    for name in ("a", "b"):
        storage.write(bucket / f"in/{name}.jpg", JPEG + name.encode())
    with pytest.raises(InputUnusable, match="2 images uploaded, but this node can only process up to 1"):
        Stage(order(bucket, max_images=1), storage, tmp_path).fetch()


def test_a_stage_ends_with_a_word_and_a_code(tmp_path: Path, moto_url: str) -> None:
    """As Kubernetes reads them: 65 for what no retry can mend."""
    terminal = tmp_path / "termination"
    terminal.touch()
    told = order(Reference("no-such-bucket", "")).as_json()
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL_S3": moto_url,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "SCALEODM_STAGING": "s3://staging/",
        "SCALEODM_ORDER": json.dumps(told),
        "SCALEODM_WORKSPACE": str(tmp_path / "workspace"),
        "SCALEODM_TERMINATION_LOG": str(terminal),
    }
    argv = [sys.executable, "-m", "node.stages.job", "fetch"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 65, done.stderr
    assert "The bucket of s3://no-such-bucket/out/.scaleodm/attempt.json does not exist" in terminal.read_text()
