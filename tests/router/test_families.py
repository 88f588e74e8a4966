"""Split tasks and their parts, as the router looks after them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from common.embedded.object_store import ObjectStore
from common.families import Family, family_token
from common.nodeodm.options import Option, Setting
from common.settings import S3Settings, SettingsUnusable
from common.tasks import NO_WISHES, Code, State, Task, Wishes
from common.tokens import Kind
from router import queries
from router.api.tokens import TokenOrder
from router.app import check_addresses
from router.database import Database
from router.fairness import Waiting, order
from router.families import ended_with_parent, is_given_back, part_of, unwanted
from router.lifecycle import Clocks
from router.loop import forward_of
from router.settings import RouterSettings
from tests.router.replica import Replica, waiting

IMPATIENT = Clocks(part_waits=timedelta(0))
FAMILY = "u 1 n"
SM_CLUSTER = Option("sm-cluster", "string", "None", "string", "")
SPLIT = Option("split", "int", "999999", "positive integer", "")


def part(uuid: str = "p", **changes: object) -> Task:
    """A part of task `u`, of its first attempt."""
    return waiting(uuid, **{"family": FAMILY, "child": True} | changes)


# Pure


def test_a_part_inherits_where_its_parent_may_run_and_not_how_its_input_is_read() -> None:
    """It must not leave the region that its parent must not leave."""
    wishes = Wishes(
        scan_depth=1,
        exclude=("x",),
        engine_image="odm:1",
        capacity_type="spot",
        nodes=("a",),
        avoid=("b",),
        labels=(("region", "eu"),),
        priority=7,
        replaceable=False,
    )
    made = part_of(waiting(name="a survey", tenant="acme", wishes=wishes), part(webhook="http://x", wishes=NO_WISHES))
    assert made.name == "Part of a survey"
    assert (made.tenant, made.webhook) == ("acme", None)
    assert (made.wishes.nodes, made.wishes.avoid, made.wishes.labels) == (("a",), ("b",), (("region", "eu"),))
    assert (made.wishes.engine_image, made.wishes.capacity_type, made.wishes.priority) == ("odm:1", "spot", 7)
    assert (made.wishes.scan_depth, made.wishes.exclude, made.wishes.replaceable) == (None, (), True)


@pytest.mark.parametrize("state", State)
def test_parts_are_wanted_while_their_parents_attempt_is_under_way(state: State) -> None:
    """Ended ones stay as they are until their parent is removed."""
    parts = [part("a"), part("b", state=State.RUNNING), part("c", state=State.COMPLETED)]
    found = [each.uuid for each in unwanted(parts, waiting("u", state=state, attempt=1))]
    assert found == ([] if state in (State.PLACED, State.RUNNING) else ["a", "b"])
    assert [each.uuid for each in unwanted(parts, waiting("u", state=State.RUNNING, attempt=2))] == ["a", "b"]
    assert unwanted(parts, None) == parts


def test_i6_a_part_that_has_begun_is_given_back_without_being_shown_as_10() -> None:
    """Only its own parent is told, and only once it has waited for long."""
    begun = part(state=State.QUEUED, begun=True, attempt=1, processing_ms=5)
    assert (begun.code, begun.processing_time_ms(10)) == (Code.RUNNING, -1)
    assert not is_given_back(begun, 60, 60)
    assert is_given_back(begun, 61, 60)
    assert not is_given_back(part(state=State.QUEUED), 61, 60), "that one is shown as 10"
    assert not is_given_back(waiting(state=State.QUEUED, begun=True), 61, 60), "whole tasks are nobody's to take back"
    ended = ended_with_parent(begun)
    assert ended.code is Code.CANCELED
    assert is_given_back(ended, 0, 60), "an attempt that goes on after all must not fail of it"


def test_parts_go_before_their_tenants_new_tasks_and_the_oldest_parents_first() -> None:
    """What was begun first is done first, and its slot is free."""
    found = order(
        [
            Waiting("new parent", "a", 9_000.0),
            Waiting("young", "a", 50.0, child=True, parent_waited_s=100.0),
            Waiting("old", "a", 10.0, child=True, parent_waited_s=500.0),
            Waiting("urgent", "a", 1.0, priority=1),
        ],
        {},
    )
    assert [each.uuid for each in found] == ["urgent", "old", "young", "new parent"]


def test_whoever_splits_gets_no_more_than_its_share() -> None:
    """A hundred parts of one tenant do not keep another's task waiting."""
    parts = [Waiting(f"p{number}", "splits", 900.0, child=True) for number in range(100)]
    found = [each.uuid for each in order([*parts, Waiting("one", "other", 1.0)], {"splits": 1})]
    assert found[0] == "one"


# Settings


@pytest.mark.parametrize(
    "url", ["http://router:3000", "https://router.example.org", "http://10.0.0.1:3000/", "http://h"]
)
def test_addresses_that_odm_can_reach(url: str) -> None:
    """Its client knows http on any port and https on port 443."""
    assert RouterSettings.model_validate(_plain() | {"url": url}).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["router:3000", "https://router:8443", "http://router:443", "http://router/path", "ftp://router", "http://[::1]"],
)
def test_addresses_that_odm_cannot_reach_are_refused_at_the_start(url: str) -> None:
    """PyODM would silently speak to another address, ODM refuse its arguments."""
    with pytest.raises(ValueError, match="expected http://host:port"):
        RouterSettings.model_validate(_plain() | {"url": url})


def _plain() -> dict[str, str]:
    return {"database_url": "postgresql://u:p@h/d", "secret_key": "k" * 32, "admin_token": "t"}


def test_i9_a_router_on_s3s_own_host_is_refused_for_the_token_would_go_there_too() -> None:
    """By the same name, whatever the port; another name of the same machine does."""
    s3 = S3Settings.model_validate({"SCALEODM_STAGING": "s3://b/", "AWS_ENDPOINT_URL_S3": "http://box:9000"})
    settings = RouterSettings.model_validate(_plain() | {"url": "http://BOX:3000"})
    with pytest.raises(SettingsUnusable, match="both on the host box"):
        check_addresses(settings, s3)
    check_addresses(RouterSettings.model_validate(_plain() | {"url": "http://10.0.0.1:3000"}), s3)
    check_addresses(RouterSettings.model_validate(_plain()), s3)


@pytest.mark.parametrize("kind", ["part", "router"])
def test_nobody_makes_a_token_that_is_derived(kind: str) -> None:
    """Not an administrator either: it would be a part of nothing."""
    with pytest.raises(ValueError, match="expected user, node or admin"):
        TokenOrder.model_validate({"kind": kind, "name": "x"})


# On record


async def test_the_node_is_told_where_parts_go_only_where_its_engine_splits(
    database: Database, rclone: ObjectStore
) -> None:
    """And only of a task that will be split, whose owner has not named another cluster."""
    replica = Replica(database, rclone)
    replica.loop._url = "http://router:3000"
    able = replica.registry.node(await replica.join("able", options=[SPLIT.as_json(), SM_CLUSTER.as_json()]))
    unable = replica.registry.node(await replica.join("unable", options=[SPLIT.as_json()]))
    assert able is not None
    assert unable is not None
    large = waiting(images_count=9, options=(Setting("split", 4),))
    own = waiting(images_count=9, options=(Setting("split", 4), Setting("sm-cluster", "http://mine")))
    assert replica.loop._cluster_of(large, able) == "http://router:3000"
    assert replica.loop._cluster_of(large, unable) is None
    assert replica.loop._cluster_of(own, able) is None
    assert replica.loop._cluster_of(waiting(images_count=4, options=large.options), able) is None
    assert replica.loop._cluster_of(part(images_count=9, options=large.options), able) is None
    told = forward_of(replace(large, attempt=1), "http://router:3000").model_dump(by_alias=True)
    assert told["cluster"] == "http://router:3000"
    assert "token" not in str(told)


async def test_the_token_opens_while_its_attempt_is_under_way_and_no_longer(
    database: Database, rclone: ObjectStore
) -> None:
    """With its tenant and the limits of its parent's token."""
    replica = Replica(database, rclone)
    replica.access._known_task = replica.snapshot.get
    node_id = await replica.join("a")
    family = Family("u", 1, node_id)
    token = family_token(family, replica.access.node_secret(node_id))
    assert replica.access.caller(token) is None, "there is no such task"
    await replica.add(waiting("u", state=State.RUNNING, attempt=1, tenant="acme", token="alice"))
    caller = replica.access.caller(token)
    assert caller is not None
    assert (caller.kind, caller.tenant, caller.name, caller.family) == (Kind.PART, "acme", "alice", str(family))
    assert replica.access.caller(family_token(Family("u", 2, node_id), "x")) is None
    assert replica.access.caller(family_token(Family("u", 2, node_id), replica.access.node_secret(node_id))) is None
    await change(replica, "u", state=State.COMPLETED)
    assert replica.access.caller(token) is None


async def change(replica: Replica, uuid: str, **changes: object) -> None:
    """Make a task be so."""
    async with replica.database.transaction() as session:
        row = await queries.task_row(session, uuid)
        assert row is not None
        for name, value in changes.items():
            setattr(row, name, getattr(value, "value", value))
    replica.snapshot.put(row)


async def test_parts_are_canceled_with_their_parent_and_removed_with_it(
    database: Database, rclone: ObjectStore
) -> None:
    """Whoever ended it, and whichever replica saw it: the leading one looks after them."""
    replica = await Replica(database, rclone).lead()
    await replica.add(waiting("u", state=State.RUNNING, attempt=1))
    await replica.add(part("p"))
    await replica.add(part("done", state=State.COMPLETED))
    await replica.loop._parts.tend()
    assert (await replica.read("p")).state is State.STAGING
    await change(replica, "u", state=State.FAILED)
    await replica.loop._parts.tend()
    ended = await replica.read("p")
    assert (ended.state, ended.error) == (State.CANCELED, "The run that sent this part of a split task is over.")
    assert (await replica.read("done")).state is State.COMPLETED
    async with database.transaction() as session:
        row = await queries.task_row(session, "u")
        assert row is not None
        await session.delete(row)
    replica.snapshot.drop("u")
    await replica.loop._parts.tend()
    assert replica.snapshot.get("p") is replica.snapshot.get("done") is None
    async with database.transaction() as session:
        assert await queries.task_rows(session, ["p", "done"]) == {}


async def test_a_part_is_shown_as_20_for_a_while_and_then_as_10(database: Database, rclone: ObjectStore) -> None:
    """Its parent waits, and then takes it back; a whole task is shown as 10 at once."""
    patient = await Replica(database, rclone).lead()
    for each in (part("p"), waiting("w")):
        await patient.add(each)
    await patient.place()
    assert ((await patient.read("p")).code, (await patient.read("w")).code) == (Code.RUNNING, Code.QUEUED)
    assert (await patient.read("p")).processing_time_ms(1) == -1
    patient.loop._clocks = IMPATIENT
    await patient.place()
    assert (await patient.read("p")).code is Code.QUEUED


async def test_a_part_takes_the_free_slot_before_a_new_parent_that_came_earlier(
    database: Database, rclone: ObjectStore
) -> None:
    """Of the same tenant: a new parent would only wait for slots as well."""
    replica = await Replica(database, rclone).lead()
    await replica.join("a", slots=2)
    await replica.add(waiting("u", state=State.RUNNING, attempt=1))
    await replica.add(waiting("new parent"))
    await replica.add(part("p"))
    async with database.transaction() as session:
        assert await queries.parent_of(session, Family("u", 1, "n")) is None, "no such attempt on that node"
    await replica.join("b", slots=1)
    await replica.place()
    placed = [uuid for uuid in ("p", "new parent") if (await replica.read(uuid)).state is State.PLACED]
    assert placed[:1] == ["p"]
