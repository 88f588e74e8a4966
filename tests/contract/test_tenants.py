"""A tenant sees and touches its own tasks only (I12), and its own part of S3."""

import secrets
import uuid as uuids

import httpx
import pytest

from common.embedded.stack import Stack
from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire


def wire_of(stack: Stack, http: httpx.Client, tenant: str, prefixes: list[str] | None = None) -> Wire:
    """A new user of this tenant."""
    order = {"kind": "user", "name": secrets.token_hex(4), "tenant": tenant, "prefixes": prefixes or []}
    headers = {"Authorization": f"Bearer {stack.admin_token}"}
    made = http.post(f"{stack.router_url}/admin/tokens", json=order, headers=headers).json()
    return Wire(stack.router_url, made["token"], http)


def test_i12_another_tenants_task_does_not_exist(federation: Stack, http: httpx.Client, router_wire: Wire) -> None:
    """Not to be seen, touched, or guessed; its uuid is taken all the same."""
    acme, other = wire_of(federation, http, "acme"), wire_of(federation, http, "other")
    uuid = acme.task()
    missing = {"error": f"{uuid} not found"}
    assert other.info(uuid) == missing
    assert other.info(uuid, with_output="0") == missing
    assert other.output(uuid) == missing
    assert other.get(f"/task/{uuid}/download/all.zip").json() == missing
    for what in ("cancel", "remove", "restart"):
        assert other.act(what, uuid) == {"success": False, **missing}
    assert uuid not in [each["uuid"] for each in other.get("/task/list").json()]
    assert uuid in [each["uuid"] for each in acme.get("/task/list").json()]
    assert other.error("/task/new/init", headers={"set-uuid": uuid}) == f"Invalid set-uuid: {uuid}"
    assert http.get(f"{other.url}/task/{uuid}/why", params={"token": other.token}).status_code == 404
    acme.completed(uuid)
    assert router_wire.info(uuid) == missing


def test_an_upload_belongs_to_who_opened_it(federation: Stack, http: httpx.Client) -> None:
    """Nobody else adds files, or commits."""
    acme, other = wire_of(federation, http, "acme"), wire_of(federation, http, "other")
    uuid = acme.init()
    refused = {"error": "Invalid uuid (not found)"}
    assert other.upload(uuid, ("a.jpg", JPEG)) == refused
    assert other.commit(uuid) == refused
    assert other.error("/task/new/init", headers={"set-uuid": uuid}) == f"Invalid set-uuid: {uuid}"


def test_a_token_reads_and_writes_only_where_it_may(
    federation: Stack, http: httpx.Client, federation_storage: Storage
) -> None:
    """Our credentials reach more than one tenant's imagery (design 10)."""
    mine = f"s3://staging/tenants/{uuids.uuid4()}/"
    wire = wire_of(federation, http, "acme", [mine])
    federation_storage.write(Reference.parse(mine) / "in/a.jpg", JPEG)
    elsewhere = {"readS3Path": "s3://staging/others/"}
    assert "is not open to this token" in wire.error("/task/new", json=elsewhere)
    sneaky = {"readS3Path": mine + "in/", "writeS3Path": "s3://staging/others/"}
    assert "s3://staging/others/ is not open to this token" in wire.error("/task/new", json=sneaky)
    assert "holds" in wire.error("/task/new", json={"readS3Path": mine + "../others/"})
    assert "uuid" in wire.post("/task/new", json={"readS3Path": mine + "in/"}).json()


@pytest.mark.parametrize("path", ["/federation/nodes", "/admin/tokens"])
def test_the_administration_is_for_administrators(federation: Stack, router_wire: Wire, path: str) -> None:
    """With real status codes, for these are not NodeODM's paths."""
    url = federation.router_url + path
    assert router_wire.http.get(url).status_code == 401
    refused = router_wire.get(path)
    assert refused.status_code == 403
    assert "a token of kind admin is needed" in refused.text
    assert router_wire.http.get(url, params={"token": federation.admin_token}).status_code == 200


def test_no_token_can_be_read_back(federation: Stack, router_wire: Wire) -> None:
    """Names and tenants, and nothing that opens."""
    listed = router_wire.http.get(f"{federation.router_url}/admin/tokens", params={"token": federation.admin_token})
    assert federation.user_token not in listed.text
    assert {"name", "kind", "tenant", "prefixes", "limits", "created_at"} == set(listed.json()[0])


def test_a_node_token_opens_nothing_but_joining(federation: Stack, http: httpx.Client) -> None:
    """Least privilege."""
    order = {"kind": "node", "name": secrets.token_hex(4)}
    headers = {"Authorization": f"Bearer {federation.admin_token}"}
    token = http.post(f"{federation.router_url}/admin/tokens", json=order, headers=headers).json()["token"]
    assert "does not match" in http.get(f"{federation.router_url}/info", params={"token": token}).text
    beat = http.post(
        f"{federation.router_url}/federation/nodes/some-node/heartbeat",
        json={"capacity": {"slots": 1}},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert beat.status_code == 403


def test_only_the_router_makes_a_node_let_go(federation: Stack, node_wire: Wire) -> None:
    """A user of the node cannot."""
    uuid = node_wire.task()
    answer = node_wire.http.post(
        f"{federation.node_urls['node-1']}/federation/let-go",
        json={"uuid": uuid, "attempt": 1},
        headers={"Authorization": f"Bearer {node_wire.token}"},
    )
    assert answer.status_code == 403
    node_wire.completed(uuid)
