"""What a task has put into S3 as its output: deleted only where that is asked for, and nothing else beside it."""

from common.publishing import ManifestUnreadable, read_manifest
from common.references import ALL_ZIP, ATTEMPT, MANIFEST, TASK_OUTPUT, Reference
from common.storage import ObjectMissing, Storage


def delete_output(storage: Storage, output: Reference, uuid: str) -> None:
    """Delete the products that the manifest names, if it is this task's; other things may lie in the same folder."""
    try:
        manifest = read_manifest(storage, output)
    except ObjectMissing:
        manifest = {}
    except ManifestUnreadable:
        return  # not ours
    if manifest and manifest.get("uuid") != uuid:
        return  # another task has published here since
    names = {each["name"] for each in manifest.get("objects", [])} | {ALL_ZIP, TASK_OUTPUT}
    # The manifest goes first: without it the output is not finished, and nobody takes what is left for whole.
    storage.delete(output / MANIFEST)
    storage.delete_all([output / name for name in sorted(names | {ATTEMPT})])
