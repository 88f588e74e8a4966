"""Nodes that want to join and cannot: told at once, in words that say what to do; and nothing that is there suffers."""

import http.server
import json
import os
import re
import secrets
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.embedded.children import Child, free_port, start_child
from common.embedded.stack import Stack
from common.federation import MOST_ATTEMPTS, MOST_BODY_BYTES
from tests.client import Wire
from tests.waiting import wait_until

Join = Callable[..., httpx.Response]


@pytest.fixture
def join(federation: Stack, http: httpx.Client) -> Join:
    """Asks the router to let a node in, with the right token."""

    def ask(token: str = federation.node_token, **changes: Any) -> httpx.Response:
        plain = {
            "name": f"new-{secrets.token_hex(4)}",
            "url": f"http://127.0.0.1:{free_port()}",
            "engine": "odm",
            "engine_version": "1",
            "capacity": {"slots": 1},
        }
        headers = {"Authorization": f"Bearer {token}"}
        return http.post(f"{federation.router_url}/federation/nodes", json=plain | changes, headers=headers)

    return ask


@pytest.fixture
def page() -> Iterator[Callable[[int, bytes], str]]:
    """A web server that answers everything alike; gives its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(status: int, body: bytes) -> str:
        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the base class calls it so

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Nobody reads it."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for each in servers:
        each.shutdown()
        each.server_close()


def refusal(answer: httpx.Response, status: int = 409) -> str:
    """Why a join was refused."""
    assert answer.status_code == status, answer.text
    return str(answer.json().get("error"))


def test_an_address_that_leads_nowhere(join: Join) -> None:
    """A port that nobody listens on; a name that nobody knows."""
    told = refusal(join(url="http://127.0.0.1:9"))
    assert "127.0.0.1" in told
    assert "Nothing listens on port 9 of 127.0.0.1" in told
    assert "Set SCALEODM_NODE_URL to an address by which this router reaches node" in told
    told = refusal(join(url="http://no-such-host.invalid:3001"))
    assert "no-such-host.invalid" in told


def test_an_address_that_never_answers(join: Join) -> None:
    """A port that is open, and silent: told after seconds, not minutes."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        told = refusal(join(url=f"http://127.0.0.1:{mute.getsockname()[1]}"))
    assert "did not answer" in told or "no answer" in told


def test_an_address_that_leads_elsewhere(
    join: Join, federation: Stack, page: Callable[[int, bytes], str], http: httpx.Client
) -> None:
    """Some web page; another node; a node of the same name that joins with another token."""
    assert "is not a ScaleODM node (status 200)" in refusal(join(url=page(200, b"<h1>hello</h1>")))
    assert "is not a ScaleODM node (status 404)" in refusal(join(url=page(404, b"{}")))
    told = refusal(join(name="lost", url=federation.node_urls["node-1"]))
    assert f"{federation.node_urls['node-1']} leads to node node-1" in told
    order = {"kind": "node", "name": secrets.token_hex(4)}
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    other = http.post(f"{federation.router_url}/admin/tokens", json=order, headers=admin).json()["token"]
    told = refusal(join(token=other, name="node-1", url=federation.node_urls["node-1"]))
    assert "leads to another node node-1, with another join token" in told


def test_a_token_that_does_not_open_joining(join: Join, federation: Stack) -> None:
    """None that is known, or one of another kind."""
    assert "No known token" in refusal(join(token="wrong"), 401)
    assert "a token of kind node or admin is needed" in refusal(join(token=federation.user_token), 403)


def test_a_release_that_speaks_otherwise(join: Join) -> None:
    """Both are named."""
    told = refusal(join(protocol=99))
    assert "speaks version 99 of the federation's protocol, this router 1" in told


def test_a_clock_that_is_an_hour_off(join: Join) -> None:
    """Found out before its first task: S3 would refuse whatever such a node signs. A minute does no harm."""
    hour = timedelta(hours=1)
    told = refusal(join(clock=(datetime.now(UTC) + hour).isoformat()))
    assert re.search(r"The clock of node new-\w+ is 3[56]\d\d s ahead of this router's, and S3 refuses .* by NTP", told)
    assert "s behind this router's" in refusal(join(clock=(datetime.now(UTC) - hour).isoformat()))
    assert "clock" not in refusal(join(clock=(datetime.now(UTC) - timedelta(minutes=1)).isoformat()))


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """A web server with a certificate that nobody has vouched for; gives its address."""
    key, certificate = ec.generate_private_key(ec.SECP256R1()), tmp_path / "server.pem"
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    )
    own = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = made.add_extension(own, critical=False).sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate.write_bytes(secret + signed.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_node_that_is_pointed_at_anything_but_a_router_says_what_is_wrong(
    federation: Stack, page: Callable[[int, bytes], str], self_signed: str, tmp_path: Path
) -> None:
    """Name, port, TLS on either side, certificate, and what answers: a sentence for each address, with what to do."""
    closed = f"http://127.0.0.1:{free_port()}"
    secure = federation.router_url.replace("http:", "https:")
    told = {
        "http://no-such-router.invalid:3000": "The name no-such-router.invalid is not known (DNS). Check how it is",
        closed: "Check the port, and that the router runs",
        secure: "it answers in plain text (WRONG_VERSION_NUMBER). Write http:// in place of https://",
        self_signed: "its certificate is not trusted (self-signed certificate)",
        self_signed.replace("https:", "http:"): "If it speaks TLS there, the address begins with https://",
        page(404, b"<h1>hello</h1>"): "status 404 and something that is not JSON. Check SCALEODM_NODE_ROUTER_URL",
        page(
            200, b"<h1>hello</h1>"
        ): "this is not a ScaleODM router. It answered POST /federation/nodes with status 200",
        page(200, b'{"secret": "hush"}'): "not what a router says (wrong or missing: node_id)",
        page(200, b"[]"): "not what a router says (wrong or missing: all of it)",
        federation.node_urls[
            "node-1"
        ]: "this is not a ScaleODM router. It answered POST /federation/nodes with status 404",
    }
    settings = {"SCALEODM_NODE_NAME": "lost", "SCALEODM_NODE_ROUTER_URL": ",".join(told)}
    lost = node_process(federation, tmp_path, settings)
    try:
        for url, words in told.items():
            wait_until(lambda url=url, words=words: says(lost, url, words), f"the node to say of {url}: {words}")  # type: ignore[misc]
    finally:
        lost.stop()
    log = lost.log.read_text()
    assert "hush" not in log
    assert "Traceback" not in log


def says(node: Child, url: str, words: str) -> bool:
    """Whether one line of a node's log says so of a router."""
    return any(f"router {url}: " in line and words in line for line in node.log.read_text().splitlines())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"capacity": {"slots": 0}}, "slots"),
        ({"capacity": {"slots": -1}}, "slots"),
        ({"capacity": {"slots": 10**9}}, "slots"),
        ({"name": "no spaces, please"}, "name"),
        ({"url": "ftp://somewhere"}, "url"),
        ({"url": "http://user:password@somewhere"}, "url"),
        ({"max_images": 0}, "max_images"),
    ],
)
def test_fields_that_cannot_be(join: Join, changes: dict[str, Any], field: str) -> None:
    """Refused with the field's name."""
    answer = join(**changes)
    assert answer.status_code == 422
    assert field in json.dumps([each["loc"] for each in answer.json()["detail"]])


def node_process(federation: Stack, folder: Path, settings: dict[str, str]) -> Child:
    """A real node, beside those of the federation."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
    own = {
        "SCALEODM_NODE_PORT": str(free_port()),
        "SCALEODM_NODE_DATA": str(folder / "data"),
        "SCALEODM_NODE_USER_TOKEN": "u" * 32,
        "SCALEODM_NODE_ROUTER_URL": federation.router_url,
        "SCALEODM_NODE_JOIN_TOKEN": federation.node_token,
    }
    environment = clean | federation.storage_environment() | own | settings
    return start_child("newcomer", [sys.executable, "-m", "node"], environment, folder / "node.log")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SCALEODM_NODE_NAME": "node-1"}, "The name node-1 is taken: the node at http://127.0.0.1:"),
        (
            {"SCALEODM_NODE_NAME": "far", "SCALEODM_NODE_URL": "http://127.0.0.1:9"},
            "Set SCALEODM_NODE_URL to an address",
        ),
        ({"SCALEODM_NODE_NAME": "shy", "SCALEODM_NODE_JOIN_TOKEN": "wrong"}, "No known token came with this request"),
    ],
)
def test_a_real_node_says_in_its_log_why_it_may_not_join(
    federation: Stack, tmp_path: Path, settings: dict[str, str], told: str, http: httpx.Client
) -> None:
    """It goes on trying; and whoever has the name keeps it."""
    newcomer = node_process(federation, tmp_path, settings)
    try:
        wait_until(lambda: told in newcomer.log.read_text() or None, f"the node to say {told}")
        wait_until(lambda: newcomer.log.read_text().count(told) > 1 or None, "the node to try again")
    finally:
        newcomer.stop()
    admin = {"token": federation.admin_token}
    nodes = {each["name"]: each for each in http.get(f"{federation.router_url}/admin/nodes", params=admin).json()}
    assert nodes["node-1"]["url"] == federation.node_urls["node-1"]
    assert nodes["node-1"]["health"] == "healthy"
    assert {"far", "shy"}.isdisjoint(nodes)


def test_a_node_that_was_removed_stays_away_until_it_is_started_again(
    federation: Stack, tmp_path: Path, http: httpx.Client
) -> None:
    """It is told so, and says so."""
    settings = {"SCALEODM_NODE_NAME": "guest"}
    admin = {"token": federation.admin_token}
    nodes = f"{federation.router_url}/admin/nodes"

    def names() -> set[str]:
        return {each["name"] for each in http.get(nodes, params=admin).json()}

    newcomer = node_process(federation, tmp_path, settings)
    try:
        wait_until(lambda: "guest" in names() or None, "the node to join")
        assert http.delete(f"{nodes}/guest", params=admin).json() == {"removed": True}
        wait_until(lambda: "an administrator has removed this node" in newcomer.log.read_text() or None, "its word")
        assert "guest" not in names()
        missing = http.delete(f"{nodes}/guest", params=admin)
        assert missing.status_code == 404
        assert missing.json()["error"].startswith("There is no node guest; the nodes are: node-1, node-2")
    finally:
        newcomer.stop()
    again = node_process(federation, tmp_path, settings)
    try:
        wait_until(lambda: "guest" in names() or None, "the node to join again")
        assert http.post(f"{nodes}/guest/drain", params=admin).json()["draining"]
        http.delete(f"{nodes}/guest", params=admin)
    finally:
        again.stop()


def secret_of(federation: Stack, http: httpx.Client) -> tuple[str, dict[str, str]]:
    """A node's heartbeat address, and the administrator's key, which opens it too."""
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    nodes = {each["name"]: each for each in http.get(f"{federation.router_url}/admin/nodes", headers=admin).json()}
    return f"{federation.router_url}/federation/nodes/{nodes['node-2']['id']}/heartbeat", admin


def test_a_heartbeat_for_a_task_that_is_not_its_own_changes_nothing(
    federation: Stack, http: httpx.Client, router_wire: Wire
) -> None:
    """It is told to stop it; the task goes on where it is."""
    url, admin = secret_of(federation, http)
    uuid = router_wire.task("sleep 2")
    router_wire.running(uuid)
    where = http.get(f"{router_wire.url}/task/{uuid}/why", params={"token": router_wire.token}).json()["node"]
    if where == "node-2":
        url = url.replace(url.split("/")[-2], _id_of(federation, http, "node-1"))
    report = {"uuid": uuid, "attempt": 1, "state": "failed", "error": "a lie"}
    foreign = {"uuid": "no-such-task", "attempt": 3, "state": "completed"}
    body = {"capacity": {"slots": 2}, "attempts": [report, foreign]}
    answer = http.post(url, json=body, headers=admin).json()
    assert {each["uuid"] for each in answer["stop"]} == {uuid, "no-such-task"}
    router_wire.completed(uuid)


def _id_of(federation: Stack, http: httpx.Client, name: str) -> str:
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    nodes = {each["name"]: each for each in http.get(f"{federation.router_url}/admin/nodes", headers=admin).json()}
    return str(nodes[name]["id"])


def test_a_heartbeat_with_a_million_tasks_is_refused_at_once(
    federation: Stack, http: httpx.Client, router_wire: Wire
) -> None:
    """By their number, or by their size before they take memory; polls go on."""
    url, admin = secret_of(federation, http)
    one = json.dumps({"uuid": "u", "attempt": 1, "state": "running"})
    many = f'{{"capacity": {{"slots": 1}}, "attempts": [{",".join([one] * (MOST_ATTEMPTS + 1))}]}}'
    assert http.post(url, content=many, headers=admin).status_code == 422
    million = (b'{"capacity": {"slots": 1}, "attempts": [', *[one.encode() + b"," for _ in range(1_000_000)], b"{}]}")
    assert sum(map(len, million)) < MOST_BODY_BYTES, "so it is their number alone"
    assert http.post(url, content=b"".join(million), headers=admin, timeout=60).status_code == 422
    answer = http.post(url, content=iter([b"[" * 2**20] * (MOST_BODY_BYTES // 2**20 + 1)), headers=admin, timeout=60)
    assert answer.status_code == 413
    assert "is larger than" in answer.json()["error"]
    assert router_wire.get("/info").status_code == 200
