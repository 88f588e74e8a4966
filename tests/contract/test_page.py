"""The page at `/`, in a real browser: whoever opens the address can submit a task and fetch its products."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import PATIENCE_MS, chromium
from tests.client import JPEG, Wire

Opened = Callable[..., Page]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["router", "node"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """The NodeODM API of either."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, where the machine has one."""
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Browser, wire: Wire) -> Iterator[Opened]:
    """Opens the page; anything that the browser complains about fails the test."""
    context = browser.new_context(locale="en-GB", accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []

    def opening(token: str | None = None, expected: str = "nothing") -> Page:
        """`expected`: complaints that the test itself has brought about."""

        def hear(text: str) -> None:
            if not re.search(expected, text):
                complaints.append(text)

        page = context.new_page()
        page.on("console", lambda message: hear(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: hear(str(error)))
        page.goto(wire.url + (f"/?token={token}" if token else "/"))
        return page

    yield opening
    context.close()
    assert complaints == []


def images(folder: Path, *names: str, orders: str = "") -> list[Path]:
    """Files to choose."""
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.write_bytes(JPEG + bytes([number]) * 1000)
    if orders:
        paths.append(folder / "gcp_list.txt")
        paths[-1].write_text(orders)
    return paths


def submit(page: Page, files: list[Path], name: str) -> None:
    """Choose files, name the task, start it."""
    page.get_by_label("Images", exact=True).set_input_files(files)
    page.get_by_label("Name (may be left out)").fill(name)
    page.get_by_role("button", name="Start the task").click()


@pytest.mark.contract("2.1 page")
def test_a_task_is_submitted_watched_and_its_products_loaded(opened: Opened, wire: Wire, tmp_path: Path) -> None:
    """The whole way in the browser: files, name, an option, upload, console, download."""
    page = opened(wire.token)
    files = images(tmp_path, "a.jpg", "b.jpg", "c.jpg", orders="say hello page")
    page.get_by_label("Images", exact=True).set_input_files(files)
    expect(page.get_by_text("4 files")).to_be_visible()
    page.get_by_label("Name (may be left out)").fill("from the browser")
    page.get_by_text("Options").first.click()
    page.get_by_label("Find an option").fill("mesh-size")
    page.get_by_label("mesh-size", exact=True).fill("12345")
    page.get_by_label("Find an option").fill("dsm")
    page.get_by_label("dsm", exact=True).check()
    page.get_by_role("button", name="Start the task").click()
    expect(page.get_by_text("The task is submitted with 4 files.")).to_be_visible()
    task = page.get_by_role("listitem").filter(has_text="from the browser")
    expect(task.get_by_text("Completed")).to_be_visible(timeout=40_000)
    expect(task.get_by_role("log")).to_contain_text("hello page")
    with page.expect_download() as download:
        task.get_by_role("link", name="Download all.zip").click()
    assert Path(download.value.path()).read_bytes().startswith(b"PK")
    uuid = wire.get("/task/list").json()[-1]["uuid"]
    info = wire.info(uuid)
    assert (info["name"], info["imagesCount"]) == ("from the browser", 3)
    given = {each["name"]: each["value"] for each in info["options"]}
    assert (given["mesh-size"], given["dsm"]) == (12345, True)


def test_without_a_token_it_asks_for_one_and_keeps_it_nowhere(opened: Opened, wire: Wire) -> None:
    """A wrong one is told so; the right one opens; a reload asks again."""
    page = opened()
    field = page.get_by_label("Access token")
    expect(field).to_be_focused()
    expect(page.get_by_role("heading", name="New task")).to_be_hidden()
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("does not open this service")
    field.fill(wire.token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="New task")).to_be_visible()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert wire.token not in page.url
    page.reload()
    expect(field).to_be_visible()


def test_a_script_in_a_name_is_only_text(opened: Opened, wire: Wire, tmp_path: Path) -> None:
    """In the name of a task, of a file, and on its console."""
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page = opened(wire.token)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    submit(page, images(tmp_path, "<b onclick=x>.jpg", orders=f"say {nasty}"), nasty)
    task = page.get_by_role("listitem").filter(has_text=nasty).first
    expect(task.get_by_text("Completed")).to_be_visible(timeout=40_000)
    expect(task.get_by_role("log")).to_contain_text(nasty)
    assert page.locator("main img, main script, main b").count() == 0
    assert dialogs == []


def test_a_running_task_is_canceled_and_removed(opened: Opened, wire: Wire, tmp_path: Path) -> None:
    """Each after a question."""
    page = opened(wire.token)
    page.on("dialog", lambda dialog: dialog.accept())
    submit(page, images(tmp_path, "a.jpg", orders="sleep 60"), "soon over")
    task = page.get_by_role("listitem").filter(has_text="soon over")
    task.get_by_role("button", name="Cancel").click()
    expect(task.get_by_text("Canceled", exact=True)).to_be_visible()
    uuid = wire.get("/task/list").json()[-1]["uuid"]
    assert wire.code(uuid) == 50
    task.get_by_role("button", name="Remove").click()
    expect(task).to_have_count(0)
    assert "not found" in wire.info(uuid)["error"]


def test_a_file_that_does_not_arrive_is_sent_again(opened: Opened, wire: Wire, tmp_path: Path) -> None:
    """Dropped connections cost a wait, not the task."""
    page = opened(wire.token, expected="ERR_CONNECTION_RESET")
    drops = 2

    def sometimes(route: Route) -> None:
        nonlocal drops
        drops -= 1
        if drops >= 0:
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/task/new/upload/**", sometimes)
    submit(page, images(tmp_path, "a.jpg", "b.jpg"), "over a bad line")
    expect(page.get_by_text("The task is submitted with 2 files.")).to_be_visible()
    assert drops < 0
    assert wire.ended(wire.get("/task/list").json()[-1]["uuid"])["imagesCount"] == 2


def test_what_is_refused_is_told_and_can_be_mended(opened: Opened, wire: Wire, tmp_path: Path) -> None:
    """A wrong option names itself; the form stays as it was."""
    page = opened(wire.token)
    page.get_by_role("button", name="Start the task").click()
    expect(page.get_by_role("alert").first).to_have_text("Choose at least one image.")
    page.get_by_text("Options").first.click()
    page.get_by_label("mesh-octree-depth", exact=True).fill("99")
    submit(page, images(tmp_path, "a.jpg"), "wrong at first")
    expect(page.get_by_role("alert").first).to_have_text("mesh-octree-depth: Invalid value 99 (out of range)")
    page.get_by_role("button", name="Back to defaults").click()
    page.get_by_role("button", name="Start the task").click()
    expect(page.get_by_text("The task is submitted with 1 file.")).to_be_visible()


@pytest.mark.parametrize("hanging", ["init*", "upload/**"])
def test_an_upload_can_be_given_up(opened: Opened, wire: Wire, tmp_path: Path, hanging: str) -> None:
    """Already while it is announced. The chosen files stay; nothing becomes a task."""
    page = opened(wire.token)
    known = wire.get("/task/list").json()
    page.route(f"**/task/new/{hanging}", lambda _: None)  # never answered
    submit(page, images(tmp_path, "a.jpg"), "given up")
    page.get_by_role("button", name="Cancel the upload").click()
    expect(page.get_by_text("The upload was canceled.")).to_be_visible()
    expect(page.get_by_role("button", name="Start the task")).to_be_enabled()
    expect(page.get_by_text("1 file,")).to_be_visible()
    assert wire.get("/task/list").json() == known
    page.unroute_all(behavior="ignoreErrors")


def test_after_one_that_was_given_up_every_file_is_sent_again(opened: Opened, wire: Wire, tmp_path: Path) -> None:
    """What had arrived before belongs to the upload that was given up."""
    page = opened(wire.token)
    hangs = True

    def second(route: Route) -> None:
        if hangs and b"b.jpg" in (route.request.post_data_buffer or b""):
            return  # never answered
        route.continue_()

    page.route("**/task/new/upload/**", second)
    submit(page, images(tmp_path, "a.jpg", "b.jpg"), "given up at first")
    expect(page.get_by_text("1 of 2 files sent")).to_be_visible()
    page.get_by_role("button", name="Cancel the upload").click()
    expect(page.get_by_text("The upload was canceled.")).to_be_visible()
    hangs = False
    page.get_by_role("button", name="Start the task").click()
    expect(page.get_by_text("The task is submitted with 2 files.")).to_be_visible()
    assert wire.ended(wire.get("/task/list").json()[-1]["uuid"])["imagesCount"] == 2
    page.unroute_all(behavior="ignoreErrors")


def test_everything_is_reached_by_keyboard_on_a_phone(opened: Opened, wire: Wire) -> None:
    """Tab leads from the files to the start, each stop is seen, and nothing is wider than the screen."""
    page = opened(wire.token)
    page.set_viewport_size({"width": 360, "height": 740})
    expect(page.get_by_role("heading", name="New task")).to_be_visible()
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if stops[-1] == "start":
            break
    assert [each for each in stops if each in ("files", "name", "SUMMARY", "start")] == [
        "files",
        "name",
        "SUMMARY",
        "start",
    ]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Find an option")).to_be_visible()
    field = page.get_by_label("Images", exact=True)
    field.set_input_files({"name": "x" * 90 + ".jpg", "mimeType": "image/jpeg", "buffer": JPEG})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_dropped_files_are_taken(opened: Opened, wire: Wire) -> None:
    """Drag and drop."""
    page = opened(wire.token)
    expect(page.get_by_role("heading", name="New task")).to_be_visible()
    dropped = page.evaluate_handle(
        "() => { const held = new DataTransfer(); held.items.add(new File(['x'], 'dropped.jpg')); return held; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.get_by_text("dropped.jpg")).to_be_visible()
    page.get_by_role("button", name="Remove dropped.jpg").click()
    expect(page.get_by_text("dropped.jpg")).to_have_count(0)


def test_the_page_survives_a_server_that_is_away(opened: Opened, wire: Wire) -> None:
    """It says so, and goes on when the server is back."""
    uuid = wire.task("sleep 60")
    page = opened(wire.token, expected="502")
    expect(page.get_by_text("Running").or_(page.get_by_text("Preparing")).first).to_be_visible()
    page.route("**/task/**", lambda route: route.fulfill(status=502, body="<p>Bad gateway"))
    trouble = page.locator("#tasks-alert")
    expect(trouble).to_contain_text("status 502")
    page.unroute_all(behavior="ignoreErrors")
    expect(trouble).to_be_hidden()
    wire.act("cancel", uuid)


class TestItsFiles:
    """What a browser is given, without one."""

    def test_they_are_answered_by_304_when_known(self, wire: Wire) -> None:
        """Also under a weak form of the same tag."""
        page = wire.http.get(wire.url + "/").text
        names = {"/", *("/" + name for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page))}
        assert {"/", "/page/main.js", "/page/page.css", "/page/icon.svg"} <= names
        for name in names:
            answer = wire.http.get(wire.url + name)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=0"), name
            tag = answer.headers["etag"]
            for known in (tag, f'W/{tag}, "other"'):
                again = wire.http.get(wire.url + name, headers={"if-none-match": known})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert wire.http.head(wire.url + name).headers["content-length"] == str(len(answer.content))

    def test_nothing_comes_from_elsewhere_and_nothing_is_inline(self, wire: Wire) -> None:
        """The policy lets in this address only."""
        answer = wire.http.get(wire.url + "/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (answer.headers["referrer-policy"], answer.headers["x-content-type-options"]) == (
            "no-referrer",
            "nosniff",
        )
        assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", answer.text)
        assert "//" not in answer.text.replace("<!DOCTYPE html>", "")

    def test_no_other_file_is_given_out(self, wire: Wire) -> None:
        """Nor anything above its folder."""
        for name in ("nothing.js", "..%2ffront.py", "%2e%2e/pages.py", ""):
            assert httpx.get(f"{wire.url}/page/{name}").status_code == 404, name
