"""What a node keeps of its webhooks, and what it does next with them."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.courier import Courier
from common.embedded.object_store import ObjectStore
from common.nodeodm.routes import now_ms
from common.nodeodm.surface import Submission
from common.references import Reference
from common.settings import SettingsUnusable, read_settings
from common.storage import Storage
from common.tasks import State
from common.tokens import Caller, Kind
from common.webhooks import USUAL, Outcome, Schedule
from node.deliveries import MOST_EARLIER, Delivery, after_call, claimed, deliveries_of, with_run
from node.engines import EngineInUse
from node.engines.orthomosaic import ORTHOMOSAIC
from node.lifecycle import is_overdue
from node.local_tasks import Limits, LocalTasks
from node.records import Record, Records, record_document, record_of
from node.settings import NodeSettings
from node.webhooks import NodeWebhooks, due, with_delivery
from tests.common.nodeodm.test_messages import task
from tests.node.test_local_tasks import SlowBackend
from tests.receiver import HANG, Receiver, receiving
from tests.waiting import until

USER = Caller(Kind.USER, "direct", tenant="t")
ENDED = task(state=State.COMPLETED, webhook="http://h/task", attempt=1, begun=True, progress=100.0)
RECORD = Record(ENDED, deliveries=deliveries_of(ENDED, "http://h/node", now_ms=1000))
SOON = Schedule(most_tries=3, first_wait_s=0.05, longest_wait_s=0.1)


@pytest.mark.contract("7 both")
def test_the_end_of_a_run_is_told_to_the_tasks_webhook_and_to_the_nodes() -> None:
    """Where they are set, and no shorter than NodeODM takes them."""
    assert [each.to for each in RECORD.deliveries] == ["task", "node"]
    assert deliveries_of(replace(ENDED, webhook="abc"), None, 0) == ()
    assert [each.to for each in deliveries_of(replace(ENDED, webhook=None), "http://h/", 0)] == ["node"]


def test_canceled_before_it_began_tells_nobody() -> None:
    """Canceled afterwards does (contract 7)."""
    canceled = replace(ENDED, state=State.CANCELED, begun=False)
    assert deliveries_of(canceled, "http://h/node", 0) == ()
    assert len(deliveries_of(replace(canceled, begun=True), "http://h/node", 0)) == 2


def test_what_is_due_comes_in_order_and_once_it_is_time() -> None:
    """Neither what is delivered nor what is given up."""
    first, second = RECORD.deliveries
    later = replace(RECORD, deliveries=(replace(first, due_ms=3000), replace(second, due_ms=2000)))
    assert due([later], 1999) == []
    assert [each.to for _, each in due([later], 2000)] == ["node"]
    assert [each.to for _, each in due([later], 3000)] == ["node", "task"]
    done = replace(RECORD, deliveries=(replace(first, delivered_ms=1), replace(second, given_up_ms=1)))
    assert due([done], 9999) == []


@given(st.lists(st.booleans(), max_size=40))
def test_a_delivery_is_pending_until_it_is_answered_or_given_up(answers: list[bool]) -> None:
    """Its tries only grow, its time only comes later, and it never ends twice."""
    delivery = RECORD.deliveries[0]
    now = 1000
    for is_answered in answers:
        if not delivery.is_pending:
            break
        tried = claimed(delivery, now, claim_s=20)
        assert tried.due_ms == now + 20_000
        now += 10
        after = after_call(tried, Outcome(None if is_answered else "no"), USUAL, now)
        assert after.tries == delivery.tries + 1
        assert after.is_pending == (not is_answered and after.tries < USUAL.most_tries)
        assert not after.is_pending or after.due_ms == now + int(USUAL.wait_s(after.tries) * 1000)
        assert (after.delivered_ms is not None) == is_answered
        delivery = after


def test_what_is_hopeless_is_given_up_at_once() -> None:
    """With the reason."""
    after = after_call(claimed(RECORD.deliveries[0], 0, 20), Outcome("no URL", hopeless=True), USUAL, 5)
    assert (after.given_up_ms, after.problem) == (5, "no URL")


def test_a_delivery_that_somebody_else_changed_is_left_alone() -> None:
    """Another replica has claimed it."""
    first = RECORD.deliveries[0]
    elsewhere = replace(RECORD, deliveries=(claimed(first, 5, 20), RECORD.deliveries[1]))
    assert with_delivery(elsewhere, first, replace(first, delivered_ms=1)) is None
    changed = with_delivery(RECORD, first, replace(first, delivered_ms=1))
    assert changed is not None
    assert [each.delivered_ms for each in changed.deliveries] == [1, None]


def test_an_earlier_run_is_told_as_it_ended() -> None:
    """Whatever became of the task since."""
    failed = replace(ENDED, state=State.FAILED, error="no luck", created_ms=7, images_count=3)
    (delivery,) = deliveries_of(failed, None, 0)
    now = replace(ENDED, state=State.RUNNING, attempt=2, error=None, created_ms=9)
    assert delivery.told(now) == failed


def test_what_was_not_delivered_stays_beside_the_next_run_and_what_was_does_not() -> None:
    """Not for ever, of a task that is restarted again and again."""
    first, second = RECORD.deliveries
    kept = with_run((replace(first, delivered_ms=1), replace(second, given_up_ms=1)), RECORD.deliveries)
    assert kept == (replace(second, given_up_ms=1), *RECORD.deliveries)
    many: tuple[Delivery, ...] = ()
    for _ in range(50):
        many = with_run(many, RECORD.deliveries)
    assert len(many) == MOST_EARLIER + 2


def test_a_record_is_read_back_with_its_deliveries_and_one_of_an_earlier_release_without() -> None:
    """JSON and back."""
    assert record_of(record_document(RECORD)) == RECORD
    old = record_document(RECORD)
    del old["deliveries"]
    assert record_of(old) == replace(RECORD, deliveries=())


def test_a_task_with_something_to_tell_is_not_forgotten_by_age() -> None:
    """Until it is told, or given up."""
    old = replace(RECORD, ended_ms=0)
    assert not is_overdue(old, keep_for_s=1, now_ms=10**9)
    told = tuple(replace(each, delivered_ms=1) for each in old.deliveries)
    assert is_overdue(replace(old, deliveries=told), keep_for_s=1, now_ms=10**9)


class OneNode:
    """A node's tasks and webhooks without a web server, over real files and real S3."""

    def __init__(self, folder: Path, storage: Storage, node_url: str | None = None) -> None:
        self.backend = SlowBackend(folder)
        self.backend.may_forget.set()
        self.folder = folder
        staging = Reference.parse("s3://staging/")
        self.tasks = LocalTasks(
            self.backend, storage, staging, EngineInUse(ORTHOMOSAIC), Limits(1, max_images=None), node_url
        )
        courier = Courier(storage, None, True, "PRIVATE", answer_within_s=1)
        self.webhooks = NodeWebhooks(self.tasks, courier, node_url, SOON)

    async def failed(self, url: str) -> str:
        """A task that has failed because its input is not there; gives its uuid."""
        uuid = await self.tasks.submit(
            USER, None, Submission("n", 1, read="s3://staging/not-there/", write="s3://staging/out/", webhook=url)
        )
        looking = asyncio.create_task(self.tasks.run())
        await until(lambda: self.record(uuid).task.state is State.FAILED, "the task to fail")
        await ended(looking)
        return uuid

    def record(self, uuid: str) -> Record:
        """The record as it is on disk."""
        return next(record for record in Records(self.folder).all() if record.task.uuid == uuid)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that is there."""
    with receiving() as found:
        yield found


async def ended(running: "asyncio.Task[None]") -> None:
    """End it, for certain: `wait_for` of Python 3.11 may swallow a cancel that comes together with what it awaits."""
    while not running.done():
        running.cancel()
        await asyncio.sleep(0.01)


async def rounds(node: OneNode, look: Callable[[], bool], description: str) -> None:
    """Let its webhooks run until there is something to see."""
    running = asyncio.create_task(node.webhooks.run())
    await until(look, description)
    await ended(running)


@pytest.mark.parametrize("url", ["ftp://h/x", "h/x", "http://"])
def test_a_setting_that_is_no_web_address_is_told_of_without_its_value(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a secret."""
    monkeypatch.setenv("SCALEODM_NODE_AUTH", "off")
    monkeypatch.setenv("SCALEODM_NODE_WEBHOOK", f"{url}?sesame")
    with pytest.raises(SettingsUnusable, match=r"SCALEODM_NODE_WEBHOOK: .*expected http") as told:
        read_settings(NodeSettings)
    assert "sesame" not in str(told.value)


async def test_a_webhook_is_given_up_on_record(rclone: ObjectStore, tmp_path: Path, receiver: Receiver) -> None:
    """With its tries, and what was wrong."""
    node = OneNode(tmp_path, rclone.storage())
    uuid = await node.failed(receiver.url())
    receiver.answers = [500, 500, 503, 200]
    await rounds(node, lambda: node.record(uuid).deliveries[0].given_up_ms is not None, "it to be given up")
    (delivery,) = node.record(uuid).deliveries
    assert (delivery.tries, delivery.problem) == (3, "it answered 503; expected 200")
    assert len({call.delivery for call in receiver.calls}) == 1, "one delivery, three tries"
    assert node.tasks.untold() == []
    await node.webhooks.close()


async def test_one_that_hangs_is_called_once_at_a_time(rclone: ObjectStore, tmp_path: Path, receiver: Receiver) -> None:
    """However often the node looks meanwhile; and the other one does not wait for it."""
    node = OneNode(tmp_path, rclone.storage(), receiver.url("/node"))
    receiver.always = {"/task": HANG}
    uuid = await node.failed(receiver.url("/task"))
    for _ in range(20):
        node.webhooks.look()
        await asyncio.sleep(0.02)
    assert sorted(call.path for call in receiver.calls) == ["/node", "/task"]
    hanging, answered = node.record(uuid).deliveries
    assert answered.delivered_ms is not None
    assert hanging.tries == 1, "the try is on record before it is answered"
    assert hanging.due_ms > now_ms() + 1000, "and keeps whoever leads next from making it too"
    await node.webhooks.close()


async def test_an_earlier_runs_end_is_told_though_the_task_was_restarted(
    rclone: ObjectStore, tmp_path: Path, receiver: Receiver
) -> None:
    """Both ends, under different names."""
    node = OneNode(tmp_path, rclone.storage())
    uuid = await node.failed(receiver.url())
    await node.tasks.restart(USER, uuid, None)
    looking = asyncio.create_task(node.tasks.run())
    await until(lambda: node.record(uuid).task.state is State.FAILED, "the task to fail again")
    await rounds(node, lambda: not node.tasks.untold(), "all to be told")
    assert [call.document["statusCode"] for call in receiver.calls] == [30, 30]
    assert {call.delivery for call in receiver.calls} == {f"{uuid}-1-task", f"{uuid}-2-task"}
    await ended(looking)
    await node.webhooks.close()


async def test_a_task_that_is_removed_before_it_was_told_of_is_told_of(
    rclone: ObjectStore, tmp_path: Path, receiver: Receiver
) -> None:
    """Also where that takes several tries."""
    node = OneNode(tmp_path, rclone.storage())
    uuid = await node.failed(receiver.url())
    await node.tasks.remove(USER, uuid)
    receiver.answers = [500]
    await rounds(node, lambda: len(receiver.calls) == 2, "two tries")
    assert {call.document["uuid"] for call in receiver.calls} == {uuid}
    assert list(Records(tmp_path).all()) == []
    await node.webhooks.close()


async def test_what_was_put_off_is_called_by_the_nodes_next_life(
    rclone: ObjectStore, tmp_path: Path, receiver: Receiver
) -> None:
    """From the record alone."""
    first = OneNode(tmp_path, rclone.storage())
    receiver.answers = [500]
    uuid = await first.failed(receiver.url())
    first.webhooks.look()
    await until(lambda: first.record(uuid).deliveries[0].problem is not None, "a first try")
    await first.webhooks.close()
    second = OneNode(tmp_path, rclone.storage())
    await second.tasks.load()
    await rounds(second, lambda: second.record(uuid).deliveries[0].delivered_ms is not None, "it to be delivered")
    assert [call.delivery for call in receiver.calls] == [f"{uuid}-1-task"] * 2
    await second.webhooks.close()


async def test_a_node_without_its_webhook_gives_up_what_was_for_it(
    rclone: ObjectStore, tmp_path: Path, receiver: Receiver
) -> None:
    """Somebody took the setting away."""
    first = OneNode(tmp_path, rclone.storage(), receiver.url("/node"))
    uuid = await first.failed("no")
    second = OneNode(tmp_path, rclone.storage())
    await second.tasks.load()
    await rounds(second, lambda: not second.tasks.untold(), "it to be given up")
    assert "no webhook any more" in str(second.record(uuid).deliveries[0].problem)
    assert receiver.calls == []
    for node in (first, second):
        await node.webhooks.close()


async def test_a_replica_that_does_not_lead_calls_nothing(
    rclone: ObjectStore, tmp_path: Path, receiver: Receiver
) -> None:
    """It has the same records."""
    node = OneNode(tmp_path, rclone.storage())
    await node.failed(receiver.url())
    node.backend.is_leading = False
    node.webhooks.look()
    await asyncio.sleep(0.2)
    assert receiver.calls == []
    node.backend.is_leading = True
    await rounds(node, lambda: len(receiver.calls) == 1, "a call")
    await node.webhooks.close()
