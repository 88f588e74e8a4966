"""A router that knows its callers by the tailnet: no secret is shared, and nobody gets in who should not.

Every caller has a loopback address of its own, of which a stand-in for tailscaled says whose it is: as tailscaled in
userspace mode hands connections on.
"""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.embedded.children import Child, free_port, start_child
from common.embedded.stack import Stack
from tests.arrangements import ENGINE, FurtherRouter, router_beside
from tests.client import ENDED, JPEG
from tests.tailscaled import StandIn, status, tailscaled, whois
from tests.waiting import wait_until

CAPABILITY = "example.org/cap/scaleodm"
RIGHTS = """{
  "tag:scaleodm-node": "node",
  "ada@example.org": "admin",
  "bob@example.org": {"kind": "user", "tenant": "acme", "prefixes": ["s3://acme/"], "limits": {"images": 1}}
}"""
NODE, ADA, BOB, OTHER, EVE, GRANTED, NOBODY = (f"127.0.0.{number}" for number in range(11, 18))


@dataclass(frozen=True)
class Tailnet:
    """A router, and the tailscaled that it asks."""

    router: FurtherRouter
    tailscaled: StandIn

    def caller(self, address: str) -> httpx.Client:
        """Somebody's client, that comes from an address of their own."""
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=self.router.url, transport=transport, timeout=30)


@pytest.fixture(scope="module")
def tailnet(federation: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tailnet]:
    """A router with rights, on the federation's Postgres and S3."""
    folder = tmp_path_factory.mktemp("tailnet")
    peers = {
        NODE: whois("alpha", tags=("tag:scaleodm-node",)),
        ADA: whois("laptop", login="ada@example.org"),
        BOB: whois("desk", login="bob@example.org"),
        OTHER: whois("printer", tags=("tag:printer",)),
        EVE: whois("phone", login="eve@example.org"),
        GRANTED: whois("drone", login="dan@example.org", grants={CAPABILITY: [{"kind": "admin"}]}),
    }
    settings = {
        "SCALEODM_ROUTER_TAILNET_RIGHTS": RIGHTS,
        "SCALEODM_ROUTER_TAILNET_CAPABILITY": CAPABILITY,
        "SCALEODM_TAILSCALE_SOCKET": str(folder / "tailscaled.sock"),
    }
    with (
        tailscaled(folder / "tailscaled.sock", status("router", "100.64.0.1"), peers) as standin,
        router_beside(federation, folder, "router-on-a-tailnet", settings) as router,
    ):
        yield Tailnet(router, standin)


def refusal(answer: httpx.Response, status: int) -> str:
    """Why a request was refused."""
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


def test_an_administrator_is_known_by_login(tailnet: Tailnet) -> None:
    """For the API, on record, and in the dashboard, without any token."""
    with tailnet.caller(ADA) as ada:
        me = ada.get("/federation/about").json()["caller"]
        assert me == {"kind": "admin", "name": "ada@example.org", "tenant": ""}
        name = f"made-by-ada-{secrets.token_hex(4)}"
        made = ada.post("/admin/tokens", json={"kind": "user", "name": name})
        assert made.status_code == 200, made.text
        events = ada.get("/admin/events", params={"q": name}).json()["events"]
        assert [each["actor"]["text"] for each in events] == ["tailnet ada@example.org"]
        page = ada.get("/dashboard")
        assert (page.status_code, "ada@example.org" in page.text) == (200, True)
    with tailnet.caller(EVE) as eve:
        assert eve.get("/dashboard").status_code == 303, "she is asked to sign in"


def test_a_token_decides_where_one_comes(tailnet: Tailnet) -> None:
    """Also a wrong one, and also in a query."""
    with tailnet.caller(ADA) as ada:
        bearer = {"Authorization": f"Bearer {tailnet.router.user_token}"}
        assert ada.get("/federation/about", headers=bearer).json()["caller"]["kind"] == "user"
        assert (
            ada.get("/federation/about", params={"token": tailnet.router.user_token}).json()["caller"]["kind"] == "user"
        )
        assert "No known token" in refusal(ada.get("/federation/about", params={"token": "wrong"}), 401)
        assert "No known token" in refusal(ada.get("/federation/about?%74oken=wrong"), 401)
        assert "error" in ada.get("/info", params={"token": "wrong"}).json()


def test_who_has_no_right_is_told_so_in_a_sentence(tailnet: Tailnet) -> None:
    """By what the tailnet knows of them: a tag, a login; or that it knows nothing."""
    for address, known in (
        (OTHER, "printer.tail1234.ts.net (tag:printer)"),
        (EVE, "phone.tail1234.ts.net (eve@example.org)"),
    ):
        with tailnet.caller(address) as stranger:
            told = refusal(stranger.post("/federation/nodes", json=a_node()), 401)
            assert f"The tailnet knows you as {known}, and nothing of that has a right here." in told
    with tailnet.caller(NOBODY) as nobody:
        assert "Send one as `Authorization: Bearer" in refusal(nobody.get("/federation/about"), 401)
        assert "error" in nobody.get("/info").json()


def test_grants_of_the_tailnets_policy_count_too(tailnet: Tailnet) -> None:
    """Where an administrator of the tailnet is to decide, and not of the router."""
    with tailnet.caller(GRANTED) as granted:
        assert granted.get("/federation/about").json()["caller"]["name"] == "dan@example.org"


def test_what_headers_say_of_an_address_is_not_believed(tailnet: Tailnet) -> None:
    """A tailnet's identity is that of the connection. 127.0.0.1 is what uvicorn takes for a proxy of ours."""
    for address in ("127.0.0.1", NOBODY, EVE):
        with tailnet.caller(address) as stranger:
            for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Tailscale-User-Login"):
                lie = {header: f"for={ADA}" if header == "Forwarded" else ADA}
                assert stranger.get("/admin/nodes", headers=lie).status_code == 401
                assert stranger.get("/dashboard", headers=lie).status_code == 303


def test_a_strangers_page_in_an_administrators_browser_gets_nothing(tailnet: Tailnet) -> None:
    """It would come from her address: another site's script, and a name that leads here (DNS rebinding)."""
    own = tailnet.router.url
    with tailnet.caller(ADA) as ada:
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            told = refusal(ada.post("/admin/tokens", json={"kind": "admin", "name": "x"}, headers=headers), 401)
            assert "A page of another site made this request" in told
            assert ada.get("/dashboard", headers=headers).status_code == 303
        rebound = {"Host": "evil.example:3000", "Origin": "http://evil.example:3000"}
        assert "evil.example:3000 is neither" in refusal(ada.get("/admin/nodes", headers=rebound), 401)
        for host in ("router.tail1234.ts.net:3000", "100.64.0.1:3000", "router:3000"):
            assert ada.get("/admin/nodes", headers={"Host": host}).status_code == 200
        tailnet.tailscaled.status = status("router", CurrentTailnet={"MagicDNSSuffix": "odm.example"})
        assert ada.get("/admin/nodes", headers={"Host": "router.odm.example"}).status_code == 200
        assert ada.get("/admin/nodes", headers={"Origin": own, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_tailscaled_is_asked_once_a_connection_and_never_for_those_who_bring_a_token(tailnet: Tailnet) -> None:
    """A new connection from the same address may be somebody else's."""
    asked = tailnet.tailscaled.asked
    with tailnet.caller(ADA) as ada:
        before = len(asked)
        assert [ada.get("/federation/about").status_code for _ in range(5)] == [200] * 5
        assert len(asked) == before + 1
    tailnet.tailscaled.peers[ADA], kept = whois("phone", login="eve@example.org"), tailnet.tailscaled.peers[ADA]
    try:
        with tailnet.caller(ADA) as other:
            assert other.get("/federation/about").status_code == 401
    finally:
        tailnet.tailscaled.peers[ADA] = kept
    with tailnet.caller(NODE) as client:
        before = len(asked)
        for path in ("/info", "/options", "/task/list", "/task/none/info", "/task/none/output"):
            client.get(path, params={"token": tailnet.router.user_token})
        for path in ("/healthz", "/readyz", "/metrics"):
            client.get(path)
        assert len(asked) == before


def test_without_tailscaled_a_token_is_needed_and_nobody_waits_long(tailnet: Tailnet) -> None:
    """It hangs: what needs it is told after seconds, what does not is answered."""
    tailnet.tailscaled.silent = threading.Event()
    try:
        with tailnet.caller(ADA) as ada:
            before = len(tailnet.tailscaled.asked)
            assert ada.get("/readyz").status_code == 200
            assert ada.get("/info", params={"token": tailnet.router.user_token}).status_code == 200
            assert len(tailnet.tailscaled.asked) == before, "they have not waited for it"
            told = refusal(ada.get("/federation/about"), 401)
            assert "This router cannot ask the tailnet who you are, so it needs a token." in told
    finally:
        tailnet.tailscaled.silent.set()
        tailnet.tailscaled.silent = None
    assert "who calls over the tailnet is not known: tailscaled at" in tailnet.router.said()
    with tailnet.caller(ADA) as ada:
        assert ada.get("/federation/about").status_code == 200


def a_node(**changes: Any) -> dict[str, Any]:
    """What a node says of itself when it joins."""
    told = {"name": f"new-{secrets.token_hex(4)}", "url": "http://127.0.0.1:9", "engine": "odm", "engine_version": "1"}
    return told | {"capacity": {"slots": 1}} | changes


def test_a_node_without_token_shows_that_its_address_is_its_own(tailnet: Tailnet, federation: Stack) -> None:
    """The right to join is the tag's; which node it is, its key tells."""
    with tailnet.caller(NODE) as node:
        assert "sent neither a token nor a proof_key" in refusal(node.post("/federation/nodes", json=a_node()), 409)
        taken = a_node(name="node-1", url=federation.node_urls["node-1"], proof_key=secrets.token_hex(16))
        assert "leads to another node node-1" in refusal(node.post("/federation/nodes", json=taken), 409)
        two = a_node(url="http://no-such-name.invalid:1", other_urls=["http://127.0.0.1:9"], proof_key="k" * 16)
        told = refusal(node.post("/federation/nodes", json=two), 409)
        assert "The name no-such-name.invalid is not known (DNS)" in told
        assert "Nothing listens on port 9 of 127.0.0.1" in told


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[StandIn]:
    """The tailscaled of a node's machine. Nobody finds its name here; its address is one of loopback's."""
    with tailscaled(tmp_path / "node.sock", status("alpha", "127.0.0.21")) as running:
        yield running


def node_process(tailnet: Tailnet, federation: Stack, machine: StandIn, folder: Path, **settings: str) -> Child:
    """A real node without a token."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
    own = {
        "SCALEODM_NODE_NAME": "alpha",
        "SCALEODM_NODE_PORT": str(free_port()),
        "SCALEODM_NODE_DATA": str(folder / "data"),
        "SCALEODM_NODE_ROUTER_URL": tailnet.router.url,
        "SCALEODM_NODE_TAILNET": "on",
        "SCALEODM_TAILSCALE_SOCKET": str(machine.path),
    }
    environment = clean | federation.storage_environment() | ENGINE | own | settings
    return start_child("alpha", [sys.executable, "-m", "node"], environment, folder / "alpha.log")


def bob_works(tailnet: Tailnet) -> None:
    """As his tenant, within his prefixes and limits, and not in the administration."""
    with tailnet.caller(BOB) as bob:
        assert bob.get("/federation/about").json()["caller"]["tenant"] == "acme"
        assert "s3://acme/" in bob.post("/task/new", json={"readS3Path": "s3://staging/other/"}).json()["error"]
        uuid = upload(bob, "a.jpg", "b.jpg")
        bob.post(f"/task/new/commit/{uuid}")
        failed = wait_until(lambda: ended(bob, uuid), "bob's task of two images to fail", 60)
        assert "can only process up to 1" in failed.get("errorMessage", ""), failed
        uuid = upload(bob, "a.jpg")
        assert bob.post(f"/task/new/commit/{uuid}").json() == {"uuid": uuid}
        done = wait_until(lambda: ended(bob, uuid), "bob's task to be completed", 60)
        assert done["code"] == 40, done
        told = refusal(bob.get("/admin/nodes"), 403)
        assert told == "The tailnet's bob@example.org has the right user here; admin is needed."
        others = {"token": tailnet.router.user_token}
        assert "error" in bob.get(f"/task/{uuid}/info", params=others).json(), "it is acme's alone"


def ended(client: httpx.Client, uuid: str) -> dict[str, Any] | None:
    """A task's status, once it has ended."""
    status: dict[str, Any] = client.get(f"/task/{uuid}/info").json()["status"]
    return status if status["code"] in ENDED else None


def upload(client: httpx.Client, *names: str) -> str:
    """Images of a new task, as PyODM sends them; gives its uuid."""
    uuid = str(client.post("/task/new/init", files={"name": (None, "bob's")}).json()["uuid"])
    files = [("images", (name, JPEG + name.encode(), "image/jpeg")) for name in names]
    assert client.post(f"/task/new/upload/{uuid}", files=files).json() == {"success": True}
    return uuid


def test_a_node_joins_by_its_tag_moves_and_says_what_is_missing(
    tailnet: Tailnet, federation: Stack, machine: StandIn, tmp_path: Path
) -> None:
    """Its machine is not logged in, then it is; later the tailnet gives it another address, and it moves at once."""
    peers = tailnet.tailscaled.peers
    peers["127.0.0.1"] = peers[OTHER]
    machine.status |= {"BackendState": "NeedsLogin"}
    node = node_process(tailnet, federation, machine, tmp_path)

    def log() -> str:
        return node.log.read_text()

    def known() -> dict[str, Any]:
        found = {each["name"]: each for each in tailnet.router.admin("GET", "/admin/nodes").json()}
        return dict(found.get("alpha", {}))

    try:
        wait_until(lambda: "Tailscale is not logged in on this machine. Run `tailscale up`" in log(), "to say that")
        machine.status |= {"BackendState": "Running"}
        wait_until(lambda: "nothing of that has a right here" in log(), "the node to be told that its tag has no right")
        peers["127.0.0.1"] = peers[NODE]
        tailnet.router.waits_for("alpha")
        port = known()["url"].rpartition(":")[2]
        assert known()["url"] == f"http://127.0.0.21:{port}", "its name is found nowhere, so its address serves"
        bob_works(tailnet)
        machine.status |= {"TailscaleIPs": ["127.0.0.22"]}
        moved = f"http://127.0.0.22:{port}"
        wait_until(lambda: known()["url"] == moved, "the router to know where the node has moved", 30)
        assert "this machine has moved on the tailnet" in log()
        assert "is taken" not in log(), "it has shown that it is the same node"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.21:{port}/healthz")
    finally:
        node.process.send_signal(signal.SIGTERM)
        node.stop()
        peers.pop("127.0.0.1")
    assert "Traceback" not in log()
