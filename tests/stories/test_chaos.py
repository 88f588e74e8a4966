"""Everything dies again and again, and no task is lost, doubled, shown wrongly, or untold (I1, I3, I6, I7, I8).

`SCALEODM_TEST_CHAOS_S`: for how many seconds; `SCALEODM_TEST_CHAOS_SEED`: which things die when.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from common.embedded.stack import Stack
from common.references import MANIFEST, Reference, staged_root
from common.storage import ObjectMissing, Storage
from tests.conftest import STANDIN
from tests.receiver import Receiver, receiving
from tests.stories.chaos import Clients, Hand, Poller, RunWatch, Story, stories
from tests.waiting import wait_until

SECONDS = float(os.environ.get("SCALEODM_TEST_CHAOS_S", "180"))
SEED = int(os.environ.get("SCALEODM_TEST_CHAOS_SEED", "11"))
TASKS = 200
HEALS_WITHIN_S = 300.0
"""Long enough for what waits on purpose: webhooks whose caller died, clients that back off."""
NAMED = f"SCALEODM_TEST_CHAOS_S={SECONDS:.0f} SCALEODM_TEST_CHAOS_SEED={SEED}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Who is told of every task's end."""
    with receiving() as found:
        yield found


@pytest.fixture
def stack(tmp_path: Path, receiver: Receiver) -> Iterator[Stack]:
    """Two routers and four unequal nodes, with clocks that fit a story of minutes."""
    nodes = {"SCALEODM_NODE_ENGINE": "odm", "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}"}
    routers = {
        "SCALEODM_ROUTER_LATE_AFTER_S": "1.5",
        "SCALEODM_ROUTER_LOST_AFTER_S": "6",
        "SCALEODM_ROUTER_REST_S": "1",
        "SCALEODM_ROUTER_WEBHOOK": receiver.url(),
        "SCALEODM_ROUTER_WEBHOOK_PRIVATE": "on",
    }
    slots = {f"node-{number}": {"SCALEODM_NODE_SLOTS": str(number)} for number in (1, 2, 3, 4)}
    with Stack(
        tmp_path / "stack", nodes=4, routers=2, node_settings=nodes, router_settings=routers, own_settings=slots
    ) as running:
        yield running


@pytest.mark.timeout(SECONDS + 2 * HEALS_WITHIN_S)
def test_i1_i3_i6_i7_i8_chaos(stack: Stack, receiver: Receiver, tmp_path: Path) -> None:
    """Two routers, four nodes, 200 tasks of PyODM clients, and SIGKILL for every kind of process."""
    random = Random(SEED)
    watch = RunWatch(tmp_path / "stack" / "nodes")
    hand = Hand(stack, random, watch, tmp_path / "stack" / "logs")
    told = stories(random, TASKS, 0.8 * SECONDS)
    (tmp_path / "files").mkdir()
    clients = Clients(stack, told, tmp_path / "files")
    pollers = [Poller(url, stack.user_token, told) for url in stack.router_urls.values()]
    try:
        with ExitStack() as around:
            around.enter_context(watch.watching())
            for poller in pollers:
                around.enter_context(poller.polling())
            clients.start()
            hand.rage(SECONDS)
            hand.heal()

            def is_over() -> bool:
                hand.look_after()
                return clients.are_done

            wait_until(is_over, "every client to see the end of its tasks", HEALS_WITHIN_S)
        for poller in pollers:
            poller.look_at_all()
        check(stack, told, pollers, receiver)
        assert hand.unexpected == [], "programs that ended by themselves"
        assert watch.doubled == set(), "tasks that one node ran twice at once"
        wait_until(lambda: not watch.runs(), "every run to be gone", 60)
    except AssertionError as failure:
        deaths = "\n  ".join(hand.done)
        unfinished = clients.unfinished()
        raise AssertionError(f"{failure}\nunfinished: {unfinished}\n{NAMED}\nWhat died:\n  {deaths}") from failure
    print(f"{NAMED}: {len(hand.done)} deaths, {[dict(poller.answers) for poller in pollers]}")


def check(stack: Stack, told: list[Story], pollers: list[Poller], receiver: Receiver) -> None:
    """Every promise, once all is over."""
    assert [f"{each.number} {each.uuid}: {each.trouble}" for each in told if each.trouble] == []
    ends = [f"{each.uuid} ended {each.seen}, not {each.ends}" for each in told if each.seen != each.ends]
    with httpx.Client(base_url=stack.router_url, headers={"Authorization": f"Bearer {stack.user_token}"}) as http:
        whys = {each.uuid: http.get(f"/task/{each.uuid}/why").json() for each in told if each.uuid}
    assert ends == [], "\n".join(json.dumps(whys[line.split()[0]], indent=1) for line in ends)
    for poller in pollers:
        assert poller.wrong == [], "polls that saw something else than 200 or a dropped connection"
        assert poller.went_back() == {}, "codes that went back (I6)"
        # An attempt that was given up may be adopted again: how many there were, not which one counts, is the bound.
        fell = {
            uuid: whys[uuid]
            for uuid, count in poller.progress_fell.items()
            if count >= max(1, len(whys[uuid]["attempts"]))
        }
        assert fell == {}, "progress that went back within an attempt (I6)"
        assert {codes[-1] for codes in poller.codes.values()} <= {30, 40, 50}
    storage = stack.storage()
    for each in told:
        check_attempts(each, whys[each.uuid])
        check_products(each, whys[each.uuid], storage, stack)
    for each in told:
        if whys[each.uuid]["attempts"]:
            wait_until(lambda uuid=each.uuid: receiver.to(uuid), f"a webhook of {each.uuid}", 90)  # type: ignore[misc]
        calls = receiver.to(each.uuid)
        assert len({call.delivery for call in calls}) <= 1, "one end, one webhook"


def check_attempts(story: Story, why: dict[str, Any]) -> None:
    """All have ended, and as many of them well as is right."""
    states = [attempt["state"] for attempt in why["attempts"]]
    assert not {"placed", "running"} & set(states), why
    if story.ends == 40:
        assert states.count("completed") == 1, why
    elif story.ends == 30:
        assert states.count("completed") == 0, why


def check_products(story: Story, why: dict[str, Any], storage: Storage, stack: Stack) -> None:
    """Whole, once, and by the attempt that is on record as the one that completed."""
    output = staged_root(Reference.parse("s3://staging/"), story.uuid) / "output/"
    try:
        manifest = json.loads(storage.read(output / MANIFEST))
    except ObjectMissing:
        assert story.ends != 40, f"{story.uuid} completed, and its output has no manifest"
        return
    if story.ends == 50:
        return  # a cancel may come when everything is published
    assert story.ends == 40, f"{story.uuid} failed, and its output has a manifest"
    completed = next(each["number"] for each in why["attempts"] if each["state"] == "completed")
    if manifest["attempt"] != completed:
        console = httpx.get(f"{stack.router_url}/task/{story.uuid}/output", params={"token": stack.user_token}).json()
        assert f"Attempt {manifest['attempt']} of this task has published its products already." in console, why
    for each in manifest["objects"]:
        data = storage.read(output / each["name"])
        assert len(data) == each["size"], each
        assert hashlib.sha256(data).hexdigest() == each["sha256"], each
