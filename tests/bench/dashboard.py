"""What the dashboard costs a router with a thousand nodes and a hundred thousand tasks, in a real browser."""

import os
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from playwright.sync_api import Page

from common.embedded.children import free_port, start_child
from common.embedded.stack import Stack, answers
from tests.bench.federation import KNOWN, NODES, SLOTS, insert
from tests.browser import chromium
from tests.waiting import wait_until

RUNNING = 5_000
ROUNDS = 5
WATCH_S = 20.0
_PAGES = {
    "overview": ("", "#figures"),
    "nodes": ("/nodes", "#nodes tr"),
    "one node": ("/nodes/node-1", "#facts"),
    "tasks": ("/tasks", "#tasks tr"),
    "tasks, searched": ("/tasks?q=burst-123", "#tasks tr"),
    "one task": ("/tasks/past-77", "#facts"),
    "tenants": ("/tenants", "#others tr"),
    "events": ("/events", "#events tr"),
}


def dashboard() -> None:
    """Each page's first look, how soon a change is seen, and what watching takes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with Stack(scratch / "stack", nodes=0) as stack:
            insert(stack, "completed", KNOWN, "past-")
            stack.begin_again("router")
            wait_until(lambda: answers(f"{stack.router_url}/readyz"), "the router to have read its tasks", 300)
            port = free_port()
            argv = [sys.executable, "-m", "tests.bench.fleet", stack.router_url, stack.node_token]
            argv += [str(port), str(NODES), str(SLOTS)]
            fleet = start_child("fleet", argv, os.environ, scratch / "fleet.log")
            try:
                fleet.wait_until(lambda: _nodes(stack) == NODES, 180)
                insert(stack, "staging", RUNNING, "burst-")
                wait_until(lambda: _tasks(stack, "waiting") == 0, "the burst to be placed", 200)
                _measure(stack)
            finally:
                fleet.stop()


def _measure(stack: Stack) -> None:
    print(f"\nThe dashboard of {NODES:,} nodes and {KNOWN:,} tasks, {RUNNING:,} of others running")
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{stack.router_url}/dashboard/login")
        page.get_by_label("Admin token").fill(stack.admin_token)
        page.get_by_role("button", name="Sign in").click()
        page.locator("#figures").wait_for()
        for name, (path, seen) in _PAGES.items():
            first = min(_first_look(page, f"{stack.router_url}/dashboard{path}", seen) for _ in range(ROUNDS))
            print(f"  {name + ', first look':<34}{first * 1000:6.0f} ms")
        print(f"  {'a lock is seen elsewhere within':<34}{_seen_within(page, stack) * 1000:6.0f} ms")
        idle = _share(stack)
        print(f"  {'the router, nobody watching':<34}{idle:6.2f} of a core")
        for name in ("overview", "nodes", "tasks"):
            page.goto(f"{stack.router_url}/dashboard{_PAGES[name][0]}")
            page.locator("#live[data-state=live]").wait_for()
            print(f"  {name + ', watched':<34}{_share(stack) - idle:+6.2f} of a core")


def _first_look(page: Page, url: str, seen: str) -> float:
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator(seen).first.wait_for()
    return time.perf_counter() - began


def _seen_within(page: Page, stack: Stack) -> float:
    """Seconds from the answer to somebody else's request until the page shows it: the median of a few."""
    page.goto(f"{stack.router_url}/dashboard/nodes/node-1")
    page.locator("#live[data-state=live]").wait_for()
    took = []
    for action in ("lock", "unlock") * ROUNDS:
        time.sleep(1.5)
        answer = httpx.post(f"{stack.router_url}/admin/nodes/node-1/{action}", headers=_admin(stack), timeout=30)
        assert answer.status_code == httpx.codes.OK
        began = time.perf_counter()
        page.locator("#events li").first.get_by_text(f"is {action}ed").wait_for()
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


def _share(stack: Stack) -> float:
    process = psutil.Process(stack.pid_of("router"))
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(WATCH_S)
    after, seconds = process.cpu_times(), time.monotonic() - began
    return (after.user + after.system - before.user - before.system) / seconds


def _admin(stack: Stack) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.admin_token}"}


def _nodes(stack: Stack) -> int:
    answer = httpx.get(f"{stack.router_url}/admin/nodes", headers=_admin(stack), timeout=60)
    return sum(node["health"] == "healthy" for node in answer.json())


def _tasks(stack: Stack, state: str) -> int:
    query = {"state": state, "limit": "1"}
    answer = httpx.get(f"{stack.router_url}/admin/tasks", params=query, headers=_admin(stack), timeout=60)
    return len(answer.json()["tasks"])
