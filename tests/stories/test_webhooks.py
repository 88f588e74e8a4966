"""Whoever asked to be told of a task's end is told: once where all goes well, and at last where it does not (I8)."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.embedded.stack import Stack
from node.records import Record, Records
from tests.client import Wire
from tests.common.test_webhooks import receivers_check
from tests.conftest import STANDIN
from tests.kubernetes_node import node_in
from tests.kubernetes_standin import StandInCluster
from tests.receiver import CLOSE, HANG, Receiver, receiving
from tests.waiting import wait_until

SECRET = "what router and receiver know"
NODE_SECRET = "what node and receiver know"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """One receiver for all; each test looks at the calls of its own task."""
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the federation keeps its data."""
    return tmp_path_factory.mktemp("webhooks")


@pytest.fixture(scope="module")
def told(data: Path, receiver: Receiver) -> Iterator[Stack]:
    """A federation with webhooks of its own beside those of the tasks; the receiver is on this machine."""
    nodes = {
        "SCALEODM_NODE_ENGINE": "odm",
        "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}",
        "SCALEODM_NODE_WEBHOOK": receiver.url("/node?of=cluster"),
        "SCALEODM_NODE_WEBHOOK_SECRET": NODE_SECRET,
        "SCALEODM_NODE_WEBHOOK_PRIVATE": "on",
    }
    router = {
        "SCALEODM_ROUTER_WEBHOOK": receiver.url("/router?token=open-sesame"),
        "SCALEODM_ROUTER_WEBHOOK_SECRET": SECRET,
        "SCALEODM_ROUTER_WEBHOOK_PRIVATE": "on",
    }
    with Stack(data, nodes=1, node_settings=nodes, router_settings=router) as stack:
        yield stack


@pytest.fixture(autouse=True)
def there(receiver: Receiver) -> Iterator[None]:
    """At the end of each test the receiver is in a good mood again."""
    yield
    receiver.answers, receiver.always = [], {}
    receiver.go()
    receiver.come()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client that keeps no connection to a program that is gone."""
    with httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as found:
        yield found


@pytest.fixture
def router(told: Stack, client: httpx.Client) -> Wire:
    """The router."""
    return Wire(told.router_url, told.user_token, client)


@pytest.fixture
def direct(told: Stack, client: httpx.Client) -> Wire:
    """The node alone."""
    return Wire(told.node_urls["node-1"], told.node_user_token("node-1"), client)


def on_record(told: Stack, client: httpx.Client, uuid: str) -> list[dict[str, Any]]:
    """What the router's administrator sees of a task's webhooks, the task's own first."""
    answer = client.get(
        f"{told.router_url}/admin/tasks/{uuid}/webhooks", headers={"Authorization": f"Bearer {told.admin_token}"}
    )
    found: list[dict[str, Any]] = answer.json()
    return found


def record(data: Path, uuid: str) -> Record:
    """What the node keeps of a task."""
    return next(each for each in Records(data / "nodes" / "node-1" / "tasks").all() if each.task.uuid == uuid)


def delivered(receiver: Receiver, uuid: str, count: int, within_s: float = 30.0) -> list[str]:
    """The paths that were called for this task, once there are so many."""
    wait_until(lambda: len(receiver.to(uuid)) >= count, f"{count} calls for task {uuid}", within_s)
    return sorted(call.path for call in receiver.to(uuid))


@pytest.mark.contract("7 payload", "7 when")
def test_a_finished_task_is_told_once_with_nodeodms_payload_and_a_signature(
    told: Stack, receiver: Receiver, router: Wire, client: httpx.Client
) -> None:
    """To the task's webhook and to the router's; not by the node, whose own tasks are others."""
    uuid = router.task("say hello", webhook=receiver.url("/task"))
    info = router.ended(uuid)
    assert delivered(receiver, uuid, 2) == ["/router?token=open-sesame", "/task"]
    for call in receiver.to(uuid):
        assert call.document == info | {
            "statusCode": 40,
            "images": [{"filename": "a.jpg"}, {"filename": "b.jpg"}],
        }
        assert receivers_check()(call.headers["X-ScaleODM-Signature"], call.body, SECRET)
    wait_until(lambda: all(row["delivered_at"] for row in on_record(told, client, uuid)), "both to be on record")
    time.sleep(2.5)
    assert len(receiver.to(uuid)) == 2, "and not again"
    assert {row["tries"] for row in on_record(told, client, uuid)} == {1}


@pytest.mark.contract("7 when")
def test_a_failed_task_is_told_of_with_its_reason(receiver: Receiver, router: Wire) -> None:
    """Whether its engine failed, or its input is not there."""
    uuid = router.task("exit 1", webhook=receiver.url("/task"))
    lost = router.post(
        "/task/new", json={"readS3Path": "s3://staging/nothing-here/", "webhook": receiver.url("/task")}
    ).json()["uuid"]
    for each in (uuid, lost):
        error = router.ended(each)["status"]["errorMessage"]
        delivered(receiver, each, 2)
        for call in receiver.to(each):
            assert call.document["statusCode"] == 30
            assert call.document["status"] == {"code": 30, "errorMessage": error}
            assert call.document["images"] == []


@pytest.mark.contract("7 when")
def test_a_canceled_task_is_told_of_if_it_had_begun(receiver: Receiver, router: Wire) -> None:
    """Canceled before, it tells nobody; removed while it runs is canceled (contract 7)."""
    first = router.task("sleep 60", webhook=receiver.url("/task"))
    router.running(first)
    queued = router.task("say never", webhook=receiver.url("/task"))
    wait_until(lambda: router.code(queued) == 10, "the second task to wait for the only slot")
    assert router.act("cancel", queued) == {"success": True}
    assert router.act("cancel", first) == {"success": True}
    removed = router.task("sleep 60", webhook=receiver.url("/task"))
    router.running(removed)
    assert router.act("remove", removed) == {"success": True}
    for each in (first, removed):
        delivered(receiver, each, 2)
        assert {call.document["statusCode"] for call in receiver.to(each)} == {50}
    assert receiver.to(queued) == []


@pytest.mark.contract("7 retries")
def test_a_receiver_that_was_away_is_told_when_it_is_back(
    told: Stack, receiver: Receiver, router: Wire, client: httpx.Client
) -> None:
    """And one that answers badly is told until it answers well; each try under the same name."""
    receiver.go()
    uuid = router.task("say hello", webhook=receiver.url("/task"))
    router.ended(uuid)
    wait_until(
        lambda: all("cannot be reached" in str(row["error"]) for row in on_record(told, client, uuid)),
        "a first try of both on record",
    )
    receiver.always = {"/router?token=open-sesame": 200}
    receiver.answers = [500, CLOSE]
    receiver.come()
    wait_until(lambda: all(row["delivered_at"] for row in on_record(told, client, uuid)), "both to be delivered", 50)
    mine = [call for call in receiver.to(uuid) if call.path == "/task"]
    assert len(mine) == 3
    assert len({call.delivery for call in mine}) == 1
    assert len({call.delivery for call in receiver.to(uuid)}) == 2
    assert "sesame" not in json.dumps(on_record(told, client, uuid))


@pytest.mark.timeout(120)
def test_i8_a_router_that_is_killed_between_end_and_delivery_delivers_in_its_next_life(
    told: Stack, receiver: Receiver, router: Wire, client: httpx.Client
) -> None:
    """SIGKILL while the receiver is away; the router's next process finds what is to be told in Postgres."""
    receiver.go()
    uuid = router.task("say hello", webhook=receiver.url("/task"))
    router.ended(uuid)
    os.kill(told.pid_of("router"), signal.SIGKILL)
    receiver.come()
    told.start_again("router")
    assert delivered(receiver, uuid, 2, within_s=50) == ["/router?token=open-sesame", "/task"]
    wait_until(lambda: all(row["delivered_at"] for row in on_record(told, client, uuid)), "both to be on record")


@pytest.mark.timeout(120)
def test_i8_a_router_that_is_killed_while_it_calls_calls_again(
    told: Stack, receiver: Receiver, router: Wire, client: httpx.Client
) -> None:
    """At least once: it cannot know whether it was heard. The receiver can, by the delivery's name."""
    receiver.always = {"/task": HANG}
    uuid = router.task("say hello", webhook=receiver.url("/task"))
    router.ended(uuid)
    wait_until(lambda: any(call.path == "/task" for call in receiver.to(uuid)), "the first call")
    os.kill(told.pid_of("router"), signal.SIGKILL)
    receiver.always = {}
    told.start_again("router")
    wait_until(lambda: all(row["delivered_at"] for row in on_record(told, client, uuid)), "all on record", 60)
    mine = [call.delivery for call in receiver.to(uuid) if call.path == "/task"]
    assert len(mine) == 2
    assert len(set(mine)) == 1


def test_a_hanging_webhook_slows_neither_polls_nor_other_webhooks(
    told: Stack, receiver: Receiver, router: Wire, client: httpx.Client
) -> None:
    """Of many tasks, on a host of its own."""
    with receiving() as hanging:
        hanging.always = {"/hook": HANG}
        root = "s3://staging/nothing-here/"
        stuck = [
            router.post("/task/new", json={"readS3Path": root, "webhook": hanging.url("/hook")}).json()["uuid"]
            for _ in range(15)
        ]
        wait_until(lambda: len(hanging.calls) > 1, "calls that hang")
        began = time.monotonic()
        uuid = router.post("/task/new", json={"readS3Path": root, "webhook": receiver.url("/task")}).json()["uuid"]
        delivered(receiver, uuid, 2, within_s=8)
        for each in stuck:
            router.info(each)
        assert time.monotonic() - began < 8, "less than one of those that hang takes"
        assert on_record(told, client, stuck[0])[0]["delivered_at"] is None
        assert len(hanging.calls) <= 8


@pytest.mark.contract("7 private")
def test_private_addresses_are_not_called_unless_it_is_allowed(
    federation: Stack, receiver: Receiver, router_wire: Wire, node_wire: Wire, client: httpx.Client
) -> None:
    """A client may not have the router, or a node, ask something of its own network; the reason is on record."""
    uuid = router_wire.task("say hello", webhook=receiver.url("/task?key=sesame"))
    there = node_wire.task("say hello", webhook=receiver.url("/task?key=sesame"))
    for wire, each in ((router_wire, uuid), (node_wire, there)):
        wire.completed(each)
    refusals = wait_until(
        lambda: [row["error"] for row in on_record(federation, client, uuid) if row["error"]] or None, "a refusal"
    )
    assert "127.0.0.1, which is not a public address" in refusals[0]
    assert "SCALEODM_ROUTER_WEBHOOK_PRIVATE=on" in refusals[0]
    log = Path(federation.secrets_file).parent / "logs" / "node-1.log"
    wait_until(lambda: "SCALEODM_NODE_WEBHOOK_PRIVATE=on" in log.read_text(), "the node to say so in its log")
    assert "sesame" not in log.read_text()
    assert receiver.to(uuid) + receiver.to(there) == []


@pytest.mark.contract("7 both")
def test_a_node_tells_of_tasks_that_came_to_it_directly(data: Path, receiver: Receiver, direct: Wire) -> None:
    """The same call, with the node's own secret, and its delivery on record."""
    uuid = direct.task("say hello", webhook=receiver.url("/task"))
    info = direct.ended(uuid)
    assert delivered(receiver, uuid, 2) == ["/node?of=cluster", "/task"]
    for call in receiver.to(uuid):
        assert call.document == info | {"statusCode": 40, "images": [{"filename": "a.jpg"}, {"filename": "b.jpg"}]}
        assert receivers_check()(call.headers["X-ScaleODM-Signature"], call.body, NODE_SECRET)
    wait_until(lambda: all(each.delivered_ms for each in record(data, uuid).deliveries), "both to be on record")
    time.sleep(2.5)
    assert len(receiver.to(uuid)) == 2, "and not again"


@pytest.mark.timeout(120)
def test_i8_a_node_that_is_killed_between_end_and_delivery_delivers_in_its_next_life(
    told: Stack, data: Path, receiver: Receiver, direct: Wire
) -> None:
    """SIGKILL while the receiver is away; what is to be told stands in the task's record."""
    receiver.go()
    uuid = direct.task("say hello", webhook=receiver.url("/task"))
    direct.ended(uuid)
    os.kill(told.pid_of("node-1"), signal.SIGKILL)
    receiver.come()
    told.start_again("node-1")
    assert delivered(receiver, uuid, 2, within_s=50) == ["/node?of=cluster", "/task"]
    wait_until(lambda: all(each.delivered_ms for each in record(data, uuid).deliveries), "both to be on record")


def test_a_task_that_is_canceled_before_it_began_on_a_node_tells_nobody(receiver: Receiver, direct: Wire) -> None:
    """One that had begun does."""
    first = direct.task("sleep 60", webhook=receiver.url("/task"))
    direct.running(first)
    queued = direct.task("say never", webhook=receiver.url("/task"))
    wait_until(lambda: direct.code(queued) == 10, "the second task to wait for the only slot")
    assert direct.act("cancel", queued) == {"success": True}
    assert direct.act("cancel", first) == {"success": True}
    delivered(receiver, first, 2)
    assert {call.document["statusCode"] for call in receiver.to(first)} == {50}
    assert receiver.to(queued) == []


@pytest.mark.timeout(180)
def test_of_two_replicas_of_a_node_one_calls_and_the_other_goes_on_when_it_is_killed(
    told: Stack, cluster: StandInCluster, receiver: Receiver, client: httpx.Client, tmp_path: Path
) -> None:
    """The state of the delivery is in the Job's own record, so whoever leads next knows it."""
    settings = {"SCALEODM_NODE_WEBHOOK_PRIVATE": "on"}
    first = node_in(cluster, told.object_store, tmp_path / "first", settings, name="two-replicas").start()
    second = node_in(cluster, told.object_store, tmp_path / "second", settings, name="two-replicas").start()
    try:
        uuid = second.wire(client).task("say hello", webhook=receiver.url("/calm"))
        second.wire(client).ended(uuid, within_s=60)
        delivered(receiver, uuid, 1)
        time.sleep(2.5)
        assert len(receiver.to(uuid)) == 1, "two replicas, one call"
        receiver.go()
        waiting = second.wire(client).task("say hello", webhook=receiver.url("/later"))
        second.wire(client).ended(waiting, within_s=60)
        first.kill()
        receiver.come()
        delivered(receiver, waiting, 1, within_s=60)
        time.sleep(2.5)
        assert len(receiver.to(waiting)) == 1
        assert len(receiver.to(uuid)) == 1, "what was delivered stays so under the next leader"
    finally:
        first.stop()
        second.stop()
