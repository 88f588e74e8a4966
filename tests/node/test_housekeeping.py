"""What goes from a node when its time is over, what stays, and which limits end a run."""

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.embedded.children import free_port
from common.embedded.object_store import storage_at
from common.nodeodm.options import MAX_CONCURRENCY, Setting, with_concurrency
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import now_ms
from common.nodeodm.surface import Submission
from common.references import Reference, staged_images, staged_root
from common.settings import Switch
from common.storage import Storage
from common.tasks import ENDED, State
from common.tokens import Caller, Kind
from node.backends.local import LocalBackend
from node.engines import EngineInUse, order_for
from node.engines.orthomosaic import ORTHOMOSAIC
from node.housekeeping import NodeHousekeeping
from node.kept import HOUR_MS, Kept, KeptWorkspaces, reused_by, to_drop
from node.lifecycle import is_overdue, is_too_long
from node.local_tasks import Limits, LocalTasks
from node.records import Record
from node.settings import NodeSettings
from node.workspace import Inputs, Workspace
from tests.common.nodeodm.test_messages import task

CLIENT = Caller(Kind.USER, "direct", tenant="t")
DAY_S = 86_400
INPUTS = Inputs("a mark", 2)


class Node:
    """The tasks of a node, which runs none of them, over one backend in files."""

    def __init__(self, folder: Path, storage: Storage, staging: Reference, **limits: float) -> None:
        self.staging = staging
        self.storage = storage
        order = partial(order_for, engine=ORTHOMOSAIC, max_images=None)
        self.backend = LocalBackend(
            folder / "tasks", order, kept=KeptWorkspaces(folder / "kept", limits.pop("keep_h", 48), 2**40)
        )
        kept = Limits(1, None, **limits)  # type: ignore[arg-type]
        self.tasks = LocalTasks(self.backend, storage, staging, EngineInUse(ORTHOMOSAIC), kept)
        self.housekeeping = NodeHousekeeping(self.tasks, takes_uploads=True)

    async def has(self, *records: Record) -> "Node":
        """These are on record."""
        for record in records:
            await self.backend.save(record)
        await self.tasks.load()
        return self

    def known(self) -> set[str]:
        """Every task's uuid."""
        return {record.task.uuid for record in self.tasks.records()}


@pytest.fixture
def staging(bucket: Reference) -> Reference:
    """The staging area of this test alone."""
    return bucket / "staging/"


def ended(ago_s: float, state: State = State.COMPLETED, **changes: object) -> Record:
    """A direct task that ended so long ago."""
    found = task(**({"uuid": str(uuid4()), "state": state, "attempt": 1, "tenant": "t"} | changes))
    return Record(found, ended_ms=now_ms() - int(ago_s * 1000), version=1)


# Tasks


async def test_a_direct_task_goes_with_all_it_left_in_staging(
    tmp_path: Path, storage: Storage, staging: Reference
) -> None:
    """When its age is over; a younger one, and one of the router, stay."""
    old, young = ended(3 * DAY_S, staged=True), ended(DAY_S, staged=True)
    routers = replace(ended(3 * DAY_S, staged=True), forwarded=True)
    node = await Node(tmp_path, storage, staging, keep_for_s=2 * DAY_S).has(old, young, routers)
    for record in (old, young):
        storage.write(staged_images(staging, record.task.uuid) / "a.jpg", b"a")
    storage.stream_to(staged_images(staging, old.task.uuid) / "broken.jpg").write(bytes(9 * 2**20))
    await node.housekeeping.turn()
    assert node.known() == {young.task.uuid, routers.task.uuid}
    at = staged_root(staging, old.task.uuid)
    assert [*storage.listing(at), *storage.unfinished(at)] == []
    assert len(list(storage.listing(staging))) == 1


async def test_a_task_stays_until_s3_lets_go_of_what_it_left(
    tmp_path: Path, storage: Storage, staging: Reference
) -> None:
    """S3 away: the next turn goes on."""
    old = ended(3 * DAY_S, staged=True)
    away = storage_at(f"http://127.0.0.1:{free_port()}", "tester", "tester")
    node = await Node(tmp_path, away, staging, keep_for_s=2 * DAY_S).has(old)
    await node.housekeeping.forget_old_tasks(now_ms())
    assert node.known() == {old.task.uuid}
    node = await Node(tmp_path, storage, staging, keep_for_s=2 * DAY_S).has()
    await node.housekeeping.forget_old_tasks(now_ms())
    assert node.known() == set()


@given(
    state=st.sampled_from(State),
    ago_s=st.integers(0, 10**6),
    keep_for_s=st.integers(1, 10**6),
    forwarded=st.booleans(),
)
def test_clean_up_never_touches_what_is_younger_than_its_age_or_has_not_ended(
    state: State, ago_s: int, keep_for_s: int, forwarded: bool
) -> None:
    """Nor what is the router's."""
    now = 10**12
    record = Record(task(state=state), forwarded=forwarded, ended_ms=now - ago_s * 1000)
    assert is_overdue(record, keep_for_s, now) == (state in ENDED and ago_s > keep_for_s and not forwarded)


@pytest.mark.contract("7.1 old tasks", "7.1 old uploads")
def test_by_default_tasks_and_uploads_stay_for_two_days_as_in_nodeodm() -> None:
    """Contract 7.1: 2880 minutes; in a cluster as long as Kubernetes keeps the Job. 0 is for ever."""
    usual = NodeSettings(auth=Switch.OFF)
    assert usual.keep_tasks_for_s(None) == usual.keep_uploads_for_s == 2880 * 60
    assert usual.keep_tasks_for_s(7 * DAY_S) == 7 * DAY_S
    never = NodeSettings(auth=Switch.OFF, cleanup_tasks_min=0, cleanup_uploads_min=0)
    assert never.keep_tasks_for_s(None) is never.keep_uploads_for_s is None
    assert never.keep_tasks_for_s(7 * DAY_S) == 7 * DAY_S, "the Job goes then, whatever we say"
    assert NodeSettings(auth=Switch.OFF, cleanup_tasks_min=1).keep_tasks_for_s(7 * DAY_S) == 60


# Uploads


@pytest.mark.contract("7.1 old uploads")
async def test_an_upload_to_the_node_that_was_never_committed_goes_with_its_files(
    tmp_path: Path, storage: Storage, staging: Reference
) -> None:
    """What has no note of this node's, or is a task, or not named as a uuid, is none of its business."""
    node = await Node(tmp_path, storage, staging, keep_uploads_for_s=DAY_S).has()
    uuid = await node.tasks.open_upload(CLIENT, None, Submission("an upload", 1))
    storage.write(staged_images(staging, uuid) / "a.jpg", b"a")
    others = [staged_images(staging, str(uuid4())) / "a.jpg", staging / "elsewhere/upload.json"]
    for each in others:
        storage.write(each, b"a")
    await node.housekeeping.forget_stale_uploads(datetime.now(UTC))
    assert (await node.tasks.upload(CLIENT, uuid)).prefix == staged_images(staging, uuid)
    await node.housekeeping.forget_stale_uploads(datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(Refused, match="not found"):
        await node.tasks.upload(CLIENT, uuid)
    assert list(storage.listing(staged_root(staging, uuid))) == []
    assert all(storage.exists(each) for each in others)


# Workspaces


def kept(since_h: float, size: int, name: str = "") -> Kept:
    """A kept workspace of so many bytes."""
    return Kept(name or secrets.token_hex(4), 1, "t", True, int(since_h * HOUR_MS), size, INPUTS)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50))),
    now_h=st.integers(0, 120),
    keep_h=st.integers(1, 60),
    room=st.integers(0, 300),
)
def test_kept_workspaces_have_room_and_the_oldest_go_first(
    sizes: list[tuple[int, int]], now_h: int, keep_h: int, room: int
) -> None:
    """None that stays is over its time, or older than one that went for want of room."""
    found = [kept(since, size, str(number)) for number, (since, size) in enumerate(sizes)]
    dropped = to_drop(found, now_h * HOUR_MS, keep_h, room)
    left = [each for each in found if each not in dropped]
    assert sum(each.bytes for each in left) <= room
    assert all(now_h * HOUR_MS - each.since_ms <= keep_h * HOUR_MS for each in left)
    young = [each for each in dropped if now_h * HOUR_MS - each.since_ms <= keep_h * HOUR_MS]
    if young:
        newest = max(young, key=lambda each: each.since_ms)
        assert all(each.since_ms >= newest.since_ms for each in left)
    if sum(each.bytes for each in found if now_h * HOUR_MS - each.since_ms <= keep_h * HOUR_MS) <= room:
        assert young == [], "there was room for all"


def workspace(folder: Path, attempt: int = 1, inputs: Inputs | None = INPUTS) -> Workspace:
    """The folder of a run that has ended."""
    found = Workspace(folder / "tasks" / "u" / str(attempt))
    (found.project("u") / "images").mkdir(parents=True)
    (found.project("u") / "images" / "a.jpg").write_bytes(b"a" * 10)
    if inputs is not None:
        found.save_inputs(inputs)
    return found


def test_a_kept_workspace_is_moved_to_the_next_attempt_and_not_copied(tmp_path: Path) -> None:
    """The very same files; and also when the run that got it is started once more."""
    store = KeptWorkspaces(tmp_path / "kept", 1, 2**40)
    first = workspace(tmp_path)
    inode = (first.project("u") / "images" / "a.jpg").stat().st_ino
    store.keep(first, "u", 1, "t", False, 5)
    assert not first.project("u").exists()
    assert [(each.attempt, each.bytes) for each in store.all()] == [(1, 10)]
    second = Workspace(tmp_path / "tasks" / "u" / "2")
    assert store.give(second, "u", 2, "t")
    assert store.all() == []
    for _ in range(2):
        found = reused_by(second, "u")
        assert found is not None
        assert (found.attempt, found.inputs) == (1, INPUTS)
        assert (second.project("u") / "images" / "a.jpg").stat().st_ino == inode


@pytest.mark.parametrize(("attempt", "tenant"), [(1, "t"), (2, "another")])
def test_a_workspace_is_given_to_a_later_attempt_of_the_same_tenants_task_alone(
    tmp_path: Path, attempt: int, tenant: str
) -> None:
    """A removed task's uuid may come again, from anybody (I12)."""
    store = KeptWorkspaces(tmp_path / "kept", 1, 2**40)
    store.keep(workspace(tmp_path), "u", 1, "t", False, 5)
    assert not store.give(Workspace(tmp_path / "new"), "u", attempt, tenant)


@pytest.mark.parametrize(("keep_h", "inputs"), [(0, INPUTS), (1, None)])
def test_a_workspace_that_is_of_no_use_is_not_kept(tmp_path: Path, keep_h: float, inputs: Inputs | None) -> None:
    """Because nothing is to be kept; or because its images never came to their end."""
    store = KeptWorkspaces(tmp_path / "kept", keep_h, 2**40)
    ended_run = workspace(tmp_path, inputs=inputs)
    store.keep(ended_run, "u", 1, "t", False, 5)
    assert store.all() == []
    assert not ended_run.project("u").exists()


def test_an_earlier_attempt_that_is_let_go_of_late_does_not_replace_a_later_one(tmp_path: Path) -> None:
    """A node that was lost, and comes back."""
    store = KeptWorkspaces(tmp_path / "kept", 1, 2**40)
    store.keep(workspace(tmp_path, 2), "u", 2, "t", True, 5)
    store.keep(workspace(tmp_path, 1), "u", 1, "t", True, 6)
    assert [each.attempt for each in store.all()] == [2]


def test_kept_workspaces_are_found_again_and_what_is_half_done_goes(tmp_path: Path) -> None:
    """The node died while it moved one."""
    KeptWorkspaces(tmp_path / "kept", 1, 2**40).keep(workspace(tmp_path), "u", 1, "t", True, 5)
    (tmp_path / "kept" / "v.draft" / "project").mkdir(parents=True)
    again = KeptWorkspaces(tmp_path / "kept", 1, 2**40)
    assert [each.uuid for each in again.all()] == ["u"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["u"]
    again.clean(5 + 2 * HOUR_MS)
    assert list((tmp_path / "kept").iterdir()) == []


async def test_the_workspace_of_an_ended_direct_task_counts_and_goes_with_the_task(
    tmp_path: Path, storage: Storage, staging: Reference
) -> None:
    """Its console stays as long as the task does."""
    record = ended(0, uuid="u")
    node = await Node(tmp_path, storage, staging).has(record)
    ended_run = workspace(tmp_path)
    ended_run.console_file.write_text("a line\n")
    await node.housekeeping.turn()
    assert (tmp_path / "kept" / "u" / "project" / "images" / "a.jpg").exists()
    assert node.backend.console(record).lines(0) == ["a line"]
    assert node.tasks.kept_workspaces() == {}, "the router knows nothing of it"
    await node.tasks.remove(CLIENT, "u")
    assert list((tmp_path / "kept").iterdir()) == []


# Limits


@pytest.mark.contract("7.1 max runtime")
@given(st.integers(0, 600), st.integers(0, 600), st.sampled_from(State))
def test_a_run_is_too_long_when_its_engine_has_worked_for_longer_than_the_limit(
    limit_min: int, worked_min: int, state: State
) -> None:
    """Contract 7.1; 0 is no limit, and waiting is no work."""
    now = 10**12
    began_ms = now - worked_min * 60_000
    found = is_too_long(task(state=state, began_ms=began_ms), limit_min, now)
    assert found == (state is State.RUNNING and 0 < limit_min < worked_min)
    assert not is_too_long(task(state=state, began_ms=None), limit_min, now)


@pytest.mark.contract("4.4 max concurrency")
@pytest.mark.parametrize(
    ("given_value", "wanted"),
    [(None, 4), (2, 2), (4, 4), (9, 4), ("all", 4)],
    ids=["none", "less", "equal", "more", "odd"],
)
def test_max_concurrency_is_capped_and_added(given_value: int | str | None, wanted: int) -> None:
    """Contract 4.4, at its end."""
    settings = () if given_value is None else (Setting("dsm", True), Setting(MAX_CONCURRENCY, given_value))
    capped = with_concurrency(settings, ORTHOMOSAIC.options, 4)
    assert dict(capped)[MAX_CONCURRENCY] == wanted
    assert [each for each in capped if each.name != MAX_CONCURRENCY] == list(settings[:1])
    assert with_concurrency(settings, ORTHOMOSAIC.options, None) == settings
    assert with_concurrency(settings, (), 4) == settings, "an engine without it is not told"


def test_the_records_of_kept_workspaces_are_plain_json(tmp_path: Path) -> None:
    """For whoever looks after a full disk by hand."""
    KeptWorkspaces(tmp_path / "kept", 1, 2**40).keep(workspace(tmp_path), "u", 3, "t", True, 5)
    note = json.loads((tmp_path / "kept" / "u" / "kept.json").read_text())
    assert (note["attempt"], note["bytes"], note["inputs"]["images_count"]) == (3, 10, 2)
