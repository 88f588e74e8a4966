"""What cannot work is told in a sentence, leaves nothing in staging, and never costs anybody a stack trace."""

import uuid as uuids
from pathlib import Path

import pytest
from pyodm import Node
from pyodm.exceptions import NodeResponseError, TaskFailedError

from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.waiting import wait_until


def staged(storage: Storage, uuid: str) -> list[str]:
    """What staging holds of this task."""
    return [str(each.reference) for each in storage.listing(Reference.parse(f"s3://staging/{uuid}/"))]


def failure(wire: Wire, uuid: str) -> str:
    """Why the task failed."""
    info = wire.ended(uuid)
    assert info["status"]["code"] == 30, info
    return str(info["status"]["errorMessage"])


@pytest.mark.contract("3.3 input")
def test_no_images(wire: Wire, federation_storage: Storage) -> None:
    """Only a text file."""
    uuid = wire.init()
    wire.upload(uuid, ("notes.txt", b"hello"))
    wire.commit(uuid)
    assert "none is an image" in failure(wire, uuid)
    wait_until(lambda: not staged(federation_storage, uuid), "staging to be empty")


def test_an_empty_prefix(wire: Wire) -> None:
    """By reference."""
    uuid = wire.post("/task/new", json={"readS3Path": "s3://staging/nothing-here/"}).json()["uuid"]
    assert failure(wire, uuid).startswith("No images in s3://staging/nothing-here/: it is empty.")


def test_a_bucket_that_does_not_exist(wire: Wire) -> None:
    """The bucket is named, and what to do."""
    uuid = wire.post("/task/new", json={"readS3Path": "s3://no-such-bucket/images/"}).json()["uuid"]
    told = failure(wire, uuid)
    assert "s3://no-such-bucket/images/" in told
    assert "does not exist" in told


@pytest.mark.parametrize("bad", ["s3://", "s3:///x", "s3://bucket/../other/", "x"])
def test_a_reference_that_is_none(wire: Wire, bad: str) -> None:
    """Refused before there is a task."""
    error = wire.error("/task/new", json={"readS3Path": bad})
    assert bad in error
    assert "s3://" in error


def test_a_web_address_is_no_s3_path(wire: Wire) -> None:
    """It belongs into another field; as it may be signed, it is not repeated (I9)."""
    error = wire.error("/task/new", json={"readS3Path": "https://example.org/x.zip?signature=secret"})
    assert error.endswith("expected s3://bucket/folder/. For an archive there use zipurl.")
    assert "secret" not in error


def test_text_files_that_are_called_jpg(wire: Wire, federation_storage: Storage) -> None:
    """All of them: no engine could work with that."""
    uuid = wire.init()
    wire.upload(uuid, ("a.jpg", b"hello"), ("b.jpg", b"world"))
    wire.commit(uuid)
    assert "No usable images: a.jpg, b.jpg" in failure(wire, uuid)
    wait_until(lambda: not staged(federation_storage, uuid), "staging to be empty")


def test_a_corrupt_image_among_good_ones_is_named_and_left_out(router: Node, flight: list[str], tmp_path: Path) -> None:
    """As ODM does it: the task is done without it."""
    half = tmp_path / "half.jpg"
    half.write_bytes(Path(flight[0]).read_bytes()[:20_000])
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    task = router.create_task([*flight, str(half), str(text)], {"fast-orthophoto": True}, name="one bad apple")
    task.wait_for_completion(interval=1)
    warnings = [line for line in task.output() if "[WARNING]" in line]
    assert any("half.jpg" in line for line in warnings)
    assert any("text.jpg" in line for line in warnings)
    task.remove()


def test_too_few_images_for_the_engine(router: Node, flight: list[str]) -> None:
    """The engine's own sentence reaches the client."""
    task = router.create_task(flight[:1], {"fast-orthophoto": True}, name="lonely")
    with pytest.raises(TaskFailedError):
        task.wait_for_completion(interval=1)
    assert task.info().last_error.startswith("Cannot process dataset: Not enough usable images: 1 of 1")


@pytest.mark.contract("3.3 exit codes", "3.3 after the engine")
@pytest.mark.parametrize(
    ("orders", "told"),
    [
        ("say [ERROR]   The reconstruction is empty\nexit 1", "Cannot process dataset: The reconstruction is empty"),
        ("exit 137", "Not enough memory: Use fewer images"),
        ("exit 132", "Unsupported CPU"),
        ("exit 42", "Processing failed (42)"),
        ("no-products", "The engine ended well but made none of"),
    ],
)
def test_an_engine_that_fails(wire: Wire, orders: str, told: str) -> None:
    """Exit codes become sentences (contract 3.3); the input stays, for a restart with other options."""
    uuid = wire.task(orders)
    assert failure(wire, uuid).startswith(told)


@pytest.mark.contract("2.11 later errors", "3.3 input")
def test_a_broken_zip(wire: Wire, federation_storage: Storage) -> None:
    """By reference."""
    archive = Reference.parse(f"s3://staging/broken-{uuids.uuid4()}/images.zip")
    federation_storage.write(archive, b"PK but no more")
    uuid = wire.post("/task/new", json={"zipurl": str(archive)}).json()["uuid"]
    assert failure(wire, uuid).startswith("Could not extract images.zip")


@pytest.mark.contract("8.1 error words")
def test_a_wrong_token(flight: list[str], router: Node) -> None:
    """PyODM shows the sentence."""
    stranger = Node(router.host, router.port, "wrong")
    with pytest.raises(NodeResponseError, match="token does not match"):
        stranger.create_task(flight, {})


@pytest.mark.contract("2.10 broken off")
def test_an_upload_that_breaks_off_leaves_nothing(wire: Wire, federation_storage: Storage) -> None:
    """The connection drops in the middle of a file; the client's repetition is the only one that counts."""
    import socket
    from urllib.parse import urlsplit

    uuid = wire.init()
    address = urlsplit(wire.url)
    head = (
        f"POST /task/new/upload/{uuid}?token={wire.token} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    )
    with socket.create_connection((str(address.hostname), address.port or 80)) as connection:
        connection.sendall(head.encode() + JPEG * 100)
    assert wire.upload(uuid, ("a.jpg", JPEG), ("b.jpg", JPEG + b"b")) == {"success": True}
    wire.commit(uuid)
    assert wire.ended(uuid)["imagesCount"] == 2
    names = {
        each.reference.name for each in federation_storage.listing(Reference.parse(f"s3://staging/{uuid}/images/"))
    }
    assert len(names) == 2
