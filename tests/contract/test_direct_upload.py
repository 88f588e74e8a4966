"""Files sent straight to S3 by presigned URLs, beside the classic upload."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from common.embedded.stack import Stack
from common.nodeodm.direct import LARGEST_PUT_BYTES, MOST_BODY_BYTES
from common.references import Reference, staged_images, staged_root
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.contract.test_tenants import wire_of

STAGING = Reference.parse("s3://staging/")


def announced(wire: Wire, uuid: str, *files: tuple[str, int]) -> list[dict[str, Any]]:
    """The entries of `/task/new/presign` for these names and sizes."""
    answer = presign(wire, uuid, [{"name": name, "size": size} for name, size in files])
    assert "files" in answer, answer
    found: list[dict[str, Any]] = answer["files"]
    return found


def presign(wire: Wire, uuid: str, files: object) -> dict[str, Any]:
    """`/task/new/presign`."""
    answer = wire.post(f"/task/new/presign/{uuid}", json={"files": files})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def put(entry: dict[str, Any], content: bytes) -> int:
    """Send a file by its link; the status that S3 answers."""
    link = entry["put"]
    return httpx.put(link["url"], content=content, headers=link["headers"], timeout=30).status_code


def staged(storage: Storage, uuid: str) -> dict[str, int]:
    """What lies in staging, with its sizes."""
    return {each.reference.name: each.size for each in storage.listing(staged_images(STAGING, uuid))}


def _stored_copy(storage: Storage, content: bytes) -> Reference:
    """The same bytes at a place of the test's own, sent the ordinary way."""
    copy = STAGING / f"copies/{secrets.token_hex(8)}"
    storage.write(copy, content)
    return copy


def test_announced_files_go_straight_to_s3_and_become_a_task(wire: Wire, federation_storage: Storage) -> None:
    """Announce, send, commit; a second commit answers as the first, and nothing of ours is left beside the images."""
    uuid = wire.init()
    files = {"a.jpg": JPEG + b"a", "папка/б 'ü+%.jpg": JPEG + b"b"}
    entries = announced(wire, uuid, *((name, len(content)) for name, content in files.items()))
    assert [each["name"] for each in entries] == ["a.jpg", "б 'ü+%.jpg"]
    assert [each["stored"] for each in entries] == [False, False]
    for entry in entries:
        assert put(entry, files[entry["asked"]]) == 200
    assert wire.commit(uuid) == {"uuid": uuid}
    assert wire.commit(uuid) == {"uuid": uuid}
    info = wire.ended(uuid)
    assert (info["imagesCount"], info["status"]) == (2, {"code": 40})
    below = {each.reference.key for each in federation_storage.listing(staged_root(STAGING, uuid))}
    assert not [key for key in below if "/announced/" in key]


def test_classic_and_direct_upload_may_be_mixed(wire: Wire, federation_storage: Storage) -> None:
    """Neither takes a name that the other has."""
    uuid = wire.init()
    assert wire.upload(uuid, ("a.jpg", JPEG + b"classic")) == {"success": True}
    (entry,) = announced(wire, uuid, ("a.jpg", len(JPEG) + 6))
    assert entry["name"] == "a_.jpg"
    assert put(entry, JPEG + b"direct") == 200
    assert wire.upload(uuid, ("a.jpg", JPEG + b"third")) == {"success": True}
    assert wire.commit(uuid) == {"uuid": uuid}
    assert staged(federation_storage, uuid) == {
        "a.jpg": len(JPEG) + 7,
        "a_.jpg": len(JPEG) + 6,
        "a__.jpg": len(JPEG) + 5,
    }
    assert wire.ended(uuid)["imagesCount"] == 3


def test_a_commit_names_announced_files_that_are_missing_and_loses_nothing(wire: Wire) -> None:
    """The client sends them, or withdraws them, and commits again."""
    uuid = wire.init()
    size = len(JPEG)
    first, second, third = announced(wire, uuid, ("a.jpg", size), ("b.jpg", size), ("c.jpg", size))
    assert put(first, JPEG) == 200
    told = wire.commit(uuid)["error"]
    assert told.startswith("2 announced files are not here yet: b.jpg, c.jpg. Nothing is lost")
    assert put(second, JPEG) == 200
    assert "1 announced file is not here yet: c.jpg." in wire.commit(uuid)["error"]
    assert wire.post(f"/task/new/withdraw/{uuid}", json={"names": [third["name"]]}).json() == {"success": True}
    assert wire.commit(uuid) == {"uuid": uuid}
    assert wire.ended(uuid)["imagesCount"] == 2


def test_a_link_takes_that_one_file_of_that_one_size(wire: Wire, federation_storage: Storage) -> None:
    """A longer file, another type, and another name are refused by S3 itself."""
    uuid = wire.init()
    (entry,) = announced(wire, uuid, ("a.jpg", len(JPEG)))
    assert put(entry, JPEG + b"longer") == 403
    assert httpx.put(entry["put"]["url"], content=JPEG, headers={"Content-Type": "text/html"}).status_code == 403
    elsewhere = entry["put"]["url"].replace("a.jpg", "b.jpg")
    assert httpx.put(elsewhere, content=JPEG, headers=entry["put"]["headers"]).status_code == 403
    assert staged(federation_storage, uuid) == {}
    assert put(entry, JPEG) == 200


def test_announcing_again_gives_fresh_links_for_the_same_files(wire: Wire) -> None:
    """A link may have expired, or the answer was lost. Two of a name and size are two, the second again the second."""
    uuid = wire.init()
    files = [("a.jpg", len(JPEG)), ("a.jpg", len(JPEG)), ("a.jpg", len(JPEG) + 1)]
    before = announced(wire, uuid, *files)
    assert [each["name"] for each in before] == ["a.jpg", "a_.jpg", "a__.jpg"]
    assert put(before[1], JPEG) == 200
    after = announced(wire, uuid, *files)
    assert [(each["name"], each["stored"]) for each in after] == [
        ("a.jpg", False),
        ("a_.jpg", True),
        ("a__.jpg", False),
    ]
    (other,) = announced(wire, uuid, ("folder/a.jpg", len(JPEG)))
    assert other["name"] == "a___.jpg"


def test_a_large_file_goes_in_parts_which_a_broken_client_may_take_up_again(
    router_wire: Wire, federation_storage: Storage
) -> None:
    """Only the parts that are missing get links; `complete` tells what is missing; commit would complete it, too."""
    uuid = router_wire.init()
    content = secrets.token_bytes(1 << 20) * (LARGEST_PUT_BYTES // (1 << 20)) + b"the end"
    (entry,) = announced(router_wire, uuid, ("big.tif", len(content)))
    parts = entry["parts"]
    assert sum(each["size"] for each in parts) == len(content)

    def send(part: dict[str, Any]) -> int:
        block = content[part["offset"] : part["offset"] + part["size"]]
        return httpx.put(part["url"], content=block, timeout=30).status_code

    assert send(parts[1]) == 200
    answer = router_wire.post(f"/task/new/complete/{uuid}", json={"names": ["big.tif"]}).json()
    missing = [each["number"] for each in parts if each["number"] != 2]
    assert answer == {"files": [{"name": "big.tif", "stored": False, "missingParts": missing}]}
    assert "big.tif" in router_wire.commit(uuid)["error"]
    (again,) = announced(router_wire, uuid, ("big.tif", len(content)))
    assert [each["number"] for each in again["parts"]] == missing
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(send, again["parts"])) == {200}
    answer = router_wire.post(f"/task/new/complete/{uuid}", json={"names": ["big.tif"]}).json()
    assert answer == {"files": [{"name": "big.tif", "stored": True, "missingParts": []}]}
    assert staged(federation_storage, uuid) == {"big.tif": len(content)}
    assert federation_storage.same_content(
        staged_images(STAGING, uuid) / "big.tif", _stored_copy(federation_storage, content)
    )
    assert router_wire.commit(uuid) == {"uuid": uuid}
    router_wire.act("remove", uuid)


def test_parts_of_a_withdrawn_or_removed_upload_are_aborted(wire: Wire, federation_storage: Storage) -> None:
    """S3 would keep, and bill, them for ever."""
    uuid = wire.init()
    kept, gone = announced(wire, uuid, ("kept.tif", 2 * LARGEST_PUT_BYTES), ("gone.tif", 2 * LARGEST_PUT_BYTES))
    images = staged_images(STAGING, uuid)
    for entry in (kept, gone):
        assert httpx.put(entry["parts"][0]["url"], content=bytes(entry["parts"][0]["size"]), timeout=30).is_success

    def unfinished() -> set[str]:
        return {each.reference.name for each in federation_storage.unfinished(images)}

    assert unfinished() == {"kept.tif", "gone.tif"}
    assert wire.post(f"/task/new/withdraw/{uuid}", json={"names": ["gone.tif"]}).json() == {"success": True}
    assert unfinished() == {"kept.tif"}
    wire.post(f"/task/new/withdraw/{uuid}", json={"names": ["kept.tif"]})
    assert unfinished() == set()
    assert wire.commit(uuid) == {"error": "Need at least 1 file."}


def test_links_are_for_who_opened_the_upload(federation: Stack, http: httpx.Client) -> None:
    """A token that is limited to prefixes of its own may upload as well, for staging is ours (I12)."""
    acme = wire_of(federation, http, "acme", ["s3://staging/tenants/acme/"])
    other = wire_of(federation, http, "other")
    uuid = acme.init()
    refused = {"error": "Invalid uuid (not found)"}
    assert presign(other, uuid, [{"name": "a.jpg", "size": 1}]) == refused
    (entry,) = announced(acme, uuid, ("a.jpg", len(JPEG)))
    assert put(entry, JPEG) == 200
    for what in ("complete", "withdraw"):
        assert other.post(f"/task/new/{what}/{uuid}", json={"names": ["a.jpg"]}).json() == refused
    assert other.commit(uuid) == refused
    assert acme.commit(uuid) == {"uuid": uuid}
    assert presign(acme, uuid, [{"name": "b.jpg", "size": 1}]) == refused


def test_a_token_with_a_limit_of_images_hears_of_it_before_it_sends(federation: Stack, http: httpx.Client) -> None:
    """In NodeODM's words; what is no image does not count."""
    order = {"kind": "user", "name": secrets.token_hex(4), "tenant": "small", "limits": {"images": 2}}
    headers = {"Authorization": f"Bearer {federation.admin_token}"}
    made = http.post(f"{federation.router_url}/admin/tokens", json=order, headers=headers).json()
    wire = Wire(federation.router_url, made["token"], http)
    uuid = wire.init()
    announced(wire, uuid, ("a.jpg", 1), ("gcp_list.txt", 1), ("b.jpg", 1))
    too_many = {"error": "3 images uploaded, but this node can only process up to 2."}
    assert presign(wire, uuid, [{"name": "c.jpg", "size": 1}]) == too_many
    assert presign(wire, uuid, [{"name": "b.jpg", "size": 1}])["files"][0]["name"] == "b.jpg"


def test_requests_about_announced_files_are_bounded_and_named(wire: Wire) -> None:
    """Bodies that are too large or no JSON, and names that nobody announced."""
    uuid = wire.init()
    path = f"/task/new/presign/{uuid}"
    assert wire.error(path, content=b" " * (MOST_BODY_BYTES + 1)) == "request entity too large"
    assert "not JSON" in wire.error(path, content=b"{")
    assert "not an object" in wire.error(path, json=[])
    assert 'Expected {"files"' in wire.error(path, json={"files": []})
    for what in ("complete", "withdraw"):
        assert 'Expected {"names"' in wire.error(f"/task/new/{what}/{uuid}", json={})
        assert "'x.jpg' was not announced" in wire.error(f"/task/new/{what}/{uuid}", json={"names": ["x.jpg"]})


def test_a_name_is_cleaned_before_it_lies_anywhere(wire: Wire, federation_storage: Storage) -> None:
    """No file lies outside its upload's folder (design 10)."""
    uuid = wire.init()
    asked = ["../../evil.txt", "C:\\dcim\\b.jpg", "body.json", "..", "я" * 300 + ".jpg"]
    entries = announced(wire, uuid, *((name, 3) for name in asked))
    assert [each["name"] for each in entries] == [
        "evil.txt",
        "b.jpg",
        "_body.json",
        "unnamed",
        "я" * 98 + ".jpg",
    ]
    assert {put(each, b"abc") for each in entries} == {200}
    assert set(staged(federation_storage, uuid)) == {each["name"] for each in entries}
