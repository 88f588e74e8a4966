"""Cleaning up on a router: what is over goes with all it left, what is not over stays, whatever dies in between."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore, storage_at
from common.leftovers import are_older
from common.nodeodm.options import Setting
from common.references import Reference, staged_images, staged_root
from common.storage import Storage, StorageUnreachable
from common.tasks import ENDED, State
from router import queries
from router.ages import Aged, Ages, is_over
from router.database import Database
from router.estimates import options_class
from router.history import History
from router.housekeeping import Housekeeping
from router.leadership import LeadershipLost
from router.tables import WebhookRow
from tests.router.replica import Replica, waiting

DAY = timedelta(days=1)
NOWHERE = Reference("staging", "nowhere/")
USUAL = Ages(tasks=2 * DAY, uploads=2 * DAY, history=90 * DAY, webhooks=30 * DAY)


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> Replica:
    """One router, which leads."""
    return await Replica(database, rclone).lead()


@pytest.fixture
def store(rclone: ObjectStore) -> Storage:
    """S3, where it does not matter which."""
    return rclone.storage()


@pytest.fixture
def staging(bucket: Reference) -> Reference:
    """The staging area of this test alone."""
    return bucket / "staging/"


def keeper(
    replica: Replica,
    storage: Storage,
    staging: Reference,
    ages: Ages = USUAL,
    told: list[tuple[str, int]] | None = None,
) -> Housekeeping:
    """What cleans up for this router; `told` hears which attempts nodes are to let go of."""
    heard = [] if told is None else told
    return Housekeeping(
        replica.database,
        replica.snapshot,
        replica.loop.leadership,
        storage,
        staging,
        ages,
        lambda uuid, attempt: heard.append((uuid, attempt)),
    )


async def sql(replica: Replica, statement: str, **values: object) -> list[Any]:
    """One statement, committed; gives its rows where it has some."""
    async with replica.database.engine.begin() as connection:
        found = await connection.execute(text(statement), values)
        return [tuple(row) for row in found.all()] if found.returns_rows else []


async def uuids(replica: Replica) -> set[str]:
    """Of every task and upload on record."""
    return {uuid for (uuid,) in await sql(replica, "SELECT uuid FROM tasks")}


async def ended(
    replica: Replica, ago: timedelta, state: State = State.COMPLETED, uuid: str | None = None, **changes: object
) -> str:
    """A task that ended so long ago."""
    uuid = uuid or str(uuid4())
    await replica.add(waiting(uuid, state=state, **changes))
    await sql(
        replica, "UPDATE tasks SET ended_at = now() - CAST(:ago AS interval) WHERE uuid = :uuid", ago=ago, uuid=uuid
    )
    return uuid


async def opened(replica: Replica, ago: timedelta, file_ago: timedelta | None = None) -> str:
    """An upload that was opened so long ago, and to which a file came then."""
    uuid = str(uuid4())
    await replica.add(waiting(uuid, state=State.UPLOADING, staged=True))
    await sql(
        replica, "UPDATE tasks SET opened_at = now() - CAST(:ago AS interval) WHERE uuid = :uuid", ago=ago, uuid=uuid
    )
    if file_ago is not None:
        await sql(
            replica,
            "INSERT INTO staged_files (task_uuid, name, taken_at) "
            "VALUES (:uuid, 'a.jpg', now() - CAST(:ago AS interval))",
            uuid=uuid,
            ago=file_ago,
        )
    return uuid


def stage(storage: Storage, staging: Reference, uuid: str) -> Reference:
    """Files of an upload, one of them still under way in parts; gives where they lie."""
    storage.write(staged_images(staging, uuid) / "a.jpg", b"a")
    storage.write(staged_root(staging, uuid) / "output/all.zip", b"zip")
    writer = storage.stream_to(staged_images(staging, uuid) / "broken.jpg")
    writer.write(bytes(9 * 2**20))
    return staged_root(staging, uuid)


def left(storage: Storage, prefix: Reference) -> tuple[list[str], int]:
    """What lies below a prefix: names, and how many uploads in parts are under way."""
    names = [each.reference.key.removeprefix(prefix.key) for each in storage.listing(prefix)]
    return sorted(names), len(list(storage.unfinished(prefix)))


# Which task goes


@pytest.mark.contract("7.1 old tasks")
async def test_an_ended_task_goes_when_its_age_is_over_and_a_younger_one_stays(
    replica: Replica, store: Storage
) -> None:
    """From Postgres and from memory, with its attempts and its console."""
    old, young = await ended(replica, 3 * DAY), await ended(replica, DAY)
    node_id = await replica.join("a")
    await sql(
        replica,
        "INSERT INTO attempts (task_uuid, number, node_id, state, delivered, why, reasons, next_line, ended_at) "
        "VALUES (:uuid, 1, :node, 'completed', true, '', '[]', 1, now())",
        uuid=old,
        node=node_id,
    )
    await sql(replica, "INSERT INTO console VALUES (:uuid, 1, 0, '[\"a line\"]')", uuid=old)
    await keeper(replica, store, NOWHERE).turn()
    assert await uuids(replica) == {young}
    assert replica.snapshot.get(old) is None
    assert replica.snapshot.get(young) is not None
    assert await sql(replica, "SELECT 1 FROM attempts UNION ALL SELECT 1 FROM console") == []


async def test_i1_nothing_goes_where_the_age_is_0(replica: Replica, store: Storage) -> None:
    """0 is never."""
    kept = {await ended(replica, 1000 * DAY), await opened(replica, 1000 * DAY)}
    await keeper(replica, store, NOWHERE, Ages()).turn()
    assert await uuids(replica) == kept


@pytest.mark.parametrize("state", sorted(set(State) - ENDED - {State.UPLOADING}))
async def test_a_task_that_has_not_ended_stays_however_old_it_is(
    replica: Replica, store: Storage, state: State
) -> None:
    """Also one that had ended before, and was restarted."""
    uuid = await ended(replica, 1000 * DAY, state)
    await sql(replica, "UPDATE tasks SET opened_at = now() - interval '900 days'")
    await keeper(replica, store, NOWHERE).turn()
    assert await uuids(replica) == {uuid}


async def test_the_age_counts_from_the_end_of_the_last_run_by_the_clock_of_postgres(
    replica: Replica, store: Storage
) -> None:
    """Whatever date its client gave the task, and however long it waited."""
    uuid = await ended(replica, 3 * DAY, created_ms=1)
    for state in (State.STAGING, State.CANCELED):
        async with replica.database.transaction() as session:
            row = await queries.task_row(session, uuid)
            assert row is not None
            row.state = state.value
    await keeper(replica, store, NOWHERE).turn()
    assert await uuids(replica) == {uuid}, "it ended anew a moment ago"


async def test_a_task_stays_while_its_webhook_is_still_to_be_called(replica: Replica, store: Storage) -> None:
    """I8 goes before disk."""
    uuid = await ended(replica, 3 * DAY)
    async with replica.database.transaction() as session:
        session.add(WebhookRow(task_uuid=uuid, url="http://a", payload={}))
    await keeper(replica, store, NOWHERE).turn()
    assert await uuids(replica) == {uuid}
    await sql(replica, "UPDATE webhooks SET given_up_at = now()")
    await keeper(replica, store, NOWHERE).turn()
    assert await uuids(replica) == set()


@given(
    state=st.sampled_from(State),
    passed=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9)),
    tasks=st.none() | st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=9)),
    uploads=st.none() | st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=9)),
)
def test_clean_up_never_touches_what_is_younger_than_its_age_or_has_not_ended(
    state: State, passed: timedelta, tasks: timedelta | None, uploads: timedelta | None
) -> None:
    """Of all that may ever be found."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    over = is_over(Aged("u", state, True, now - passed), Ages(tasks, uploads), now)
    age = uploads if state is State.UPLOADING else tasks
    if over:
        assert age is not None
        assert passed > age
        assert state in ENDED | {State.UPLOADING}
    else:
        assert age is None or passed <= age or state not in ENDED | {State.UPLOADING}


@given(st.lists(st.integers(0, 100)), st.integers(0, 100))
def test_an_orphan_is_old_to_its_last_object(ages_h: list[int], age_h: int) -> None:
    """And an empty place is none."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = are_older([now - timedelta(hours=each) for each in ages_h], timedelta(hours=age_h), now)
    assert found == (ages_h != [] and all(each > age_h for each in ages_h))


# What it left in S3


async def test_what_a_task_left_in_staging_goes_with_it_unfinished_uploads_too(
    replica: Replica, storage: Storage, staging: Reference
) -> None:
    """And what lies beside it stays."""
    old, young = await ended(replica, 3 * DAY, staged=True), await ended(replica, DAY, staged=True)
    gone, kept = stage(storage, staging, old), stage(storage, staging, young)
    before = left(storage, kept)
    await keeper(replica, storage, staging).turn()
    assert await uuids(replica) == {young}
    assert left(storage, gone) == ([], 0)
    assert left(storage, kept) == before


async def test_what_a_client_keeps_in_its_own_s3_stays(
    replica: Replica, storage: Storage, staging: Reference, bucket: Reference
) -> None:
    """Of a task by reference, input and output; of an upload with `writeS3Path`, the output."""
    own = bucket / "own/"
    storage.write(own / "a.jpg", b"a")
    storage.write(own / "output/all.zip", b"zip")
    await ended(replica, 3 * DAY, input=str(own), output=str(own / "output/"))
    await ended(replica, 3 * DAY, staged=True, output=str(own / "output/"))
    await keeper(replica, storage, staging).turn()
    assert await uuids(replica) == set()
    assert left(storage, own)[0] == ["a.jpg", "output/all.zip"]


async def test_while_s3_is_away_the_row_stays_and_goes_when_s3_is_back(
    replica: Replica, storage: Storage, staging: Reference
) -> None:
    """As long as something lies there, somebody knows of it; and nobody restarts what has half gone."""
    uuid = await ended(replica, 3 * DAY, staged=True)
    at = stage(storage, staging, uuid)
    away = storage_at(f"http://127.0.0.1:{free_port()}", "tester", "tester")
    with pytest.raises(StorageUnreachable):
        await keeper(replica, away, staging).turn()
    assert await uuids(replica) == {uuid}
    assert await sql(replica, "SELECT leaving FROM tasks") == [(True,)]
    await keeper(replica, storage, staging).turn()
    assert await uuids(replica) == set()
    assert left(storage, at) == ([], 0)


async def test_one_that_s3_refuses_keeps_no_other(replica: Replica, storage: Storage, bucket: Reference) -> None:
    """Its row stays; the reason is in the log at each turn."""
    await ended(replica, 3 * DAY, staged=True)
    free = await ended(replica, 3 * DAY)
    await keeper(replica, storage, Reference(f"{bucket.bucket}-missing", "staging/")).turn()
    assert free not in await uuids(replica)
    assert len(await uuids(replica)) == 1


async def test_a_clean_up_that_died_in_the_middle_is_ended_by_whoever_leads_next(
    replica: Replica, rclone: ObjectStore, storage: Storage, staging: Reference
) -> None:
    """The first replica had emptied half of the staging area."""
    uuid = await ended(replica, 3 * DAY, staged=True)
    at = stage(storage, staging, uuid)
    await sql(replica, "UPDATE tasks SET leaving = true")
    storage.delete(at / "images/a.jpg")
    await replica.loop.leadership.release()
    other = await Replica(replica.database, rclone).lead()
    with pytest.raises(LeadershipLost):
        await keeper(replica, storage, staging).turn()
    assert await uuids(replica) == {uuid}, "a stale leader changes no row"
    await keeper(other, storage, staging).turn()
    assert await uuids(replica) == set()
    assert left(storage, at) == ([], 0)


# Uploads


@pytest.mark.contract("7.1 old uploads")
async def test_an_upload_that_was_never_committed_goes_with_its_files(
    replica: Replica, storage: Storage, staging: Reference
) -> None:
    """Counted from the last file that came."""
    stale = await opened(replica, 9 * DAY, file_ago=3 * DAY)
    empty = await opened(replica, 3 * DAY)
    slow = await opened(replica, 9 * DAY, file_ago=DAY)
    places = {uuid: stage(storage, staging, uuid) for uuid in (stale, empty, slow)}
    await keeper(replica, storage, staging).turn()
    assert await uuids(replica) == {slow}
    assert left(storage, places[stale]) == left(storage, places[empty]) == ([], 0)
    assert left(storage, places[slow])[0] != []


async def test_no_file_is_taken_into_an_upload_that_leaves(replica: Replica) -> None:
    """Else it would lie there for ever."""
    uuid = await opened(replica, 9 * DAY)
    async with replica.database.transaction() as session:
        assert await queries.owner_of_upload(session, uuid) is not None
    await sql(replica, "UPDATE tasks SET leaving = true")
    async with replica.database.transaction() as session:
        assert await queries.owner_of_upload(session, uuid) is None
        assert not await queries.take_name(session, uuid, "a.jpg")


# What nobody knows


async def test_orphans_in_staging_are_left_alone_by_default(
    replica: Replica, storage: Storage, staging: Reference
) -> None:
    """Another router, or a node's own clients, may have put them there."""
    at = stage(storage, staging, str(uuid4()))
    await keeper(replica, storage, staging).turn()
    assert len(left(storage, at)[0]) == 2


async def test_orphans_go_where_that_is_asked_for_and_nothing_else_does(
    replica: Replica, storage: Storage, staging: Reference, bucket: Reference
) -> None:
    """Below the staging prefix alone, only what is named as a uuid, known to no row, and old."""
    known, young, unknown, parts = (str(uuid4()) for _ in range(4))
    await ended(replica, timedelta(0), uuid=known, staged=True)
    for uuid in (known, young, unknown):
        stage(storage, staging, uuid)
    storage.stream_to(staged_images(staging, parts) / "broken.jpg").write(bytes(9 * 2**20))
    named = staging / "reports/a.pdf"
    outside = bucket / f"{unknown}/a.jpg"
    for each in (named, outside):
        storage.write(each, b"a")
    await asyncio.sleep(2.5)
    storage.write(staged_images(staging, young) / "c.jpg", b"c")
    await replica.lead()
    await keeper(replica, storage, staging, Ages(orphans=timedelta(seconds=2))).turn()
    assert left(storage, staged_root(staging, unknown)) == left(storage, staged_root(staging, parts)) == ([], 0)
    assert len(left(storage, staged_root(staging, known))[0]) == 2
    assert len(left(storage, staged_root(staging, young))[0]) == 3
    assert storage.exists(named)
    assert storage.exists(outside)


# History


async def completed(replica: Replica, seconds: float, ended_ago: timedelta) -> str:
    """A task with a run that took so long."""
    uuid = await ended(replica, ended_ago, images_count=90, options=(Setting("dsm", True), Setting("cameras", "{}")))
    nodes = await sql(replica, "SELECT id FROM nodes")
    await sql(
        replica,
        "INSERT INTO attempts (task_uuid, number, node_id, state, delivered, why, reasons, next_line, began_at, "
        "ended_at) VALUES (:uuid, 1, :node, 'completed', true, '', '[]', 0, "
        "now() - CAST(:ago AS interval) - CAST(:took AS interval), now() - CAST(:ago AS interval))",
        uuid=uuid,
        node=nodes[0][0],
        ago=ended_ago,
        took=timedelta(seconds=seconds),
    )
    return uuid


async def test_estimates_outlive_the_tasks_that_they_were_learned_from(replica: Replica, store: Storage) -> None:
    """A router that starts after the clean-up predicts as one that starts before it."""
    await replica.join("a")
    for seconds in (100.0, 200.0):
        await completed(replica, seconds, 3 * DAY)
    options = options_class((Setting("dsm", True),))

    async def predicted() -> object:
        history = History(replica.database, replica.registry)
        await history.read()
        await history.read()
        return history.estimates.predict(90, options)

    before = await predicted()
    assert before is not None
    await keeper(replica, store, NOWHERE).turn()
    assert await uuids(replica) == set()
    assert await predicted() == before


async def test_history_and_records_of_webhooks_go_by_their_own_ages(replica: Replica, store: Storage) -> None:
    """A webhook that is still to be called stays."""
    await replica.join("a")
    await completed(replica, 10, 100 * DAY)
    recent = await completed(replica, 10, 3 * DAY)
    async with replica.database.transaction() as session:
        session.add_all(WebhookRow(task_uuid=name, url="http://a", payload={}) for name in ("old", "new", "waiting"))
    await sql(replica, "UPDATE webhooks SET delivered_at = now() - interval '31 days' WHERE task_uuid = 'old'")
    await sql(replica, "UPDATE webhooks SET given_up_at = now() - interval '29 days' WHERE task_uuid = 'new'")
    await keeper(replica, store, NOWHERE).turn()
    assert await sql(replica, "SELECT task_uuid FROM past_runs") == [(recent,)]
    assert sorted(await sql(replica, "SELECT task_uuid FROM webhooks")) == [("new",), ("waiting",)]


# Runs that take too long


@pytest.mark.contract("7.1 max runtime")
async def test_a_run_that_takes_too_long_is_canceled_in_nodeodms_words(replica: Replica, store: Storage) -> None:
    """Contract 7.1: the line in the console, code 50; its node is told."""
    node_id = await replica.join("a")
    await replica.hear(node_id)
    await replica.registry.flush()
    await replica.add(waiting("u"))
    await replica.place()
    await replica.report(node_id, lines=["one"], processing_ms=1)
    told: list[tuple[str, int]] = []
    housekeeping = keeper(replica, store, NOWHERE, Ages(runtime=timedelta(minutes=90)), told)
    await housekeeping.turn()
    assert (await replica.read()).code == 20
    await sql(replica, "UPDATE attempts SET began_at = now() - interval '91 minutes'")
    await housekeeping.turn()
    task = await replica.read()
    assert (task.code, task.error, task.console_lines) == (50, "Task timed out after 90 minutes.", 2)
    assert await sql(replica, "SELECT lines FROM console ORDER BY first_line") == [
        (["one"],),
        (["Task timed out after 90 minutes."],),
    ]
    assert told == [("u", 1)]
    stop, _ = await replica.report(node_id, state="completed")
    assert stop == ["u"]
    assert (await replica.read()).code == 50, "cancel wins (I7)"


# Many


@pytest.mark.timeout(120)
async def test_thousands_of_old_tasks_do_not_hold_up_placing(replica: Replica, store: Storage) -> None:
    """Clean-up goes on in bites, and what places tasks has its turn in between."""
    node_id = await replica.join("a", slots=1000)
    await replica.hear(node_id, slots=1000)
    await replica.registry.flush()
    await sql(
        replica,
        "INSERT INTO tasks (uuid, tenant, name, created_ms, state, input, output, staged, options, outputs, "
        "skip_post_processing, images_count, input_bytes, attempt, begun, processing_ms, progress, console_lines, "
        "version) SELECT 'old-' || n, 't', 'n', 1, 'completed', 's3://b/i/', 's3://b/o/', false, '[]', '[]', false, 1, "
        "1, 1, true, 1, 100, 0, 1 FROM generate_series(1, 4000) AS n",
    )
    await sql(replica, "UPDATE tasks SET ended_at = now() - interval '3 days'")
    cleaning = asyncio.create_task(keeper(replica, store, NOWHERE).turn())
    placed = 0
    while not cleaning.done():
        uuid = str(uuid4())
        await replica.add(waiting(uuid))
        await replica.place()
        placed += 1
        assert (await replica.read(uuid)).state is State.PLACED
    await cleaning
    assert placed > 3
    assert not [uuid for uuid in await uuids(replica) if uuid.startswith("old-")]
