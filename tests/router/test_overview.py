"""What a dashboard draws, on a real Postgres: samples, waits, ends, failures; and who used how much."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from common.embedded.object_store import ObjectStore
from common.tasks import State
from common.tokens import Kind, Limits
from router.browsing import TaskDesk, Wanted
from router.database import Database
from router.leadership import LeadershipLost
from router.lifecycle import Health
from router.nodes import Nodes
from router.overview import NOT_STARTED, Overviews, Span, grid, unread
from router.placement import NodeState
from router.retention import forget, forget_samples
from router.samples import Samples, figures
from router.snapshot import Known, SnapshotKeeper
from router.tenants import Tenants
from tests.common.nodeodm.test_messages import task
from tests.router.callers import ADMIN
from tests.router.replica import Replica, waiting

MOMENTS = st.integers(1_600_000_000, 2_200_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
NOW = datetime(2026, 5, 5, 12, 34, 56, tzinfo=UTC)
PAST = (
    "INSERT INTO tasks (uuid, tenant, token, name, created_ms, state, input, output, staged, options, outputs, "
    "skip_post_processing, images_count, input_bytes, attempt, begun, processing_ms, progress, console_lines, version, "
    "committed_at, ended_at) SELECT 'past-' || n, 'tenant-' || n % 3, 'token', 'Survey ' || n, 1, "
    "(ARRAY['completed', 'completed', 'failed', 'canceled'])[1 + n % 4], 's3://b/i/', 's3://b/o/', false, '[]', '[]', "
    "false, 10, 1, 1, true, 1, 100, 0, 1, now() - n * interval '1 minute', now() - n * interval '1 minute' "
    "FROM generate_series(1, :count) AS n"
)
RUNS = (
    "INSERT INTO attempts (task_uuid, number, node_id, state, delivered, why, reasons, next_line, queued_at, "
    "placed_at, began_at, ended_at, cause) SELECT uuid, 1, :node, state, true, '', '[]', 0, committed_at, "
    "committed_at + interval '1 second' * (length(uuid) - 5), committed_at, ended_at, "
    "CASE WHEN state = 'failed' THEN 'lost' END FROM tasks"
)


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> Replica:
    """A router's parts; it leads."""
    return await Replica(database, rclone).lead()


def samples_of(replica: Replica) -> Samples:
    """What looks."""
    nodes = Nodes(replica.database, replica.registry, replica.loop)
    return Samples(nodes, replica.snapshot, replica.loop.leadership)


def overviews_of(replica: Replica) -> Overviews:
    """What draws, without anything read yet."""
    return Overviews(replica.database, samples_of(replica))


async def sql(replica: Replica, statement: str, **values: object) -> Sequence[Any]:
    """Straight from Postgres."""
    async with replica.database.engine.begin() as connection:
        found = await connection.execute(text(statement), values)
        return found.all() if found.returns_rows else []


async def have_a_past(replica: Replica, count: int) -> None:
    """Tasks that ended one a minute, each after one attempt."""
    node = await replica.join("a")
    await sql(replica, PAST, count=count)
    await sql(replica, "UPDATE tasks SET ended_at = committed_at")
    await sql(replica, RUNS, node=node)


# Samples


def test_figures_count_what_could_be_used_and_what_is() -> None:
    """A locked node's slots are there, and not free."""
    plain = NodeState("a", "a", Health.HEALTHY, slots=4, placed=1, direct=1)
    states = [plain, replace(plain, id="b", locked=True), replace(plain, id="c", health=Health.LOST)]
    queue = [Known(task(), 1, NOW - timedelta(seconds=s)) for s in (5, 90)]
    found = figures(states, queue, 3, NOW)
    assert (found.nodes, found.usable_nodes, found.slots, found.used, found.free) == (3, 1, 12, 6, 2)
    assert (found.queued, found.running, found.longest_wait_s) == (2, 3, 90.0)
    assert figures([], [], 0, NOW).longest_wait_s == 0.0


async def test_the_leader_takes_one_sample_a_minute_and_others_none(replica: Replica, rclone: ObjectStore) -> None:
    """Two looks within a minute are one row; the pause ends in the next minute."""
    samples = samples_of(replica)
    await replica.join("a", slots=2)
    pauses = [await samples.take() for _ in range(2)]
    assert all(0 < pause <= 61 for pause in pauses)
    rows = await sql(replica, "SELECT at, slots, extract(second FROM at) AS second FROM samples")
    assert 1 <= len(rows) <= 2, "two where a minute ended in between"
    assert {(row.slots, int(row.second)) for row in rows} == {(2, 0)}
    await replica.loop.leadership.release()
    await Replica(replica.database, rclone).lead()
    await sql(replica, "DELETE FROM samples")
    with pytest.raises(LeadershipLost):
        await samples.take()
    assert await sql(replica, "SELECT 1 FROM samples") == []


async def test_a_month_of_samples_is_thinned_to_points_of_their_mean(replica: Replica) -> None:
    """No more than 300 of any span, every one of a whole step, the last one of now."""
    await sql(
        replica,
        "INSERT INTO samples SELECT date_trunc('minute', now()) - n * interval '1 minute', 3, 2, 40, 30 + n % 2, 9, "
        "n % 10, 30, n % 100 FROM generate_series(0, 31 * 1440) AS n",
    )
    for span, step_s in ((Span.HOUR, 60), (Span.DAY, 300), (Span.WEEK, 3600), (Span.MONTH, 10800)):
        found = await overviews_of(replica).span(span)
        assert 50 <= len(found["slots"]) == len(found["queue"]) <= 300
        assert found["stepS"] == step_s
        assert all(point["at"].timestamp() % step_s == 0 for point in found["slots"])
        assert found["until"] - found["slots"][-1]["at"] < timedelta(seconds=step_s + 60)
        middle = found["slots"][len(found["slots"]) // 2]
        assert (middle["slots"], middle["nodes"], middle["usableNodes"]) == (40, 3, 2)
        assert 30 <= middle["used"] <= 31
    assert max(point["longestWaitS"] for point in found["queue"]) == 99


async def test_old_samples_go(replica: Replica) -> None:
    """By their age."""
    await samples_of(replica).take()
    await sql(replica, "INSERT INTO samples SELECT now() - interval '9 days', 1, 1, 1, 1, 1, 1, 1, 1")
    async with replica.database.transaction() as session:
        assert await forget_samples(session, timedelta(days=8), 100) == 1
    assert await sql(replica, "SELECT 1 FROM samples WHERE at < now() - interval '1 day'") == []


# Bars


@given(span=st.sampled_from(Span), now=MOMENTS)
def test_bars_are_whole_ones_and_the_last_one_is_of_now(span: Span, now: datetime) -> None:
    """Without a gap; as many whatever the time of day."""
    divided = grid(span, now)
    bars = divided.bars()
    assert len(bars) == {Span.HOUR: 12, Span.DAY: 24, Span.WEEK: 28, Span.MONTH: 30}[span]
    assert bars[-1] <= now < bars[-1] + divided.bar
    assert {b - a for a, b in pairwise(bars)} == {divided.bar}
    assert all(at.timestamp() % divided.bar.total_seconds() == 0 for at in bars)


@given(known=st.sets(st.integers(0, 11)))
def test_reading_goes_on_where_a_bar_is_not_known_or_not_settled(known: set[int]) -> None:
    """The last two are always read again."""
    bars = grid(Span.HOUR, NOW).bars()
    begin = unread(bars, {bars[number] for number in known})
    number = bars.index(begin)
    assert number <= 10
    assert all(each in known for each in range(number))


async def test_ends_waits_and_failures_stand_in_the_bars_of_their_time(replica: Replica) -> None:
    """Counted once each; percentiles are of the waits from the queue to the slot."""
    await have_a_past(replica, 40)
    await replica.add(waiting("input", state=State.FAILED, error="no images"))
    found = await overviews_of(replica).span(Span.HOUR)
    total = {state: sum(bar[state] for bar in found["ended"]) for state in ("completed", "failed", "canceled")}
    assert total == {"completed": 20, "failed": 11, "canceled": 10}
    assert found["failures"] == {"lost": 10, NOT_STARTED: 1}
    assert sum(bar["causes"].get("lost", 0) for bar in found["failed"]) == 10
    assert sum(bar["started"] for bar in found["waits"]) == 40
    assert {bar["medianS"] for bar in found["waits"]} <= {1.0, 1.5, 2.0}
    assert all(bar["medianS"] <= bar["p90S"] <= 2.0 for bar in found["waits"])
    assert (found["now"]["slots"], found["now"]["running"]) == (1, 0)


async def test_the_overview_does_not_change_when_tasks_are_cleaned_up(replica: Replica) -> None:
    """After two days they go, and a month is still told; by a router that starts anew as well."""
    await have_a_past(replica, 40)
    await replica.add(waiting("input", state=State.FAILED, error="no images"))
    before = await overviews_of(replica).span(Span.DAY)
    async with replica.database.transaction() as session:
        await forget(session, ["input", *(f"past-{number}" for number in range(1, 41))])
    assert await sql(replica, "SELECT 1 FROM tasks") == []
    after = await overviews_of(replica).span(Span.DAY)
    for series in ("waits", "ended", "failed", "failures"):
        assert after[series] == before[series], series
    assert before["failures"] == {"lost": 10, NOT_STARTED: 1}


async def test_a_second_reading_takes_in_what_is_new_and_keeps_what_is_settled(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last two bars are read again."""
    monkeypatch.setattr("router.overview.SPAN_FOR_S", 0.0)
    await have_a_past(replica, 40)
    overviews = overviews_of(replica)
    before = await overviews.span(Span.HOUR)
    await sql(replica, "DELETE FROM tasks WHERE ended_at < now() - interval '30 minutes'")
    await replica.add(waiting("new", state=State.COMPLETED))
    after = await overviews.span(Span.HOUR)
    assert sum(bar["completed"] for bar in after["ended"]) == sum(bar["completed"] for bar in before["ended"]) + 1
    assert after["ended"][:5] == before["ended"][:5]


# Tenants


async def test_tenants_are_told_with_limits_what_they_hold_and_what_they_used(replica: Replica) -> None:
    """A token that has ended still tells what was used under its name; that of a node is none."""
    await replica.access.make(Kind.USER, "alice", "acme", ["s3://acme/"], Limits(running=2, weight=3.0), by=ADMIN)
    await replica.access.make(Kind.USER, "idle", "acme", [], by=ADMIN)
    await replica.access.make(Kind.NODE, "site", "acme", [], by=ADMIN)
    node = await replica.join("a", slots=1)
    await replica.hear(node)
    await replica.registry.flush()
    for uuid in ("first", "second"):
        await replica.add(waiting(uuid, tenant="acme", token="alice"))
    await replica.place()
    await sql(replica, PAST, count=6)
    await sql(replica, "UPDATE tasks SET ended_at = committed_at WHERE uuid LIKE 'past-%'")
    await sql(replica, RUNS + " WHERE uuid LIKE 'past-%'", node=node)
    await sql(replica, "UPDATE attempts SET began_at = ended_at - interval '30 minutes' WHERE ended_at IS NOT NULL")
    found = {each["tenant"]: each for each in await Tenants(replica.database, replica.snapshot).documents()}
    acme = found["acme"]
    assert [token["name"] for token in acme["tokens"]] == ["alice", "idle"]
    alice = acme["tokens"][0]
    assert (alice["queued"], alice["running"], alice["slots"]) == (1, 0, 1)
    assert (alice["limits"]["running"], alice["prefixes"], acme["weight"]) == (2, ["s3://acme/"], 3.0)
    one = found["tenant-1"]
    assert (one["tasks"], one["images"], one["processingHours"]) == (2, 20, 1.0)
    assert [(token["name"], token["limits"], token["tasks"]) for token in one["tokens"]] == [("token", None, 2)]
    async with replica.database.transaction() as session:
        await forget(session, [f"past-{number}" for number in range(1, 7)])
    again = {each["tenant"]: each for each in await Tenants(replica.database, replica.snapshot).documents()}
    assert again["tenant-1"] == one, "what is gone was used all the same"


# Many


@pytest.mark.timeout(120)
async def test_overview_and_search_are_quick_beside_twenty_thousand_tasks(replica: Replica) -> None:
    """Not figures, but bounds that only a wrong way of asking breaks, on a machine that is busy as well."""
    await have_a_past(replica, 20_000)
    await sql(replica, "ANALYZE")
    await SnapshotKeeper(replica.database, replica.snapshot, lambda: None, {}).load()
    desk, overviews = TaskDesk(replica.database, replica.snapshot, replica.loop), overviews_of(replica)

    async def quickest(ask: Any, tries: int = 5) -> float:
        took = []
        for _ in range(tries):
            began = time.perf_counter()
            await ask()
            took.append(time.perf_counter() - began)
        return min(took)

    for wanted in ("survey 19999", "survey", "nowhere", "past-77"):
        assert await quickest(lambda wanted=wanted: desk.page(Wanted(text=wanted))) < 0.5, wanted
    assert len((await desk.page(Wanted(text="PAST-1999")))["tasks"]) == 11
    assert len((await desk.page(Wanted(text="Survey")))["tasks"]) == 50
    assert await quickest(lambda: overviews._read(Span.MONTH)) < 1.0
