"""Tasks page by page, on a real Postgres: every one once, the newest first, and only those that were asked for."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from common.embedded.object_store import ObjectStore
from common.embedded.stack import Stack
from common.tasks import NO_WISHES, State
from common.tokens import Kind
from router.browsing import Cursor, ListUnreadable, TaskDesk, TaskMissing, TaskOver, Wanted, states_named
from router.database import Database
from tests.client import Wire
from tests.router.callers import ADMIN
from tests.router.replica import Replica, waiting


@pytest.fixture
async def replica(database: Database, rclone: ObjectStore) -> Replica:
    """A router's parts, with seven tasks of two tenants."""
    made = Replica(database, rclone)
    for number in range(7):
        state = State.FAILED if number in (2, 5) else State.QUEUED
        tenant = "north" if number % 2 else "south"
        await made.add(waiting(f"{number}abc-{number}", name=f"Field {number}", tenant=tenant, state=state))
    return made


@pytest.fixture
def desk(replica: Replica) -> TaskDesk:
    """What looks through them."""
    return TaskDesk(replica.database, replica.snapshot, replica.loop)


async def names(desk: TaskDesk, **wanted: Any) -> list[str]:
    """The names of one page."""
    return [each["name"] for each in (await desk.page(Wanted(**wanted)))["tasks"]]


async def test_every_task_is_on_one_page_exactly_and_the_newest_first(desk: TaskDesk) -> None:
    """Seven in pages of three."""
    seen: list[str] = []
    after: Cursor | None = None
    sizes = []
    while True:
        page = await desk.page(Wanted(limit=3, after=after))
        seen += [each["name"] for each in page["tasks"]]
        sizes.append(len(page["tasks"]))
        if page["next"] is None:
            break
        after = Cursor.parse(page["next"])
    assert seen == [f"Field {number}" for number in range(6, -1, -1)]
    assert sizes == [3, 3, 1]


async def test_tasks_are_found_by_state_name_tenant_and_the_beginning_of_their_uuid(desk: TaskDesk) -> None:
    """Alone and together."""
    assert await names(desk, states=states_named(["failed"])) == ["Field 5", "Field 2"]
    assert await names(desk, states=states_named(["waiting"]), tenant="north") == ["Field 3", "Field 1"]
    assert await names(desk, text="fIELD 4") == ["Field 4"]
    assert await names(desk, text="3AB") == ["Field 3"]
    assert await names(desk, text="abc") == []
    assert await names(desk, text="south", states=states_named(["ended"])) == ["Field 2"]


async def test_what_is_searched_for_is_no_pattern(desk: TaskDesk) -> None:
    """A percent sign is a percent sign, and a quotation mark ends nothing."""
    for odd in ("%", "_ield", "' OR 1=1 --", "\\"):
        assert await names(desk, text=odd) == []


async def test_tasks_are_found_by_the_node_that_has_them(desk: TaskDesk, replica: Replica) -> None:
    """And tell its name."""
    await replica.lead()
    await replica.join("alpha", slots=1)
    await replica.place()
    page = await desk.page(Wanted(node="alpha"))
    assert [(each["node"], each["state"]) for each in page["tasks"]] == [("alpha", "placed")]
    assert await names(desk, node="beta") == []


async def test_a_priority_moves_a_waiting_task_ahead(desk: TaskDesk, replica: Replica) -> None:
    """The last one becomes the first."""
    before = [each.task.uuid for each in replica.loop.queue.ordered()]
    told = await desk.set_priority("6abc-6", 50, by=ADMIN)
    assert told == {"uuid": "6abc-6", "state": "queued", "priority": 50}
    assert next(each.task.uuid for each in replica.loop.queue.ordered()) == "6abc-6" != before[0]
    assert (await replica.read("6abc-6")).wishes == replace(NO_WISHES, priority=50)


async def test_a_task_that_is_over_or_unknown_has_no_priority(desk: TaskDesk) -> None:
    """Said apart."""
    with pytest.raises(TaskOver, match="is failed"):
        await desk.set_priority("2abc-2", 1, by=ADMIN)
    with pytest.raises(TaskMissing):
        await desk.set_priority("nobody", 1, by=ADMIN)


@pytest.mark.parametrize("raw", ["", "x", "12", "12-", "-1-a", "9" * 30 + "-a"])
def test_a_cursor_that_nobody_gave_is_refused(raw: str) -> None:
    """In words."""
    with pytest.raises(ListUnreadable, match="expected what `next` said"):
        Cursor.parse(raw)


def test_a_state_that_is_none_is_refused_with_those_that_are() -> None:
    """Uploads are no tasks yet."""
    with pytest.raises(ListUnreadable, match=r"expected one of staging, queued.*ended"):
        states_named(["uploading"])


def test_over_http_a_user_sees_its_own_tenant_alone(federation: Stack, http: httpx.Client, router_wire: Wire) -> None:
    """Also when it names another; an administrator sees everybody's (I12)."""
    uuid = router_wire.task()
    address = f"{federation.router_url}/admin"
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    order = {"kind": Kind.USER, "name": "browser", "tenant": "elsewhere"}
    stranger = {"Authorization": f"Bearer {http.post(f'{address}/tokens', json=order, headers=admin).json()['token']}"}

    def found(headers: dict[str, str], **query: str) -> list[str]:
        answer = http.get(f"{address}/tasks", params={"q": uuid, **query}, headers=headers)
        assert answer.status_code == 200, answer.text
        return [each["uuid"] for each in answer.json()["tasks"]]

    assert found(admin) == found(admin, tenant="default") == [uuid]
    assert found(stranger) == found(stranger, tenant="default") == []
    assert found({"Authorization": f"Bearer {federation.user_token}"}) == [uuid]


def test_over_http_nonsense_is_told_from_a_missing_right(federation: Stack, http: httpx.Client) -> None:
    """400, 401, 403, 404 and 422, and never a dropped connection."""
    address = f"{federation.router_url}/admin/tasks"
    admin = {"Authorization": f"Bearer {federation.admin_token}"}
    user = {"Authorization": f"Bearer {federation.user_token}"}
    node = {"Authorization": f"Bearer {federation.node_token}"}
    assert http.get(address).status_code == 401
    assert http.get(address, headers=node).status_code == 403
    assert http.get(address, headers=admin, params={"state": "x"}).status_code == 400
    assert http.get(address, headers=admin, params={"after": "x"}).status_code == 400
    assert http.get(address, headers=admin, params={"q": "a\x00b"}).status_code == 200
    assert http.get(address, headers=admin, params={"limit": "0"}).status_code == 422
    assert http.post(f"{address}/nobody/priority", headers=user, json={"priority": 1}).status_code == 403
    assert http.post(f"{address}/nobody/priority", headers=admin, json={"priority": 1}).status_code == 404
    assert http.post(f"{address}/nobody/priority", headers=admin, json={"priority": 101}).status_code == 422


def test_about_tells_whose_token_it_is_and_administrators_of_the_database(
    federation: Stack, http: httpx.Client
) -> None:
    """Others learn nothing of the database."""

    def about(token: str) -> dict[str, Any]:
        answer = http.get(f"{federation.router_url}/federation/about", headers={"Authorization": f"Bearer {token}"})
        found: dict[str, Any] = answer.json()
        return found

    assert about(federation.user_token)["caller"]["kind"] == "user"
    assert "database" not in about(federation.node_token)
    told = about(federation.admin_token)["database"]
    assert told["migration"] == told["newest"]
    assert abs(told["ahead"]) < 2
