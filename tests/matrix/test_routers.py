"""Rows of the matrix: what happens to routers. `node-1` reaches all of them, and looks for another one by itself."""

import time
from typing import ClassVar
from uuid import uuid4

import httpx
import pytest

from tests.matrix.conftest import Given, Row
from tests.matrix.lab import NEVER_LOST_S, PATIENCE_S, Attempt, Lab
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
LEADS_WITHIN_S = 15.0
"""After the leader's death another one leads and places: 10 s (issue 4), and what a loaded machine adds."""
LEADS = " leads now"
"""So does a replica log that it leads."""


def only_run(given: Given, router: str) -> None:
    """See that the runs of before go on and end well, in their one attempt."""
    lab = given.lab
    lab.release(given.running)
    for uuid in (given.running, given.early):
        lab.completed(uuid, router)
        assert lab.attempts(uuid, router) == [Attempt(1, "node-1", "completed", None)]
    told = wait_until(
        lambda: lines if "released" in (lines := lab.wire(router).output(given.running)) else None, "the whole console"
    )
    assert told.count("begun") == 1


class OneOfTwoIsKilled(Row):
    """What is so whichever of two routers is killed."""

    routers = 2
    other: ClassVar[str]
    """The one that lives."""

    @pytest.mark.cell("new task", "the other takes it")
    def test_the_other_takes_a_new_task(self, given: Given) -> None:
        """And places it within the time that a change of leaders may take."""
        lab = given.lab
        uuid = lab.task(self.other)
        wait_until(lambda: lab.attempts(uuid, self.other), "the task to be placed", PATIENCE_S)
        assert time.monotonic() - given.broken_at < LEADS_WITHIN_S
        lab.completed(uuid, self.other)

    @pytest.mark.cell("running task", "unharmed")
    def test_runs_go_on(self, given: Given) -> None:
        """Their node reports to the other one."""
        only_run(given, self.other)

    @pytest.mark.cell("poll", "the other answers")
    def test_the_other_answers_polls(self, given: Given) -> None:
        """It was never away, and knows what the dead one knew."""
        saw = [each for each in given.lab.pollers.of(given.pinned, given.broken_at) if each.router == self.other]
        assert {each.code for each in saw} == {20}
        assert min(each.answer["progress"] for each in saw) == given.progress

    @pytest.mark.cell("cancel", "the other does it")
    def test_the_other_cancels(self, given: Given) -> None:
        """The run's processes are gone."""
        given.lab.cancel(given.doomed, self.other)
        given.lab.wait_gone(given.doomed, self.other)

    @pytest.mark.cell("download", "the other gives the link")
    def test_the_other_gives_the_products(self, given: Given) -> None:
        """From S3."""
        assert "odm_orthophoto/odm_orthophoto.tif" in given.lab.download(given.done, self.other)


@pytest.mark.row("one router replica killed (SIGKILL)")
class TestAReplicaIsKilled(OneOfTwoIsKilled):
    """One that did not lead."""

    other = "router"

    @staticmethod
    def break_it(lab: Lab) -> None:
        """The router that was started last."""
        assert LEADS in lab.log("router")
        assert LEADS not in lab.log("router-2")
        lab.kill("router-2")


@pytest.mark.row("the leading router killed (SIGKILL)")
class TestTheLeaderIsKilled(OneOfTwoIsKilled):
    """The one that places tasks."""

    other = "router-2"

    @staticmethod
    def break_it(lab: Lab) -> None:
        """The router that was started first."""
        assert LEADS in lab.log("router")
        assert LEADS not in lab.log("router-2")
        lab.kill("router")


@pytest.mark.row("all routers restart")
class TestAllRoutersRestart(Row):
    """SIGKILL of both, and both start again."""

    routers = 2
    lost_after_s = NEVER_LOST_S

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Kill them."""
        lab.kill("router")
        lab.kill("router-2")

    @pytest.mark.cell("new task", "connection drops, the client tries again")
    def test_a_new_task_is_tried_again_by_its_client(self, given: Given) -> None:
        """The same uuid and the same content, before, after, and at the other one as well: it is one task."""
        lab, uuid, root = given.lab, str(uuid4()), given.lab.images()
        for router in lab.stack.router_urls:
            with pytest.raises(httpx.TransportError):
                lab.submit(root, router, uuid)
        lab.mend()
        for router in lab.stack.router_urls:
            lab.submit(root, router, uuid)
        lab.completed(uuid)
        assert len(lab.attempts(uuid)) == 1

    @pytest.mark.cell("poll", "last known state, once a router is back")
    def test_the_first_polls_show_the_last_known_state(self, given: Given) -> None:
        """Nothing is forgotten, and nothing begins anew (I1, I6)."""
        lab = given.lab
        lab.mend()
        assert any(each.status is None for each in lab.pollers.of(given.pinned, given.broken_at))
        for router in lab.stack.router_urls:
            info = lab.wire(router).info(given.pinned)
            assert (info["status"]["code"], info["progress"]) == (20, given.progress)

    @pytest.mark.cell("cancel", "kept for the node")
    def test_a_cancel_is_kept_for_a_node_that_is_not_back_yet(self, given: Given) -> None:
        """The node hangs while the routers come back; it hears of the cancel when it reports."""
        lab = given.lab
        lab.mend()
        lab.hang("node-1")
        lab.cancel(given.doomed)
        assert lab.runs("node-1", given.doomed)
        lab.mend()
        lab.wait_gone(given.doomed)

    @pytest.mark.cell("running task", "unharmed")
    def test_runs_go_on(self, given: Given) -> None:
        """They do not notice."""
        given.lab.mend()
        only_run(given, "router")

    @pytest.mark.cell("download", "from S3, after the restart")
    def test_products_come_from_s3(self, given: Given) -> None:
        """As before."""
        given.lab.mend()
        assert "odm_orthophoto/odm_orthophoto.tif" in given.lab.download(given.done)
