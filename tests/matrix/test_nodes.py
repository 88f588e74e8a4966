"""Rows of the matrix: what happens to a node, and to what is between it and its router."""

import time
from statistics import median

import pytest

from common.tasks import Cause
from tests.matrix.conftest import Given, Row
from tests.matrix.lab import NEVER_LOST_S, PATIENCE_S, Attempt, Lab
from tests.matrix.proxy import Way
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
AT_ONCE_S = 1.0
"""A request that needs no node is answered from memory, whatever nodes do (I10): the median of many, for the machine
that tests run on stalls as well."""
CANCELED_WITHIN_S = 5.0
"""A cancel waits for Postgres, and for no node."""


class NodeIsAway(Row):
    """What is so whenever the router does not reach one of two nodes."""

    gives_up = True
    """Whether the node is away for longer than its tasks wait for it."""

    @pytest.mark.cell("new task", "another node takes it")
    def test_a_new_task_runs_on_the_other_node(self, given: Given) -> None:
        """Also one that was on its way to the node that broke."""
        uuid = given.lab.task()
        given.lab.completed(uuid)
        assert given.lab.attempts(uuid)[-1].node == "node-2"

    @pytest.mark.cell("poll", "20, with the last known progress, at once")
    def test_i10_polls_are_answered_with_what_is_known_at_once(self, given: Given) -> None:
        """Before the attempt is given up and after it (I6, I10): of a task that no other node may take."""
        lab = given.lab
        if self.gives_up:
            wait_until(lambda: lab.attempts(given.pinned)[0].cause == Cause.LOST, "the node to be given up", PATIENCE_S)
        since = time.monotonic()
        wait_until(lambda: len(lab.pollers.of(given.pinned, since)) > 2, "more polls")
        saw = lab.pollers.of(given.pinned, given.broken_at)
        assert {(each.code, each.answer["progress"]) for each in saw} == {(20, given.progress)}
        assert median(each.seconds for each in saw) < AT_ONCE_S

    @pytest.mark.cell("cancel", "at once")
    def test_cancel_is_answered_at_once(self, given: Given) -> None:
        """Canceled from the answer on (I7), whatever the node does."""
        assert given.lab.cancel(given.doomed) < CANCELED_WITHIN_S

    @pytest.mark.cell("download", "from S3")
    def test_products_come_from_s3(self, given: Given) -> None:
        """No node is needed for that."""
        assert "odm_orthophoto/odm_orthophoto.tif" in given.lab.download(given.done)


@pytest.mark.row("node killed, its Jobs live")
class TestNodeIsKilled(NodeIsAway):
    """SIGKILL of the node's process. It comes back before its tasks are given up."""

    lost_after_s = NEVER_LOST_S
    gives_up = False

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Kill it."""
        lab.kill("node-1")

    @pytest.mark.cell("running task", "goes on, and is adopted again")
    def test_the_run_goes_on_and_is_adopted_again(self, given: Given) -> None:
        """One run, not two; also of the task that ended while nobody watched it."""
        lab = given.lab
        assert lab.runs("node-1", given.running)
        wait_until(lambda: lab.manifest(given.early), "the products of a run that nobody watches", PATIENCE_S)
        lab.mend()
        lab.release(given.running)
        for uuid in (given.running, given.early):
            lab.completed(uuid)
            assert lab.attempts(uuid) == [Attempt(1, "node-1", "completed", None)]
        assert lab.wire().output(given.running).count("begun") == 1

    @pytest.mark.cell("cancel", "delivered when the node is back")
    def test_a_cancel_is_delivered_on_return(self, given: Given) -> None:
        """The run that went on is ended then."""
        given.lab.cancel(given.doomed)
        given.lab.mend()
        given.lab.wait_gone(given.doomed)


@pytest.mark.row("node and its Jobs gone")
class TestNodeAndItsJobsAreGone(NodeIsAway):
    """SIGKILL of the node and of all that it runs, as when a machine is lost."""

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Kill them."""
        lab.kill("node-1")
        lab.kill_runs("node-1")

    @pytest.mark.cell("running task", "a new attempt elsewhere after the lost timeout")
    def test_a_lost_task_runs_again_elsewhere(self, given: Given) -> None:
        """And its products are the second attempt's (I2, I3)."""
        replaced(given, given.running)
        given.lab.release(given.running)
        given.lab.completed(given.running)
        assert given.lab.manifest(given.running)["attempt"] == 2

    @pytest.mark.cell("running task", "one that only that node may have starts again when it is back")
    def test_what_only_that_node_may_have_waits_for_it(self, given: Given) -> None:
        """It is 20 all the time, and ends well."""
        lab = given.lab
        lab.mend()
        lab.begun(given.pinned)
        lab.release(given.pinned)
        lab.completed(given.pinned)
        assert {each.node for each in lab.attempts(given.pinned)} == {"node-1"}

    @pytest.mark.cell("cancel", "the node that is back starts nothing of it")
    def test_a_canceled_task_does_not_start_again(self, given: Given) -> None:
        """Its record is still there."""
        given.lab.cancel(given.doomed)
        given.lab.mend()
        given.lab.wait_gone(given.doomed)


def replaced(given: Given, uuid: str) -> None:
    """Wait until the task is at work in its second attempt on the other node, the first one being given up as lost."""
    lab = given.lab
    wait_until(lambda: len(lab.attempts(uuid)) > 1, "another attempt", PATIENCE_S)
    lab.begun(uuid)
    first, second = lab.attempts(uuid)
    assert (first.node, first.cause) == ("node-1", Cause.LOST)
    assert (second.number, second.node) == (2, "node-2")
    assert time.monotonic() - given.broken_at > lab.lost_after_s - 1, "given up before its time"


class RunsOutliveTheirLease(NodeIsAway):
    """What is so when a node's tasks are given up, and its runs work on."""

    lost_after_s = 8.0

    @pytest.mark.cell("running task", "a new attempt elsewhere after the lost timeout; the old one may not publish")
    def test_the_old_attempt_may_not_publish(self, given: Given) -> None:
        """Both engines end at the same time: the old attempt finds by the fence that its place is taken (I2)."""
        lab, uuid = given.lab, given.running
        replaced(given, uuid)
        assert lab.runs("node-1", uuid), "the old attempt is still at work"
        lab.release(uuid)
        lab.completed(uuid)
        old = lab.workspace("node-1", uuid, 1)
        wait_until(lambda: old.status().cause is Cause.OUTDATED, "the old attempt to see that it is outdated")
        assert lab.manifest(uuid)["attempt"] == 2

    @pytest.mark.cell("running task", "unless the old one finished first")
    def test_an_old_attempt_that_finished_first_counts(self, given: Given) -> None:
        """Its products stand, and nothing is computed a second time."""
        lab, uuid = given.lab, given.early
        lab.completed(uuid)
        assert lab.manifest(uuid)["attempt"] == 1
        assert "released" not in lab.wire().output(uuid), "the second attempt had nothing to do"
        assert lab.attempts(uuid)[1:] == [Attempt(2, "node-2", "completed", None)]

    @pytest.mark.cell("cancel", "delivered when the node is back")
    def test_a_cancel_is_delivered_on_return(self, given: Given) -> None:
        """Until then the run works on, for nothing. What else was given up is let go of as well."""
        lab = given.lab
        lab.cancel(given.doomed)
        assert lab.runs("node-1", given.doomed)
        lab.mend()
        lab.wait_gone(given.doomed)
        old = [lab.workspace("node-1", uuid, 1).folder for uuid in (given.running, given.early)]
        wait_until(lambda: not any(folder.exists() for folder in old), "nothing to be left of them", PATIENCE_S)
        lab.release(given.pinned)
        lab.completed(given.pinned)


@pytest.mark.row("node cut off from the router, its Jobs live")
class TestNodeIsCutOff(RunsOutliveTheirLease):
    """Every byte between the node and its router is lost; both reach S3."""

    @staticmethod
    def break_it(lab: Lab) -> None:
        """In both directions."""
        lab.cut_off()


@pytest.mark.row("node hangs (SIGSTOP)")
class TestNodeHangs(RunsOutliveTheirLease):
    """It takes connections, and answers none of them."""

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Its runs go on: they are processes of their own."""
        lab.hang("node-1")


NONSENSE = pytest.mark.parametrize("way", [Way.GARBAGE, Way.PAGE, Way.ERROR], ids=lambda way: way.name.lower())


@pytest.mark.row("node answers garbage or 500")
class TestNodeAnswersNonsense(Row):
    """What the router asks of the node is answered with nonsense; what the node reports arrives."""

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Each kind again in the tests that care."""
        lab.answer(Way.ERROR)

    @NONSENSE
    @pytest.mark.cell("new task", "another node takes it")
    def test_a_task_that_cannot_be_brought_goes_to_another_node(self, given: Given, way: Way) -> None:
        """It is tried on the node that answers nonsense, which costs it nothing."""
        lab = given.lab
        lab.answer(way)
        with lab.only("node-1"):
            uuid = lab.task()
            wait_until(lambda: any(each.cause for each in lab.attempts(uuid)), "a failed delivery", PATIENCE_S)
        lab.completed(uuid)
        *failed, last = lab.attempts(uuid)
        assert {(each.node, each.cause) for each in failed} == {("node-1", Cause.UNDELIVERED)}
        assert (last.node, last.cause) == ("node-2", None)

    @pytest.mark.cell("running task", "judged by its node's heartbeat")
    def test_a_running_task_is_judged_by_heartbeats(self, given: Given) -> None:
        """It is neither given up nor brought again, however long the answers are nonsense."""
        lab = given.lab
        given.outlast(lab.lost_after_s + 1)
        assert lab.attempts(given.running) == [Attempt(1, "node-1", "running", None)]
        lab.release(given.running)
        for uuid in (given.running, given.early):
            lab.completed(uuid)
            assert lab.attempts(uuid) == [Attempt(1, "node-1", "completed", None)]

    @pytest.mark.cell("poll", "20, with the last known progress, at once")
    def test_polls_do_not_ask_the_node(self, given: Given) -> None:
        """So nonsense cannot reach them (I10)."""
        saw = given.lab.pollers.of(given.pinned, given.broken_at)
        assert {(each.code, each.answer["progress"]) for each in saw} == {(20, given.progress)}
        assert median(each.seconds for each in saw) < AT_ONCE_S

    @NONSENSE
    @pytest.mark.cell("cancel", "at once; told again with the node's next heartbeat")
    def test_a_cancel_that_cannot_be_told_is_told_with_a_heartbeat(self, given: Given, way: Way) -> None:
        """The run is gone, though no call of the router was understood."""
        lab = given.lab
        with lab.only("node-1"):
            lab.mend()
            uuid = lab.held()
            lab.begun(uuid)
        lab.answer(way)
        assert lab.cancel(uuid) < CANCELED_WITHIN_S
        lab.wait_gone(uuid)

    @pytest.mark.cell("download", "from S3")
    def test_products_come_from_s3(self, given: Given) -> None:
        """No node is needed for that."""
        assert "odm_orthophoto/odm_orthophoto.tif" in given.lab.download(given.done)
