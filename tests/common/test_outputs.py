"""What a task has put into S3 is deleted by its manifest."""

import json

import pytest

from common.outputs import delete_output
from common.references import Reference
from common.storage import Storage


@pytest.mark.parametrize(
    ("manifest", "left"),
    [
        (json.dumps({"uuid": "u", "objects": [{"name": "a/b.tif", "size": 1}]}), {"mine.txt"}),
        (json.dumps({"uuid": "other", "objects": [{"name": "a/b.tif", "size": 1}]}), None),
        ("not a manifest", None),
        ('["a/b.tif"]', None),
        (json.dumps({"uuid": "u", "objects": [{"size": 1}]}), None),
        ("", {"mine.txt", "a/b.tif"}),
    ],
)
def test_only_what_the_tasks_own_manifest_names_is_deleted(
    storage: Storage, bucket: Reference, manifest: str, left: set[str] | None
) -> None:
    """Of another's output nothing; of one without a manifest the archive and the console."""
    names = {"a/b.tif", "all.zip", "task_output.txt", "mine.txt"}
    for name in names:
        storage.write(bucket / "out/" / name, b"x")
    if manifest:
        storage.write(bucket / "out/manifest.json", manifest.encode())
        names = names | {"manifest.json"}
    delete_output(storage, bucket / "out/", "u")
    found = {each.reference.key.removeprefix("out/") for each in storage.listing(bucket / "out/")}
    assert found == (names if left is None else left)
