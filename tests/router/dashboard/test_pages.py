"""Each page and each action, in a real browser, while the federation lives behind it."""

import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from common.embedded.stack import Stack
from tests.bench.federation import insert
from tests.browser import PATIENCE_MS, chromium
from tests.client import Wire
from tests.router.dashboard.conftest import SHORT
from tests.waiting import wait_until
from tests.web import Page as Answer
from tests.web import web_server

pytestmark = pytest.mark.timeout(120)

NASTY = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&\u202e"
PAGES = ("", "/nodes", "/nodes/node-1", "/tasks", "/tenants", "/events")


class Visit:
    """One browser: its page, and what it complained about."""

    def __init__(self, context: BrowserContext, url: str, expected: str) -> None:
        """`expected`: complaints that the test itself brings about."""
        self.context = context
        self.url = url
        self._expected = expected
        self.complaints: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        self.page = context.new_page()
        self.page.on("console", lambda message: self._hear(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self._hear(str(error)))
        self.page.on("dialog", lambda dialog: self._hear(f"a dialog: {dialog.message}"))

    def _hear(self, text: str) -> None:
        if not re.search(self._expected, text):
            self.complaints.append(text)

    def sign_in(self, token: str) -> None:
        """By the form."""
        self.page.goto(f"{self.url}/dashboard/login")
        self.page.get_by_label("Admin token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()

    def open(self, path: str) -> Page:
        """A page of the dashboard, live."""
        self.page.goto(f"{self.url}/dashboard{path}")
        self.is_live()
        return self.page

    def is_live(self) -> None:
        """The stream is open, and its first message has come."""
        expect(self.page.locator("#live")).to_have_text("Live")

    def confirm(self, button: str, question: str) -> None:
        """Press a button, read what it asks, say yes."""
        self.page.locator("main").get_by_role("button", name=button, exact=True).first.click()
        asked = self.page.get_by_role("dialog")
        expect(asked.get_by_role("heading")).to_have_text(re.compile(question))
        asked.locator("#ask-yes").click()
        expect(asked).to_be_hidden()

    def told(self, text: str) -> None:
        """What a toast says."""
        expect(self.page.locator("#told")).to_contain_text(text)


Visiting = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, where the machine has one."""
    with chromium() as found:
        yield found


@pytest.fixture
def visiting(browser: Browser, stack: Stack) -> Iterator[Visiting]:
    """Opens browsers; whatever one complains about fails the test."""
    visits: list[Visit] = []

    def visit(url: str = "", expected: str = "nothing", **settings: object) -> Visit:
        context = browser.new_context(locale="en-GB", **settings)  # type: ignore[arg-type]
        visits.append(Visit(context, url or stack.router_url, expected))
        return visits[-1]

    yield visit
    for each in visits:
        each.context.close()
    assert [complaint for each in visits for complaint in each.complaints] == []


@pytest.fixture
def signed_in(visiting: Visiting, stack: Stack) -> Visit:
    """A browser with a session."""
    visit = visiting()
    visit.sign_in(stack.admin_token)
    visit.is_live()
    return visit


def row(page: Page, text: str) -> Locator:
    """The row of a table that holds this."""
    return page.get_by_role("row").filter(has_text=text)


def running(wire: Wire, name: str) -> str:
    """A task that runs until it is ended."""
    return wire.task("say at work\nsleep 100", name=name)


class TestAccess:
    """Who comes in."""

    def test_a_token_for_a_session(self, visiting: Visiting, stack: Stack) -> None:
        """Wrong ones are told so; the right one is neither in the address nor anywhere in the browser."""
        visit = visiting(expected="401")
        page = visit.page
        visit.sign_in("wrong")
        expect(page.get_by_role("alert")).to_contain_text("does not open the dashboard")
        visit.sign_in(stack.user_token)
        expect(page.get_by_role("alert")).to_contain_text("This is a user token")
        visit.sign_in(stack.admin_token)
        visit.is_live()
        assert page.url == f"{visit.url}/dashboard"
        (cookie,) = visit.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/dashboard")
        assert 11 < (cookie["expires"] - time.time()) / 3600 <= 12
        assert stack.admin_token not in json.dumps(visit.context.storage_state())
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Admin token")).to_be_focused()
        assert visit.context.cookies() == []
        page.go_back()
        page.goto(f"{visit.url}/dashboard/nodes")
        expect(page.get_by_label("Admin token")).to_be_visible()

    def test_without_a_session_there_is_only_the_sign_in(self, stack: Stack) -> None:
        """For pages, streams, products and actions."""
        for path in (*PAGES, "/tasks/some", "/tasks/some/preview", "/tasks/some/download/all.zip", "/nodes?page=2"):
            for accept in ("text/html", "text/event-stream"):
                answer = httpx.get(f"{stack.router_url}/dashboard{path}", headers={"accept": accept})
                assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/login"), path
        for path in ("/nodes/node-1/lock", "/tasks/some/cancel", "/tokens", "/tokens/first%20user/revoke"):
            answer = httpx.post(f"{stack.router_url}/dashboard{path}", headers={"sec-fetch-site": "same-origin"})
            assert (answer.status_code, answer.json()) == (401, {"error": "Your session is over. Sign in again."})

    def test_a_session_holds_on_every_replica_and_ends_by_itself(self, visiting: Visiting, stack: Stack) -> None:
        """Signed in at one, watching at the other; and where sessions are short, the page leaves by itself."""
        visit = visiting()
        visit.sign_in(stack.admin_token)
        visit.is_live()
        visit.url = stack.router_urls[SHORT]
        visit.open("/nodes")
        expect(row(visit.page, "node-1")).to_be_visible()
        short = visiting(stack.router_urls[SHORT])
        short.sign_in(stack.admin_token)
        short.is_live()
        expect(short.page.get_by_label("Admin token")).to_be_visible()

    def test_a_revoked_token_ends_its_session_at_once(
        self, visiting: Visiting, stack: Stack, admin: httpx.Client
    ) -> None:
        """Also on the other replica than the one that revoked it."""
        token = admin.post("/admin/tokens", json={"kind": "admin", "name": "for-a-while"}).json()["token"]
        other = f"{stack.router_urls[SHORT]}/admin/nodes"
        wait_until(lambda: httpx.get(other, params={"token": token}).status_code == 200, "the other to know the token")
        visit = visiting()
        visit.sign_in(token)
        visit.open("/tasks")
        revoked = httpx.delete(
            f"{stack.router_urls[SHORT]}/admin/tokens/for-a-while",
            headers={"Authorization": f"Bearer {stack.admin_token}"},
        )
        assert revoked.json() == {"revoked": True}
        expect(visit.page.get_by_label("Admin token")).to_be_visible()

    def test_too_many_wrong_tokens(self, stack: Stack) -> None:
        """From that address not even the right one is taken for a while; from others it is."""
        url = f"{stack.router_urls[SHORT]}/dashboard/login"

        def tried(token: str, address: str) -> httpx.Response:
            headers = {"x-forwarded-for": address, "sec-fetch-site": "same-origin"}
            return httpx.post(url, data={"token": token}, headers=headers)

        assert [tried("wrong", "203.0.113.7").status_code for _ in range(11)] == [401] * 10 + [429]
        refused = tried(stack.admin_token, "203.0.113.7")
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert tried(stack.admin_token, "203.0.113.8").status_code == 303

    def test_over_https_the_cookie_goes_over_nothing_else(self, stack: Stack) -> None:
        """Behind a proxy of this machine, which says so."""
        headers = {"sec-fetch-site": "same-origin", "x-forwarded-proto": "https"}
        answer = httpx.post(f"{stack.router_url}/dashboard/login", data={"token": stack.admin_token}, headers=headers)
        assert "secure" in answer.headers["set-cookie"].lower()

    def test_a_form_that_is_too_large(self, stack: Stack) -> None:
        """It is not read."""
        headers = {"sec-fetch-site": "same-origin"}
        url = f"{stack.router_url}/dashboard/login"
        assert httpx.post(url, data={"token": "x" * 100_000}, headers=headers).status_code == 413


class TestForgery:
    """Requests that another site's page makes a signed-in browser send."""

    def test_by_their_headers(self, signed_in: Visit, stack: Stack, admin: httpx.Client) -> None:
        """With the session's cookie, and without a word or with the wrong word of where they come from."""
        (cookie,) = signed_in.context.cookies()
        url = f"{stack.router_url}/dashboard/nodes/node-1/lock"

        def posted(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return httpx.post(url, cookies={cookie["name"]: cookie["value"]}, headers=named).status_code

        assert posted() == 403
        assert posted(origin="http://evil.example") == 403
        assert posted(origin="null") == 403
        assert posted(sec_fetch_site="same-site", origin=stack.router_url) == 403
        assert posted(sec_fetch_site="cross-site") == 403
        assert not any(node["locked"] for node in admin.get("/admin/nodes").json())
        assert posted(origin=stack.router_url) == 200
        assert posted(sec_fetch_site="same-origin") == 200

    def test_by_a_page_on_the_same_host(self, signed_in: Visit, stack: Stack, admin: httpx.Client) -> None:
        """Another port is the same site, so the cookie goes along; the request is refused nevertheless."""
        form = f'<form id="f" method="post" action="{stack.router_url}/dashboard/nodes/node-1/lock"></form>'
        script = "<script>document.getElementById('f').submit()</script>"
        with web_server() as web:
            web.pages["/"] = [Answer((form + script).encode(), headers={"content-type": "text/html"})]
            signed_in._expected = "403|favicon|404"
            signed_in.page.goto(web.url("/"))
            expect(signed_in.page.locator("body")).to_contain_text("did not come from the dashboard's own pages")
        assert not any(node["locked"] for node in admin.get("/admin/nodes").json())

    def test_every_page_has_a_strict_policy(self, signed_in: Visit, stack: Stack) -> None:
        """Nothing inline, nothing from elsewhere, in no frame; and no other site may read it."""
        (cookie,) = signed_in.context.cookies()
        for path in (*PAGES, "/login", "/nodes/nowhere", "/nothing", "/nodes/a%00b", "/tasks/%00"):
            answer = httpx.get(
                f"{stack.router_url}/dashboard{path}", cookies={cookie["name"]: cookie["value"]}, follow_redirects=True
            )
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy, path
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", answer.text), path


class TestNodes:
    """What is seen of nodes and done with them."""

    def test_a_node_dies_while_one_watches(self, signed_in: Visit, stack: Stack, wire: Wire) -> None:
        """It is late within seconds, without loading again; removed with its task, it is gone, and comes back."""
        page = signed_in.open("/nodes")
        tasks = [running(wire, f"on a dying node {number}") for number in (1, 2)]
        expect(row(page, "node-2").get_by_role("link", name="on a dying node")).to_be_visible()
        page.evaluate("window.mark = 'not loaded again'")
        os.kill(stack.pid_of("node-2"), signal.SIGKILL)
        expect(row(page, "node-2").locator(".badge")).to_have_text("late")
        expect(row(page, "node-1").locator(".badge")).to_have_text("healthy")
        assert page.evaluate("window.mark") == "not loaded again"
        row(page, "node-2").get_by_role("link", name="node-2").click()
        signed_in.is_live()
        page.get_by_role("button", name="Test").click()
        findings = page.locator("#findings")
        expect(findings).to_contain_text("It was last heard")
        expect(findings).to_contain_text("Nothing listens on port")
        page.get_by_role("button", name="Remove").click()
        asked = page.get_by_role("dialog")
        asked.get_by_label("Also with the tasks that run there").check()
        asked.get_by_role("button", name="Remove it").click()
        expect(page).to_have_url(f"{signed_in.url}/dashboard/nodes")
        signed_in.is_live()
        expect(row(page, "node-2")).to_have_count(0)
        for uuid in tasks:
            wire.act("cancel", uuid)
        stack.begin_again("node-2")
        expect(row(page, "node-2").locator(".badge")).to_have_text("healthy")

    def test_lock_drain_and_back(self, signed_in: Visit, admin: httpx.Client) -> None:
        """Each asks first, where it can hurt; going back changes nothing."""
        page = signed_in.open("/nodes/node-1")

        def stands(mark: str) -> bool:
            return bool(next(node for node in admin.get("/admin/nodes").json() if node["name"] == "node-1")[mark])

        page.get_by_role("button", name="Lock").click()
        page.get_by_role("dialog").get_by_role("button", name="Go back").click()
        assert not stands("locked")
        signed_in.confirm("Lock", "Lock node node-1?")
        signed_in.told("Node node-1 is locked")
        expect(page.locator("#state")).to_have_text("locked")
        assert stands("locked")
        page.get_by_role("button", name="Unlock").click()
        expect(page.locator("#state")).to_have_text("healthy")
        signed_in.confirm("Drain", "Drain node node-1?")
        expect(page.locator("#state")).to_have_text("draining")
        page.get_by_role("button", name="Test").click()
        expect(page.locator("#findings")).to_contain_text("It drains")
        expect(page.locator("#findings")).to_contain_text("It answers at")
        page.get_by_role("button", name="Stop draining").click()
        expect(page.locator("#state")).to_have_text("healthy")
        expect(page.locator("#events li").first).to_contain_text("by admin first admin")
        assert not stands("locked")
        assert not stands("draining")

    def test_the_list_is_searched_while_one_types(self, signed_in: Visit) -> None:
        """By name, label and state; the address can be passed on."""
        page = signed_in.open("/nodes")
        expect(page.locator("#nodes tr")).to_have_count(2)
        page.get_by_label("Find").fill("region=eu")
        expect(page.locator("#nodes tr")).to_have_count(1)
        expect(page.locator("#count")).to_have_text("1 of 2 nodes")
        expect(page.get_by_label("Find")).to_be_focused()
        page.reload()
        expect(page.locator("#nodes tr")).to_have_count(1)
        page.get_by_label("State").select_option("lost")
        expect(page.locator("#nodes tr")).to_have_count(0)

    def test_a_node_that_is_not_there(self, visiting: Visiting, stack: Stack) -> None:
        """In words; actions on it say so too."""
        visit = visiting(expected="404")
        visit.sign_in(stack.admin_token)
        visit.page.goto(f"{visit.url}/dashboard/nodes/nowhere")
        expect(visit.page.locator("main")).to_contain_text("There is no node nowhere")
        said = visit.page.evaluate("fetch('/dashboard/nodes/nowhere/lock', {method: 'POST'}).then((a) => a.json())")
        assert "There is no node nowhere; the nodes are: node-1, node-2." in said["error"]

    def test_two_browsers_see_the_same(self, signed_in: Visit, visiting: Visiting, stack: Stack) -> None:
        """What one does, the other sees, on another replica."""
        other = visiting()
        other.sign_in(stack.admin_token)
        other.url = stack.router_urls[SHORT]
        page = other.open("/nodes")
        signed_in.open("/nodes/node-2")
        signed_in.confirm("Lock", "Lock node node-2?")
        expect(row(page, "node-2").locator(".badge")).to_have_text("locked")


class TestTasks:
    """What is seen of tasks and done with them."""

    def test_a_task_is_watched_from_its_start_to_its_products(
        self, signed_in: Visit, wire: Wire, tmp_path: Path
    ) -> None:
        """It appears by itself; its console grows; its past is told; products are downloaded."""
        page = signed_in.open("/tasks")
        go = tmp_path / "go"
        name = f"watched {secrets.token_hex(4)}"
        uuid = wire.task(f"say first words\nuntil {go}\nsay last words", name=name)
        expect(row(page, name).locator(".badge")).to_have_text("running")
        row(page, name).get_by_role("link").first.click()
        signed_in.is_live()
        expect(page.get_by_role("log")).to_contain_text("first words")
        expect(page.locator("#timeline")).to_contain_text("It took its place in the queue")
        expect(page.locator("#timeline")).to_contain_text("Attempt 1 got a slot of node")
        page.evaluate("window.mark = 'not loaded again'")
        go.touch()
        expect(page.get_by_role("log")).to_contain_text("last words")
        expect(page.locator("#state .badge")).to_have_text("completed")
        assert page.evaluate("window.mark") == "not loaded again"
        expect(page.locator("#why")).to_contain_text("node-")
        page.get_by_text("What was thought of each node").click()
        expect(page.locator("#why table")).to_contain_text("slots free")
        picture = page.get_by_alt_text("Orthophoto")
        wait_until(lambda: picture.evaluate("image => image.naturalWidth > 100"), "the preview to be there")
        with page.expect_download() as download:
            page.get_by_role("link", name="all.zip").click()
        assert Path(download.value.path()).read_bytes().startswith(b"PK")
        signed_in.confirm("Restart", "Run this task once more?")
        expect(page.locator("#state .badge")).to_have_text(re.compile("queued|placed|running|staging|completed"))
        expect(page.locator("#timeline")).to_contain_text("Attempt 2 got a slot")
        wire.ended(uuid)
        signed_in.confirm("Remove", "Remove this task?")
        expect(page).to_have_url(f"{signed_in.url}/dashboard/tasks")
        assert "not found" in wire.info(uuid)["error"]

    def test_a_waiting_task_is_put_first_and_canceled(self, signed_in: Visit, wire: Wire, admin: httpx.Client) -> None:
        """It says why it waits."""
        for number in (1, 2):
            running(wire, f"in the way {number}")
        uuid = running(wire, "waits")
        page = signed_in.open(f"/tasks/{uuid}")
        expect(page.locator("#state .badge")).to_have_text("queued")
        expect(page.locator("#why")).to_contain_text("slots are taken")
        page.get_by_role("button", name="Priority").click()
        asked = page.get_by_role("dialog")
        asked.get_by_label("Priority").fill("7")
        page.keyboard.press("Enter")
        signed_in.told("The priority is 7.")
        expect(page.locator("#facts")).to_contain_text("Priority7")
        signed_in.confirm("Cancel", "Cancel this task?")
        expect(page.locator("#state .badge")).to_have_text("canceled")
        assert wire.code(uuid) == 50
        found = admin.get("/admin/events", params={"subject": uuid}).json()["events"]
        assert [(each["action"], each["actor"]["text"]) for each in found] == [
            ("task.canceled", "admin first admin"),
            ("task.priority", "admin first admin"),
        ]

    def test_searching_filtering_and_paging(self, signed_in: Visit, stack: Stack, wire: Wire) -> None:
        """Over more than one page."""
        with ThreadPoolExecutor(1) as pool:  # the browser has this thread's event loop
            pool.submit(insert, stack, "canceled", 55, f"many-{secrets.token_hex(4)}-").result()
        page = signed_in.open("/tasks")
        expect(page.locator("#tasks tr")).to_have_count(50)
        page.get_by_role("link", name="Older").click()
        signed_in.is_live()
        expect(page.get_by_role("link", name="Newest")).to_be_visible()
        page.get_by_role("link", name="Newest").click()
        uuid = wire.task("exit 1", name="to be found")
        wire.ended(uuid)
        page.get_by_label("Find").fill(uuid[:13].upper())
        expect(page.locator("#tasks tr")).to_have_count(1)
        page.get_by_label("Find").fill("TO BE fou")
        page.get_by_label("State").select_option("failed")
        expect(page.locator("#tasks tr")).to_have_count(1)
        expect(row(page, "to be found")).to_contain_text("Cannot process dataset")
        page.get_by_label("Tenant").fill("nobody")
        expect(page.locator("#none")).to_have_text("No such tasks.")

    def test_a_cursor_or_a_state_that_means_nothing(self, visiting: Visiting, stack: Stack) -> None:
        """Told in words."""
        visit = visiting(expected="404")
        visit.sign_in(stack.admin_token)
        for query in ("after=nonsense", "state=sleeping"):
            visit.page.goto(f"{visit.url}/dashboard/tasks?{query}")
            expect(visit.page.locator("main")).to_contain_text("expected")

    def test_names_are_only_text(self, signed_in: Visit, wire: Wire) -> None:
        """A script, and ten thousand letters, on every page that shows them."""
        nasty = wire.task(f"say {NASTY}\nsleep 100", name=NASTY)
        long = running(wire, "x" * 10_000)
        for path in ("/tasks", f"/tasks/{nasty}", f"/tasks/{long}", "/nodes", "/nodes/node-1", "/nodes/node-2"):
            page = signed_in.open(path)
            expect(page.locator("main")).to_contain_text(re.compile("<img src=x|xxxxxxxxxx"))
            assert page.locator("main script, main img:not(.preview img)").count() == 0, path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            assert max(map(len, page.locator("main").inner_text().split("\n"))) < 1500, path
        page = signed_in.open(f"/tasks/{nasty}")
        expect(page.get_by_role("log")).to_contain_text("<script>alert(2)</script>")
        signed_in.confirm("Cancel", "Cancel this task?")
        page = signed_in.open("/events")
        expect(row(page, "<img src=x").first).to_be_visible()
        assert page.locator("main script, main img").count() == 0


class TestTenants:
    """Tokens and their use."""

    def test_a_token_is_made_shown_once_used_and_revoked(self, signed_in: Visit, wire: Wire) -> None:
        """With its limits; the page shows it without loading again."""
        page = signed_in.open("/tenants")
        page.get_by_role("button", name="New token").click()
        asked = page.get_by_role("dialog")
        asked.get_by_label("Name").fill("no spaces please")
        asked.get_by_role("button", name="Make it").click()
        expect(asked).to_be_visible()
        asked.get_by_label("Name").fill("surveyors")
        asked.get_by_label("Tenant").fill(NASTY[:40])
        asked.get_by_label("Tasks at once").fill("3")
        asked.get_by_label("S3 prefixes").fill("s3://flights/\ns3://archive/north/")
        asked.get_by_role("button", name="Make it").click()
        token = asked.get_by_label("Copy it now").input_value()
        asked.get_by_role("button", name="Done").click()
        assert "error" not in httpx.get(f"{wire.url}/info", params={"token": token}).json()
        assert token not in page.content()
        made = row(page, "surveyors")
        expect(made).to_contain_text("3 at once")
        expect(made).to_contain_text("s3://archive/north/")
        made.get_by_role("button", name="Revoke").click()
        asked.get_by_role("button", name="Revoke it").click()
        expect(made).to_have_count(0)
        assert "error" in httpx.get(f"{wire.url}/info", params={"token": token}).json()

    def test_what_cannot_be_made_is_told_in_the_form(self, visiting: Visiting, stack: Stack) -> None:
        """And the form keeps what was filled in."""
        visit = visiting(expected="422")
        visit.sign_in(stack.admin_token)
        page = visit.open("/tenants")
        page.get_by_role("button", name="New token").click()
        asked = page.get_by_role("dialog")
        asked.get_by_label("Name").fill("limited")
        asked.get_by_label("Weight").evaluate("field => { field.max = ''; field.value = '5000'; }")
        asked.get_by_role("button", name="Make it").click()
        expect(asked.get_by_role("alert")).to_contain_text("less than or equal to 1000")
        expect(asked.get_by_label("Name")).to_have_value("limited")


def test_the_overview_has_its_plots(signed_in: Visit, wire: Wire) -> None:
    """And figures that follow what happens."""
    wire.ended(wire.task("exit 1", name="fails"))
    page = signed_in.open("?span=1h")
    figures = page.locator("#figures")
    expect(figures).to_contain_text("Free slots2 of 2")
    uuid = running(wire, "for the overview")
    expect(figures).to_contain_text("Free slots1 of 2")
    for title in ("Slots", "Queue depth", "Waits before a start", "Tasks that ended", "Failed attempts"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.locator("#ended svg rect.failed").first).to_be_attached()
    expect(page.locator("#failures svg")).to_contain_text("engine")
    page.get_by_role("link", name="7 days").click()
    signed_in.is_live()
    expect(page.get_by_role("heading", name="Tasks that ended, per 6 h")).to_be_visible()
    wire.act("cancel", uuid)


def test_events_say_who_did_what(signed_in: Visit) -> None:
    """The sign-in itself is one; they are found by what they are about, by whom, and by word."""
    page = signed_in.open("/events")
    expect(page.locator("#events tr").first).to_contain_text("signed in to the dashboard from 127.0.0.1")
    page.get_by_label("About").select_option("node")
    expect(row(page, "Node node-1 joined").first).to_be_visible()
    expect(row(page, "signed in")).to_have_count(0)
    page.get_by_label("Who").fill("node-1")
    expect(row(page, "Node node-2 joined")).to_have_count(0)
    page.get_by_label("Find").fill("no such words")
    expect(page.locator("#none")).to_have_text("No such events.")


def test_everything_is_reached_by_keyboard(signed_in: Visit) -> None:
    """The first Tab leads past the menu; a question takes the focus, Escape gives it back."""
    page = signed_in.open("/nodes/node-1")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.textContent"))
    assert stops[:5] == ["Nodes", "Test", "Lock", "Drain", "Remove"]
    page.get_by_role("button", name="Lock").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Go back")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Lock")).to_be_focused()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)], ids=["light", "dark", "phone"]
)
def test_axe_finds_no_fault(visiting: Visiting, stack: Stack, wire: Wire, scheme: str, width: int) -> None:
    """On any page; and no page is wider than the screen."""
    visit = visiting(color_scheme=scheme, viewport={"width": width, "height": 800})
    visit.page.goto(f"{visit.url}/dashboard/login")
    axe = Axe()
    assert faults(axe, visit.page) == []
    visit.sign_in(stack.admin_token)
    done, uuid = wire.task(name="of every kind"), running(wire, "at work")
    wire.ended(done)
    for path in ("?span=1h", *PAGES[1:], f"/tasks/{uuid}", f"/tasks/{done}"):
        page = visit.open(path)
        assert (path, faults(axe, page)) == (path, [])
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    visit.open("/tenants").get_by_role("button", name="New token").click()
    assert faults(axe, visit.page) == []


def faults(axe: Axe, page: Page) -> list[str]:
    """What axe finds."""
    found = axe.run(page).response["violations"]
    return [f"{each['impact']}: {each['help']}: {each['nodes'][0]['html']}" for each in found]


def test_an_outage_is_told_and_over_when_it_is_over(visiting: Visiting, stack: Stack) -> None:
    """The page stays; a page that is opened meanwhile says so and loads again by itself."""
    visit = visiting(expected="503|Failed to load resource")
    visit.sign_in(stack.admin_token)
    page = visit.open("/tasks")
    late = visit.context.new_page()
    with stack.without_postgres():
        expect(page.locator("#trouble")).to_contain_text("does not answer")
        late.goto(f"{visit.url}/dashboard/events")
        expect(late.locator("main")).to_contain_text("does not answer")
    expect(page.locator("#trouble")).to_be_hidden()
    expect(late.get_by_role("heading", name="Events")).to_be_visible()


def test_a_restarted_router_is_found_again(visiting: Visiting, stack: Stack) -> None:
    """An open page does not keep it from ending, and goes on when it is back, with the same session."""
    visit = visiting(expected="ERR_|Failed to load resource")
    visit.sign_in(stack.admin_token)
    visit.url = stack.router_urls[SHORT]
    page = visit.open("/nodes")
    process = stack.pid_of(SHORT)
    began = time.monotonic()
    os.kill(process, signal.SIGTERM)
    wait_until(lambda: stack.has_ended(SHORT), "the router to end")
    assert time.monotonic() - began < 25
    expect(page.locator("#live")).to_contain_text("No connection")
    stack.start_again(SHORT)
    visit.is_live()
    expect(row(page, "node-1")).to_be_visible()
