"""Who did what when, on a real Postgres: with the change or not at all, found again, and no secret in it."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.embedded.object_store import ObjectStore
from common.embedded.stack import Stack
from common.federation import Capacity
from common.nodeodm.options import Setting
from common.references import Reference
from common.tasks import State
from common.tokens import Caller, Kind, Limits
from router import queries
from router.database import Database
from router.events import (
    ROUTER,
    Action,
    ActionUnknown,
    Actor,
    EventLog,
    EventsWanted,
    Subject,
    actions_named,
    record,
)
from router.federated import FederatedTasks
from router.leadership import LeadershipLost
from router.lifecycle import Health, noted_health
from router.nodes import Nodes
from router.retention import forget_events
from router.tables import NodeRow
from router.timeline import Timelines
from tests.client import Wire
from tests.router.callers import ADMIN, USER
from tests.router.replica import Replica, waiting

LATE, LOST = timedelta(seconds=20), timedelta(minutes=11)
LONG = timedelta(hours=1)


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> AsyncIterator[Replica]:
    """A router's parts; it leads."""
    made = await Replica(database, rclone).lead()
    yield made
    await made.loop.close()


@pytest.fixture
def log(replica: Replica) -> EventLog:
    """What is on record there."""
    return EventLog(replica.database)


@pytest.fixture
def nodes(replica: Replica) -> Nodes:
    """What an administrator steers."""
    return Nodes(replica.database, replica.registry, replica.loop)


@pytest.fixture
def tasks(replica: Replica, rclone: ObjectStore) -> FederatedTasks:
    """What clients and administrators steer."""
    parts = (replica.registry, replica.loop, replica.access, rclone.storage(), Reference.parse("s3://staging/"))
    return FederatedTasks(replica.database, replica.snapshot, *parts)


async def told(log: EventLog, *prefixes: str, **wanted: Any) -> list[tuple[str, str]]:
    """Who and what, first to last."""
    page = await log.page(EventsWanted(actions_named(prefixes), **wanted))
    return [(each["actor"]["text"], each["text"]) for each in reversed(page["events"])]


async def be_silent(replica: Replica, node_id: str, ago: timedelta) -> None:
    """The node was last heard so long ago, and we have listened all the while."""
    async with replica.database.transaction() as session:
        row = await session.get(NodeRow, node_id)
        assert row is not None
        row.heard_at = await queries.clock(session) - ago
    replica.loop.listen_since(LONG.total_seconds())


# Nodes


async def test_what_an_administrator_does_with_a_node_is_on_record_once(
    replica: Replica, log: EventLog, nodes: Nodes
) -> None:
    """Who, what, to which one; what changes nothing is no event."""
    await replica.join("a")
    for draining in (True, True, False):
        await nodes.set_draining("a", draining, by=ADMIN)
    for locked in (True, True, False):
        await nodes.set_locked("a", locked, by=Caller(Kind.ADMIN, "ada@example.org", tailnet=True))
    await nodes.trust("a", by=ADMIN)
    await nodes.remove("a", False, by=ADMIN)
    assert await told(log, "node", subject="a") == [
        ("node a", "Node a joined: odm 1 at http://127.0.0.1:1, 1 slots."),
        ("admin ops", "Node a drains."),
        ("admin ops", "Node a drains no more."),
        ("tailnet ada@example.org", "Node a is locked."),
        ("tailnet ada@example.org", "Node a is unlocked."),
        ("admin ops", "Node a is removed."),
    ]


async def test_a_node_that_joins_again_is_an_event_only_where_it_comes_otherwise(
    replica: Replica, log: EventLog, nodes: Nodes
) -> None:
    """One that starts anew all the time must not fill the record."""
    for slots in (1, 1, 4):
        await replica.join("a", capacity=Capacity(slots=slots))
    await nodes.remove("a", False, by=ADMIN)
    await replica.join("a", capacity=Capacity(slots=4))
    assert [text for _, text in await told(log, "node.joined")] == [
        "Node a joined: odm 1 at http://127.0.0.1:1, 1 slots.",
        "Node a joined again: slots 4 (was 1).",
        "Node a joined: odm 1 at http://127.0.0.1:1, 4 slots.",
    ]


async def test_a_node_that_falls_silent_is_late_then_lost_then_back_each_told_once(
    replica: Replica, log: EventLog
) -> None:
    """Also when another replica comes to lead in between: what was told stands with the node."""
    silent, _ = await replica.join("silent"), await replica.join("heard")
    for ago in (LATE, LATE, LOST, LOST):
        await be_silent(replica, silent, ago)
        await replica.watch()
    async with replica.database.transaction() as session:
        standing = (await queries.standings(session))[silent]
    assert standing.health == Health.LOST
    assert standing.health_since is not None
    await be_silent(replica, silent, timedelta(0))
    await replica.watch()
    await replica.watch()
    assert await told(log, "node", subject="silent") == [
        ("node silent", "Node silent joined: odm 1 at http://127.0.0.1:1, 1 slots."),
        ("router", "Node silent was not heard for 20 s, and gets no new work."),
        ("router", "Node silent was not heard for 660 s: what it had begins anew elsewhere."),
        ("router", "Node silent is heard again."),
    ]


async def test_i11_a_router_that_is_deaf_itself_says_nothing_of_nodes(replica: Replica, log: EventLog) -> None:
    """Nor one that has only begun to listen."""
    found = [await replica.join(name) for name in ("a", "b")]
    for node_id in found:
        await be_silent(replica, node_id, LOST)
    await replica.watch()
    await be_silent(replica, found[0], timedelta(0))
    replica.loop.listen_since(1.0)
    await replica.watch()
    assert await told(log, "node.late", "node.lost", "node.back") == []


@pytest.mark.parametrize(
    ("before", "silence", "listened", "after"),
    [
        (Health.HEALTHY, LATE, LONG, Health.LATE),
        (Health.HEALTHY, LOST, LONG, Health.LOST),
        (Health.HEALTHY, LOST, LATE, Health.LATE),
        (Health.HEALTHY, LOST, timedelta(0), Health.HEALTHY),
        (Health.LATE, LOST, timedelta(0), Health.LATE),
        (Health.LOST, LATE, LONG, Health.LOST),
        (Health.LOST, timedelta(0), timedelta(0), Health.HEALTHY),
    ],
)
def test_health_on_record_is_worse_only_by_silence_that_was_heard(
    before: Health, silence: timedelta, listened: timedelta, after: Health
) -> None:
    """And better only by a heartbeat."""
    assert noted_health(before, silence, listened) is after


async def test_a_quarantine_and_its_end_are_events_of_the_router(replica: Replica, log: EventLog, nodes: Nodes) -> None:
    """Unless somebody ends it."""
    node_id = await replica.join("bad")
    row = replica.registry.node(node_id)
    assert row is not None
    await replica.loop._set_quarantine(row, 1, timedelta(minutes=5))
    await nodes.trust("bad", by=ADMIN)
    assert await told(log, "node.quarantined", "node.trusted") == [
        ("router", "Node bad fails everything at once: it gets no work for 0:05:00."),
        ("admin ops", "Node bad is trusted again."),
    ]


async def test_who_leads_is_on_record_and_renewing_is_not(replica: Replica, log: EventLog, rclone: ObjectStore) -> None:
    """One event each time another comes to lead."""
    await replica.loop.leadership.contend()
    await replica.loop.leadership.release()
    other = await Replica(replica.database, rclone).lead()
    names = [each.loop.leadership.identity for each in (replica, other)]
    assert await told(log, "router") == [("router", f"Replica {name} leads now.") for name in names]


async def test_a_stale_leader_writes_no_event(replica: Replica, log: EventLog, rclone: ObjectStore) -> None:
    """As it changes nothing else."""
    node_id = await replica.join("a")
    row = replica.registry.node(node_id)
    assert row is not None
    await replica.loop.leadership.release()
    await Replica(replica.database, rclone).lead()
    with pytest.raises(LeadershipLost):
        await replica.loop._set_quarantine(row, 1, timedelta(minutes=5))
    assert await told(log, "node.quarantined") == []


# Tokens


async def test_tokens_are_made_made_anew_and_ended_on_record_without_what_opens(
    replica: Replica, log: EventLog
) -> None:
    """I9: neither the token nor its hash."""
    made = [await replica.access.make(Kind.USER, "alice", "acme", ["s3://acme/"], Limits(running=2), by=ADMIN)]
    made.append(await replica.access.make(Kind.USER, "alice", "acme", [], by=ADMIN))
    assert await replica.access.revoke("alice", by=ADMIN)
    assert not await replica.access.revoke("alice", by=ADMIN)
    page = await log.page(EventsWanted(actions_named(["token"])))
    assert [(each["action"], each["actor"]["text"], each["subject"]["name"]) for each in page["events"][::-1]] == [
        ("token.created", "admin ops", "alice"),
        ("token.changed", "admin ops", "alice"),
        ("token.revoked", "admin ops", "alice"),
    ]
    assert page["events"][2]["details"]["limits"]["running"] == 2
    async with replica.database.transaction() as session:
        hashes = [row.hash for row in await queries.token_rows(session)]
    assert not [secret for secret in (*made, *hashes) if secret in str(page)]


# Tasks


async def test_people_cancel_restart_prefer_and_remove_on_record(
    replica: Replica, log: EventLog, tasks: FederatedTasks
) -> None:
    """A second cancel is none; the event outlives the task."""
    await replica.add(waiting("u", name="Field 7", tenant="acme"))
    for _ in range(2):
        await tasks.cancel(USER, "u")
    await tasks.restart(ADMIN, "u", (Setting("dsm", value=True),))
    await tasks.remove(USER, "u")
    assert await told(log, subject="u") == [
        ("user alice", "Task Field 7 was canceled."),
        ("admin ops", "Task Field 7 was restarted."),
        ("user alice", "Task Field 7 was removed."),
    ]
    (first, *_) = (await log.page(EventsWanted(subject="u")))["events"][::-1]
    assert first["actor"]["tenant"] == "acme"
    assert first["details"] == {"before": "staging"}


async def test_a_cancel_that_does_not_happen_leaves_no_event(log: EventLog, replica: Replica) -> None:
    """One transaction holds both, or neither."""

    async def half_done() -> None:
        async with replica.database.transaction() as session:
            record(session, ROUTER, Action.TASK_CANCELED, Subject("task", "u", "u"), "Task u was canceled.")
            await session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await half_done()
    assert await told(log, "task") == []


async def test_the_run_of_a_split_task_ends_its_parts_without_events(
    log: EventLog, replica: Replica, tasks: FederatedTasks
) -> None:
    """Nobody did it."""
    family = "parent 1 node"
    await replica.add(waiting("part", family=family))
    await tasks.cancel(Caller(Kind.PART, "alice", "acme", family=family), "part")
    assert (await replica.read("part")).state is State.CANCELED
    assert await told(log, "task") == []


async def test_a_name_of_ten_thousand_characters_and_an_odd_one_are_told_short_and_as_they_are(
    log: EventLog, replica: Replica, tasks: FederatedTasks
) -> None:
    """The sentence ends; nothing in it is a pattern or a tag to anybody here."""
    await replica.add(waiting("long", name="x" * 10_000, tenant="acme"))
    await replica.add(waiting("odd", name="<b>50 %</b>", tenant="acme"))
    for uuid in ("long", "odd"):
        await tasks.cancel(USER, uuid)
    (_, long), (_, odd) = await told(log, "task")
    assert len(long) < 200
    assert odd == "Task <b>50 %</b> was canceled."
    assert await told(log, text="5% %") == [] != await told(log, text="50 %")


# Looking through them


async def test_every_event_is_on_one_page_exactly_and_the_newest_first(log: EventLog, replica: Replica) -> None:
    """Seven in pages of three."""
    async with replica.database.transaction() as session:
        for number in range(7):
            record(session, ROUTER, Action.NODE_BACK, Subject("node", str(number), "n"), f"{number}")
    seen, after, sizes = [], None, []
    while True:
        page = await log.page(EventsWanted(frozenset({Action.NODE_BACK}), limit=3, after=after))
        seen += [each["text"] for each in page["events"]]
        sizes.append(len(page["events"]))
        after = page["next"]
        if after is None:
            break
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    assert sizes == [3, 3, 1]


async def test_events_are_found_by_actor_subject_action_and_text(log: EventLog, replica: Replica) -> None:
    """Alone and together."""
    async with replica.database.transaction() as session:
        for by, action, name in (
            (Actor.of(ADMIN), Action.NODE_LOCKED, "alpha"),
            (Actor.of(USER), Action.TASK_CANCELED, "beta"),
            (Actor.node("alpha"), Action.NODE_JOINED, "alpha"),
        ):
            record(session, by, action, Subject("any", f"id-{name}", name), f"{name} {action}")
    assert [text for _, text in await told(log, actor="ops")] == ["alpha node.locked"]
    assert [text for _, text in await told(log, "node", actor="node")] == ["alpha node.joined"]
    assert [text for _, text in await told(log, "node.l", "task", subject="alpha")] == ["alpha node.locked"]
    assert len(await told(log, subject="id-alpha")) == 2
    assert [text for _, text in await told(log, text="BETA")] == ["beta task.canceled"]


def test_an_action_that_there_is_not_is_told_with_those_that_are() -> None:
    """Not an empty page, which would look like peace."""
    with pytest.raises(ActionUnknown, match=r"'nodes'; expected the beginning of one of task\.canceled"):
        actions_named(["nodes"])


async def test_sign_ins_are_on_record_refused_ones_too(log: EventLog) -> None:
    """From where; never with what."""
    await log.signed_in(ADMIN, "127.0.0.1")
    await log.refused("127.0.0.1", "an unknown token")
    assert await told(log, "admin") == [
        ("admin ops", "admin ops signed in to the dashboard from 127.0.0.1."),
        ("nobody", "A sign-in to the dashboard from 127.0.0.1 was refused: an unknown token"),
    ]


async def test_old_events_go_so_many_at_once_and_young_ones_stay(log: EventLog, replica: Replica) -> None:
    """By the clock of Postgres."""
    async with replica.database.transaction() as session:
        for number in range(5):
            record(session, ROUTER, Action.NODE_BACK, Subject("node", "n", "n"), f"{number}")
    async with replica.database.transaction() as session:
        assert await forget_events(session, timedelta(days=1), 3) == 0
    async with replica.database.transaction() as session:
        assert await forget_events(session, timedelta(0), 3) == 3
    assert len(await told(log)) == 3, "there were five, and one of who leads"


# A task's timeline


async def test_a_timeline_has_every_moment_in_order(replica: Replica, tasks: FederatedTasks) -> None:
    """Placed, begun, failed, tried again, canceled by somebody, restarted."""
    for name in ("a", "b"):
        await replica.hear(await replica.join(name))
    await replica.registry.flush()
    await replica.add(waiting("u", name="Field 7"))
    await replica.place()
    node = replica.registry.node(await _node_of(replica, 1))
    assert node is not None
    await replica.report(node.id, processing_ms=5)
    await replica.report(node.id, state="failed", error="the disk is full", cause="infrastructure")
    await replica.place()
    await tasks.cancel(ADMIN, "u")
    found = (await Timelines(replica.database).document("u"))["moments"]
    assert [(each["kind"], each["attempt"]) for each in found] == [
        ("submitted", None),
        ("committed", None),
        ("placed", 1),
        ("began", 1),
        ("ended", 1),
        ("placed", 2),
        ("event", None),
        ("ended", 2),
        ("ended", None),
    ]
    failed, canceled, over = found[4], found[6], found[8]
    assert (failed["cause"], failed["error"], failed["node"]) == ("infrastructure", "the disk is full", node.name)
    assert failed["text"] == f"Attempt 1 on node {node.name} failed"
    assert failed["seconds"] == round((failed["at"] - found[3]["at"]).total_seconds(), 3)
    assert (canceled["actor"], canceled["action"]) == ("admin ops", "task.canceled")
    assert over["text"] == "The task was canceled"
    await tasks.restart(ADMIN, "u", None)
    again = (await Timelines(replica.database).document("u"))["moments"]
    assert [each["kind"] for each in again if each["attempt"] is None] == [
        "submitted",
        "committed",
        "event",
        "event",
        "committed",
    ]


async def _node_of(replica: Replica, number: int) -> str:
    async with replica.database.transaction() as session:
        attempt = await queries.attempt_row(session, "u", number)
    assert attempt is not None
    return attempt.node_id


# Over HTTP


def test_over_http_only_an_administrator_reads_events_tenants_overview_and_timelines(
    federation: Stack, http: httpx.Client, router_wire: Wire
) -> None:
    """I12: a user's own token opens none of them, not even for its own task."""
    uuid = router_wire.task()
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    for path in ("events", "tenants", "overview", f"tasks/{uuid}/timeline"):
        address = f"{federation.router_url}/admin/{path}"
        assert http.get(address).status_code == 401
        for token in (federation.user_token, federation.node_token):
            assert http.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 403
        assert http.get(address, headers=admin).status_code == 200, path


def test_over_http_what_was_done_is_told_with_who_did_it(
    federation: Stack, http: httpx.Client, router_wire: Wire
) -> None:
    """Cancel by a user, a token by an administrator; nonsense is told from it."""
    uuid = router_wire.task()
    router_wire.act("cancel", uuid)
    address = f"{federation.router_url}/admin"
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    order = {"kind": "user", "name": "told", "tenant": "elsewhere"}
    token = http.post(f"{address}/tokens", json=order, headers=admin).json()["token"]

    def found(**query: str) -> list[dict[str, Any]]:
        answer = http.get(f"{address}/events", params=query, headers=admin)
        assert answer.status_code == 200, answer.text
        events: list[dict[str, Any]] = answer.json()["events"]
        assert token not in answer.text
        return events

    assert [(each["action"], each["actor"]["text"]) for each in found(subject=uuid)] == [
        ("task.canceled", "user first user")
    ]
    assert found(subject="told", action="token")[0]["actor"]["text"] == "admin first admin"
    for query, status in (({"action": "x"}, 400), ({"after": "x"}, 422), ({"limit": "0"}, 422), ({"q": "\x00"}, 200)):
        assert http.get(f"{address}/events", params=query, headers=admin).status_code == status
    assert http.get(f"{address}/overview", params={"span": "2d"}, headers=admin).status_code == 422
    assert http.get(f"{address}/tasks/nobody/timeline", headers=admin).status_code == 404
    moments = http.get(f"{address}/tasks/{uuid}/timeline", headers=admin).json()["moments"]
    assert {each["kind"] for each in moments} >= {"submitted", "committed", "ended", "event"}


def test_every_action_is_told_in_the_document() -> None:
    """And no other."""
    document = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    assert re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", document, re.MULTILINE) == list(Action)
