"""Another S3 than our own, which a task may name (`s3Endpoint`)."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from common.embedded.object_store import ObjectStore, storage_at
from common.references import Reference
from common.settings import S3Settings
from common.storage import Storage, StorageRefused
from node.stages.fetch import fetch
from tests.client import JPEG


@pytest.fixture
def both(rclone: ObjectStore, moto_url: str) -> Storage:
    """Our own S3, and another that is allowed."""
    return Storage.from_settings(
        S3Settings.model_validate(rclone.environment("s3://staging/") | {"SCALEODM_S3_ENDPOINTS": [moto_url]})
    )


def test_input_and_output_lie_in_the_s3_that_a_task_names(both: Storage, moto_url: str, tmp_path: Path) -> None:
    """By references that name it; nothing of it comes to our own."""
    there = Reference("elsewhere", "flight/", both.endpoint_named(moto_url))
    storage_at(moto_url, "tester", "tester").make_bucket("elsewhere")
    both.write(there / "a.jpg", JPEG)
    assert [str(each.reference) for each in both.listing(there)] == [
        f"s3://elsewhere@{urlsplit(moto_url).netloc}/flight/a.jpg"
    ]
    assert fetch(both, Reference.parse(str(there)), there / "output/", tmp_path, lambda _: None) == 1
    assert both.presigned_get(there / "a.jpg", 60, "a.jpg").startswith(moto_url)
    assert not both.exists(Reference("staging", "flight/a.jpg"))


def test_our_own_s3_may_be_named_too(both: Storage, rclone: ObjectStore) -> None:
    """By the address that we have for it, whatever the case, with a slash or without."""
    own = rclone.url
    assert both.endpoint_named(own) == both.endpoint_named(own.upper() + "/") == ""


@pytest.mark.parametrize("named", ["https://evil.example", "evil.example:9000", "http://[::1", "", "x y"])
def test_an_s3_that_is_not_allowed_is_refused(both: Storage, named: str) -> None:
    """Else our keys could be sent to strangers."""
    with pytest.raises(StorageRefused, match="SCALEODM_S3_ENDPOINTS"):
        both.endpoint_named(named)
    with pytest.raises(StorageRefused, match="SCALEODM_S3_ENDPOINTS"):
        both.read(Reference("bucket", "key", "evil.example"))


def test_what_is_no_address_of_an_s3_is_no_setting() -> None:
    """Told at the start."""
    with pytest.raises(ValidationError, match="no address of an S3"):
        S3Settings.model_validate({"SCALEODM_STAGING": "s3://staging/", "SCALEODM_S3_ENDPOINTS": ["minio"]})
