"""Rows of the matrix: Postgres or S3 is away; and no node is heard at all."""

import time
from uuid import uuid4

import httpx
import pytest

from tests.matrix.conftest import Given, Row
from tests.matrix.lab import PATIENCE_S, Attempt, Lab
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


def nothing_given_up(given: Given) -> None:
    """See that no task has had another attempt, and that those of before end well when they are released (I11)."""
    lab = given.lab
    lab.release(given.running)
    for uuid in (given.running, given.early):
        lab.completed(uuid)
        assert lab.attempts(uuid) == [Attempt(1, "node-1", "completed", None)]
    assert lab.attempts(given.pinned) == [Attempt(1, "node-1", "running", None)]


@pytest.mark.row("Postgres away")
class TestPostgresIsAway(Row):
    """It crashes, and comes back after a time in which a node that is silent so long is lost."""

    routers = 2
    lost_after_s = 8.0

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Stop it at once."""
        lab.without_postgres()

    @pytest.mark.contract("1 never 5xx")
    @pytest.mark.cell("new task", "connection drops, the client tries again")
    def test_a_new_task_is_a_dropped_connection(self, given: Given) -> None:
        """By reference and by upload; never a status that a client would give up at."""
        root = given.lab.images()
        for router in given.lab.stack.router_urls:
            with pytest.raises(httpx.TransportError):
                given.lab.submit(root, router)
            with pytest.raises(httpx.TransportError):
                given.lab.wire(router).init()

    @pytest.mark.contract("1 never 5xx")
    @pytest.mark.cell("poll", "from memory if known, else connection drops")
    def test_polls_are_answered_from_memory(self, given: Given) -> None:
        """Every replica knows every task, and does not pretend to know that there is no other one."""
        lab = given.lab
        given.outlast(lab.lost_after_s + 2)
        for router in lab.stack.router_urls:
            info = lab.wire(router).info(given.pinned)
            assert (info["status"]["code"], info["progress"]) == (20, given.progress)
            with pytest.raises(httpx.TransportError):
                lab.wire(router).info(str(uuid4()))

    @pytest.mark.cell("cancel", "connection drops, the client tries again")
    def test_a_cancel_is_a_dropped_connection(self, given: Given) -> None:
        """It would not be on record, so it is not promised (I7)."""
        for router in given.lab.stack.router_urls:
            with pytest.raises(httpx.TransportError):
                given.lab.wire(router).act("cancel", given.doomed)

    @pytest.mark.cell("download", "from S3")
    def test_products_come_from_s3(self, given: Given) -> None:
        """Where they lie is known from memory."""
        assert "odm_orthophoto/odm_orthophoto.tif" in given.lab.download(given.done)

    @pytest.mark.cell("running task", "unharmed, and nothing is given up")
    def test_i11_nothing_is_given_up(self, given: Given) -> None:
        """Nodes were silent only because nobody could listen."""
        given.lab.mend()
        nothing_given_up(given)

    @pytest.mark.cell("cancel", "which works when Postgres is back")
    def test_a_cancel_works_again(self, given: Given) -> None:
        """As ever."""
        given.lab.mend()
        given.lab.cancel(given.doomed)
        given.lab.wait_gone(given.doomed)


@pytest.mark.row("every node falls silent at once")
class TestEveryNodeIsSilent(Row):
    """Both nodes hang, for longer than it takes to be lost. The router suspects itself (I11)."""

    lost_after_s = 6.0

    @staticmethod
    def break_it(lab: Lab) -> None:
        """SIGSTOP to both."""
        for name in lab.stack.node_urls:
            lab.hang(name)

    @pytest.mark.cell("poll", "20, with the last known progress")
    def test_polls_show_what_is_known(self, given: Given) -> None:
        """Also when every node should long be lost."""
        given.outlast(given.lab.lost_after_s + 2)
        saw = given.lab.pollers.of(given.pinned, given.broken_at)
        assert {(each.code, each.answer["progress"]) for each in saw} == {(20, given.progress)}

    @pytest.mark.cell("new task", "accepted, waits")
    def test_a_new_task_waits(self, given: Given) -> None:
        """It runs when a node is heard again, whichever that is."""
        lab = given.lab
        given.outlast(lab.lost_after_s + 2)
        uuid = lab.task()
        assert lab.wire().code(uuid) in (10, 20)
        assert not lab.attempts(uuid)
        lab.resume("node-2")
        wait_until(lambda: lab.attempts(uuid), "it to be placed", PATIENCE_S)
        lab.mend()
        lab.completed(uuid)

    @pytest.mark.cell("running task", "unharmed: nothing is given up, also when other nodes are heard again first")
    def test_i11_nothing_is_given_up(self, given: Given) -> None:
        """Whoever was heard first has not condemned the others: for them the time counts from there."""
        given.lab.mend()
        nothing_given_up(given)


@pytest.mark.row("S3 away")
class TestS3IsAway(Row):
    """Its connections are refused, and then it is there again."""

    releases_early = False

    @staticmethod
    def break_it(lab: Lab) -> None:
        """Stop it."""
        lab.without_s3()

    @pytest.mark.cell("poll", "unharmed")
    def test_polls_need_no_s3(self, given: Given) -> None:
        """They go on, and so does what they tell of: an engine at work needs no S3 either."""
        lab = given.lab
        since = time.monotonic()
        wait_until(lambda: len(lab.pollers.of(given.pinned, since)) > 2, "more polls")
        assert {(each.code, each.answer["progress"]) for each in lab.pollers.of(given.pinned, given.broken_at)} == {
            (20, given.progress)
        }
        assert lab.attempts(given.pinned) == [Attempt(1, "node-1", "running", None)]

    @pytest.mark.cell("cancel", "unharmed")
    def test_cancel_needs_no_s3(self, given: Given) -> None:
        """The run is gone."""
        given.lab.cancel(given.doomed)
        given.lab.wait_gone(given.doomed)

    @pytest.mark.cell("download", "connection drops, the client tries again")
    def test_a_download_is_a_dropped_connection(self, given: Given) -> None:
        """Whether the archive is there cannot be said, and a link to it would lead nowhere."""
        with pytest.raises(httpx.TransportError):
            given.lab.download(given.done)

    @pytest.mark.cell("new task", "accepted by reference, waits")
    def test_a_new_task_waits_for_s3(self, given: Given) -> None:
        """Nothing is known of its input yet, so nothing is held against it."""
        lab = given.lab
        uuid = lab.submit(given.spare)
        wait_until(lambda: f"task {uuid} waits for S3" in lab.log("router"), "the router to look at the input")
        assert lab.wire().code(uuid) == 20
        lab.mend()
        lab.completed(uuid)
        assert "odm_orthophoto/odm_orthophoto.tif" in lab.download(given.done)

    @pytest.mark.cell("running task", "goes on; one that publishes just then waits for it")
    def test_a_run_that_cannot_publish_waits_for_s3(self, given: Given) -> None:
        """Nothing that its engine has done is thrown away."""
        lab = given.lab
        lab.mend()
        lab.without_s3()
        lab.release(given.early)
        wait_until(lambda: "Trying again." in str(lab.wire().output(given.early)), "it to find S3 away", PATIENCE_S)
        lab.mend()
        lab.completed(given.early)
        assert [each.number for each in lab.attempts(given.early)] == [1]
        assert lab.manifest(given.early)["attempt"] == 1
