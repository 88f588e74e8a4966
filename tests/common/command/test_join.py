"""`scaleodm join`: told at once whether a node would be let in, and then a node that is."""

from datetime import UTC, datetime, timedelta
from typing import Any

from common.embedded.children import free_port
from common.embedded.stack import Stack
from tests.arrangements import ENGINE
from tests.common.command.running import Shell
from tests.common.command.standins import Serve, as_json, router_answers
from tests.tailscaled import status, tailscaled
from tests.waiting import wait_until


def test_a_node_is_told_whether_it_would_be_let_in(bare: Shell, federation: Stack) -> None:
    """With the settings that it would have; its token is not shown."""
    shell = bare.under(**federation.storage_environment(), SCALEODM_NODE_JOIN_TOKEN=federation.node_token)
    told = shell("join", federation.router_url, "--name", "oslo", "--label", "region=eu", "--check").went_well()
    assert f"SCALEODM_NODE_ROUTER_URL={federation.router_url}" in told.out
    assert 'SCALEODM_NODE_LABELS={"region": "eu"}' in told.out
    assert federation.node_token not in told.out + told.err
    document = shell("join", federation.router_url, "--check", "--json").went_well().json
    assert document["router"]["caller"]["kind"] == "node"
    assert document["missing"] == []


def test_what_stands_in_its_way_is_told_in_a_sentence(bare: Shell, federation: Stack, serve: Serve) -> None:
    """Token, kind of token, port, clock, release, S3."""
    url = federation.router_url
    bare("join", url, "--check", stdin="wrong\n").refused(4, "does not know this token")
    user = bare.under(SCALEODM_NODE_JOIN_TOKEN=federation.user_token)
    user("join", url, "--check").refused(4, "This is a user token; joining needs a node token: scaleodm tokens make")
    node = bare.under(SCALEODM_NODE_JOIN_TOKEN=federation.node_token)
    node("join", f"127.0.0.1:{free_port()}", "--check").refused(3, "connection refused")
    node("join", federation.node_urls["node-1"], "--check").refused(3, "is not a router of this release")
    hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    node("join", serve(router_answers(about={"time": hour})), "--check").refused(1, "behind the router's", "NTP")
    node("join", serve(router_answers(about={"protocol": 99})), "--check").refused(1, "speaks version 99")
    without_s3 = node("join", url, "--check")
    assert without_s3.code == 2
    assert "SCALEODM_STAGING is not set: a node needs the router's S3" in without_s3.err


def known_as(kind: str) -> dict[str, Any]:
    """What a router says of itself to a machine that it knows by the tailnet."""
    return {"caller": {"kind": kind, "name": "oslo.tail1234.ts.net", "tenant": ""}}


def test_over_a_tailnet_no_token_is_asked_for(bare: Shell, federation: Stack, serve: Serve) -> None:
    """What this machine lacks there is told first; then what the router says of it."""
    url, socket = federation.router_url, bare.folder / "tailscaled.sock"
    shell = bare.under(**federation.storage_environment(), SCALEODM_TAILSCALE_SOCKET=str(socket))
    shell("join", url, "--tailnet", "--check").refused(1, "There is no tailscaled at", "Start Tailscale here")
    with tailscaled(socket, status("oslo", "100.64.0.9")) as standin:
        shell.inside("join", url, "--tailnet", "--check").refused(4, "does not know this machine by the tailnet")
        as_user, as_node = (serve(router_answers(about=known_as(kind))) for kind in ("user", "node"))
        shell.inside("join", as_user, "--tailnet", "--check").refused(4, "by the tailnet as a user; joining needs")
        told = shell.inside("join", as_node, "--tailnet", "--check").went_well().out
        assert "SCALEODM_NODE_TAILNET=on" in told
        assert "SCALEODM_NODE_JOIN_TOKEN=(none: over the tailnet)" in told
        by_settings = shell.under(SCALEODM_NODE_ROUTER_URL=as_user, SCALEODM_NODE_TAILNET="on", SCALEODM_NODE_DATA=".")
        found = {each["name"]: each for each in by_settings("doctor", "--json").json["checks"]}
        assert found["tailnet"]["text"] == "this machine is oslo.tail1234.ts.net and 100.64.0.9"
        assert "joining needs the right node" in found["joining"]["text"]
        standin.status |= {"BackendState": "NeedsLogin"}
        shell.inside("join", url, "--tailnet", "--check").refused(
            1, "not logged in on this machine. Run `tailscale up`"
        )


def test_what_answers_is_no_router(bare: Shell, federation: Stack, serve: Serve) -> None:
    """JSON of something else; and TLS where there is none."""
    node = bare.under(SCALEODM_NODE_JOIN_TOKEN=federation.node_token)
    documents: list[object] = [[], {}, {"caller": 1}, "hello"]
    for document in documents:
        node.inside("join", serve(lambda *_, document=document: as_json(document)), "--check").refused(
            3, "is not a router"
        )
    secure = federation.router_url.replace("http:", "https:")
    node.inside("join", secure, "--check").refused(3, "it answers in plain text", "Write http:// in place of https://")


def test_a_node_joins_and_works_until_it_is_ended(admin: Shell, bare: Shell, federation: Stack) -> None:
    """The token comes by stdin, and stands in no command line."""
    settings = federation.storage_environment() | ENGINE
    name = "joined-by-hand"
    with bare.under(**settings).start(
        "join", federation.router_url, "--name", name, "--port", str(free_port()), "--data", str(bare.folder / "node")
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(federation.node_token + "\n")
            process.stdin.flush()
            wait_until(lambda: f"{name}\thealthy" in admin("nodes").out, f"{name} to be healthy", 40)
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert admin("nodes", "remove", name, "--json").went_well().json == {"name": name, "removed": True}
