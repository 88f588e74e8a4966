"""`python -m tests.router.dashboard.screenshots`: makes `docs/images/dashboard-*.png` anew.

The federation is real, with its nodes, runs and orthophoto; its yesterday is made up, for who would wait a day?
"""

import asyncio
import io
import math
import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from PIL import Image
from playwright.sync_api import Browser, Page
from pyodm import Node

from common.embedded.flight import render_flight
from common.embedded.stack import Stack
from common.tasks import State, Task
from router.tables import TaskRow
from tests.arrangements import ENGINE
from tests.browser import chromium
from tests.client import Wire
from tests.waiting import wait_until

FOLDER = Path(__file__).parents[3] / "docs" / "images"
MOST_BYTES = 150_000
NAMES = (
    "Harbour",
    "North field",
    "Quarry",
    "Flood plain",
    "Village",
    "Orchard",
    "Coast line",
    "Landfill",
    "Forest edge",
)
STANDINS = '["node-1", "node-2", "node-3"]'
OWN = {
    "node-1": {"SCALEODM_NODE_SLOTS": "2", "SCALEODM_NODE_LABELS": '{"region": "eu"}'},
    "node-2": {"SCALEODM_NODE_SLOTS": "4", "SCALEODM_NODE_LABELS": '{"region": "eu", "gpu": "yes"}'},
    "node-3": {"SCALEODM_NODE_SLOTS": "3", "SCALEODM_NODE_LABELS": '{"region": "us"}'},
    "node-4": {"SCALEODM_NODE_ENGINE": "orthomosaic", "SCALEODM_NODE_LABELS": '{"region": "eu", "engine": "fast"}'},
}


def main() -> None:
    """Take every picture."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, httpx.Client(timeout=60) as http:
        scratch = Path(folder)
        with Stack(scratch / "stack", 4, None, lambda _: None, ENGINE, None, 1, OWN) as stack:
            asyncio.run(remember(stack))
            stack.start_again("router")
            mapped = survey(stack, scratch, http)
            work(Wire(stack.router_url, stack.user_token, http), stack)
            with chromium() as browser:
                take_all(browser, stack, mapped)


def survey(stack: Stack, scratch: Path, http: httpx.Client) -> str:
    """One real orthophoto; gives its task."""
    node = Node.from_url(f"{stack.router_url}?token={stack.user_token}")
    files = [str(path) for path in render_flight(scratch / "flight")]
    wire = Wire(stack.router_url, stack.user_token, http)
    uuid = wire.init(
        {
            "name": "Harbour, east basin",
            "nodes": '["node-4"]',
            "options": '[{"name": "fast-orthophoto", "value": true}]',
        }
    )
    for path in map(Path, files):
        wire.upload(uuid, (path.name, path.read_bytes()))
    wire.commit(uuid)
    wire.ended(uuid, within_s=300)
    assert node.get_task(uuid).info().status.value == 40, wire.info(uuid)
    return uuid


def work(wire: Wire, stack: Stack) -> None:
    """What goes on while the pictures are taken, and what an administrator has just done."""
    headers = {"Authorization": f"Bearer {stack.admin_token}"}
    order = {"kind": "user", "name": "survey-app", "tenant": "coast-office", "limits": {"running": 6, "weight": 2.0}}
    httpx.post(f"{stack.router_url}/admin/tokens", json=order, headers=headers).raise_for_status()
    for number in range(12):
        wire.task(
            f"say matching images\nlines 60\nsleep {300 + 20 * number}",
            name=f"{NAMES[number % 9]} {2026 + number % 2}",
            nodes=STANDINS,
        )
    uuid = wire.task("sleep 300", name="sent by mistake")
    wire.act("cancel", uuid)
    httpx.post(f"{stack.router_url}/admin/nodes/node-3/drain", headers=headers).raise_for_status()
    wait_until(
        lambda: sum(wire.code(each["uuid"]) == 20 for each in wire.get("/task/list").json()) >= 8, "runs to begin"
    )


async def remember(stack: Stack) -> None:
    """A day that was."""
    chance = random.Random(6)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    connection = await asyncpg.connect(stack.database_url)
    try:
        await connection.execute("SET session_replication_role = replica")  # no trigger says that it ended just now
        await connection.execute("DELETE FROM samples")
        await connection.executemany(
            "INSERT INTO samples VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            [sample(now - timedelta(minutes=minute), chance) for minute in range(1, 26 * 60)],
        )
        nodes = [row["id"] for row in await connection.fetch("SELECT id FROM nodes ORDER BY name")]
        for number in range(420):
            await remember_task(connection, chance, now, number, nodes)
    finally:
        await connection.close()


def busy(at: datetime) -> float:
    """How much work comes at an hour of the day, 0 to 1."""
    return 0.5 + 0.5 * math.sin((at.hour + at.minute / 60 - 9) / 24 * 2 * math.pi)


def sample(at: datetime, chance: random.Random) -> tuple[Any, ...]:
    """A minute of that day."""
    slots = 10 if at.hour > 3 else 7
    wanted = busy(at) * 13 + chance.random() * 1.5
    used = min(slots, int(wanted))
    queued = max(0, int(wanted - slots))
    return (at, 4, 4 if slots == 10 else 3, slots, used, slots - used, queued, used, queued * 240.0)


async def remember_task(
    connection: asyncpg.Connection, chance: random.Random, now: datetime, number: int, nodes: list[str]
) -> None:
    """A task of that day."""
    ended = now - timedelta(minutes=chance.random() ** 0.8 * 1400)
    waited, ran = (
        timedelta(seconds=chance.expovariate(1 / (20 + 900 * busy(ended) ** 3))),
        timedelta(minutes=chance.uniform(5, 90)),
    )
    state = chance.choices((State.COMPLETED, State.FAILED, State.CANCELED), (30, 3, 1))[0]
    cause = chance.choice(("engine", "engine", "out of memory", "input", "lost", "infrastructure"))
    tenant = chance.choice(("coast-office", "default", "default"))
    row = TaskRow.of(
        Task(
            uuid=f"{chance.getrandbits(128):032x}"[:8] + f"-0000-4000-8000-{number:012d}",
            tenant=tenant,
            token="survey-app" if tenant == "coast-office" else "first user",
            name=f"{chance.choice(NAMES)} {chance.randint(1, 40)}",
            created_ms=int((ended - ran - waited).timestamp() * 1000),
            state=state,
            input="s3://flights/2026/",
            output="s3://flights/2026/output/",
            images_count=chance.randint(40, 2400),
            input_bytes=4_000_000_000,
            attempt=1,
            processing_ms=int(ran.total_seconds() * 1000),
            progress=100.0,
            error="Cannot process dataset" if state is State.FAILED else None,
        )
    )
    row.committed_at = row.opened_at = ended - ran - waited
    row.ended_at = ended
    await connection.execute(
        "INSERT INTO tasks SELECT * FROM jsonb_populate_record(NULL::tasks, $1)", row.model_dump_json()
    )
    await connection.execute(
        "INSERT INTO attempts (task_uuid, number, node_id, state, delivered, why, reasons, cause, next_line, "
        "queued_at, placed_at, began_at, ended_at) "
        "VALUES ($1, 1, $2, $3, true, 'least loaded', '[]', $4, 0, $5, $6, $6, $7)",
        row.uuid, chance.choice(nodes), state.value, cause if state is State.FAILED else None,
        row.committed_at, ended - ran, ended,
    )  # fmt: skip


def take_all(browser: Browser, stack: Stack, mapped: str) -> None:
    """Each page, as a person sees it."""
    context = browser.new_context(locale="en-GB", timezone_id="Europe/Berlin", viewport={"width": 1180, "height": 760})
    page = context.new_page()
    url = f"{stack.router_url}/dashboard"
    page.goto(f"{url}/login")
    save(page, "login", height=420)
    page.get_by_label("Admin token").fill(stack.admin_token)
    page.get_by_role("button", name="Sign in").click()
    for name, path, height in (
        ("overview", "?span=1d", 1090), ("nodes", "/nodes", 560), ("tasks", "/tasks", 760),
        ("tenants", "/tenants", 760), ("events", "/events", 620),
    ):  # fmt: skip
        show(page, url + path)
        save(page, name, height)
    show(page, f"{url}/nodes/node-3")
    page.get_by_role("button", name="Test").click()
    page.locator("#findings li").first.wait_for()
    save(page, "node", 760)
    show(page, f"{url}/tasks/{mapped}")
    picture = page.get_by_alt_text("Orthophoto")
    wait_until(lambda: picture.evaluate("image => image.naturalWidth > 100"), "the preview")
    save(page, "task", 1250)
    page.set_viewport_size({"width": 390, "height": 760})
    page.emulate_media(color_scheme="dark")
    show(page, f"{url}/nodes")
    save(page, "phone", 760)
    context.close()


def show(page: Page, url: str) -> None:
    """A page, live."""
    page.goto(url)
    page.locator("#live[data-state=live]").wait_for()
    page.wait_for_timeout(500)


def save(page: Page, name: str, height: int) -> None:
    """The top of a page, as a PNG of few colours."""
    taken = page.screenshot(full_page=True)
    with Image.open(io.BytesIO(taken)) as whole:
        cut = whole.convert("RGB").crop((0, 0, whole.width, min(whole.height, height)))
    path = FOLDER / f"dashboard-{name}.png"
    for colours in (256, 128, 64):
        cut.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            return
    raise AssertionError(f"{path} has {path.stat().st_size} bytes; expected fewer than {MOST_BYTES}.")


if __name__ == "__main__":
    main()
