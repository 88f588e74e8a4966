"""A large survey is split by ODM's own code, its parts spread over the federation, and what they make is merged."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from common.embedded.stack import STAGING_BUCKET, Stack
from common.families import claimed_family
from common.references import Reference
from common.tokens import TOKEN_REFUSED
from tests.client import JPEG, Wire
from tests.standin_split import rows_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]
LOST_AFTER_S = 8
PART_WAITS_S = 3


def stack_in(folder: Path, slots: int, **router_settings: str) -> Stack:
    """Two nodes whose engine splits."""
    node_settings = {
        "SCALEODM_NODE_ENGINE": "odm",
        "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} -m tests.standin_split",
        "SCALEODM_NODE_SLOTS": str(slots),
        "PYTHONPATH": str(ROOT),
        "STANDIN_RETRY_S": "1",
        "STANDIN_POLL_S": "0.5",
    }
    settings = {
        "SCALEODM_ROUTER_REST_S": "0.5",
        "SCALEODM_ROUTER_QUARANTINE_S": "0",
        "SCALEODM_ROUTER_LATE_AFTER_S": "5",
        "SCALEODM_ROUTER_LOST_AFTER_S": str(LOST_AFTER_S),
    }
    return Stack(folder, node_settings=node_settings, router_settings=settings | router_settings)


@pytest.fixture(scope="module")
def survey_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two nodes of three slots."""
    with stack_in(tmp_path_factory.mktemp("large"), slots=3) as stack:
        yield stack


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client for tests."""
    with httpx.Client(timeout=30) as client:
        yield client


@pytest.fixture
def wire(survey_stack: Stack, http: httpx.Client) -> Wire:
    """The router's NodeODM API."""
    return Wire(survey_stack.router_url, survey_stack.user_token, http)


def pictures(prefix: str, count: int = 12) -> list[tuple[str, bytes]]:
    """A survey of so many images."""
    return [(f"{prefix}{number:02d}.jpg", JPEG + f"{prefix} {number}".encode()) for number in range(count)]


def survey(wire: Wire, prefix: str = "a", orders: str = "part sleep 2", split: int = 3) -> str:
    """A new task of twelve images, split into parts of three."""
    options = json.dumps([{"name": "split", "value": split}, {"name": "split-overlap", "value": 0}])
    uuid = wire.init({"name": f"survey {prefix}", "options": options})
    assert wire.upload(uuid, *pictures(prefix), ("gcp_list.txt", orders.encode())) == {"success": True}
    assert wire.commit(uuid) == {"uuid": uuid}
    return uuid


def known(wire: Wire) -> set[str]:
    """Every task that the caller may see."""
    return {each["uuid"] for each in wire.get("/task/list").json()}


def why(wire: Wire, uuid: str) -> dict[str, Any]:
    """Where a task is, and what belongs to it."""
    answer: dict[str, Any] = wire.get(f"/task/{uuid}/why").json()
    return answer


def parts_of(wire: Wire, uuid: str) -> set[str]:
    """The parts of a split task."""
    return {each["uuid"] for each in why(wire, uuid)["parts"]}


def codes(wire: Wire, uuids: list[str]) -> list[int]:
    """What each of them is shown with."""
    return [wire.code(uuid) for uuid in uuids]


def wait_for_parts(wire: Wire, uuid: str) -> None:
    """Until there are some."""
    wait_until(lambda: bool(parts_of(wire, uuid)), f"{uuid} to have parts")


def parts_on(wire: Wire, uuid: str, node: str) -> list[str] | None:
    """Parts of a task whose engines work on that node; None while there are none."""
    parts = [each["uuid"] for each in why(wire, uuid)["parts"] if each["state"] == "running"]
    return [part for part in parts if why(wire, part).get("node") == node and works(wire, part)] or None


def works(wire: Wire, uuid: str) -> bool:
    """Whether the engine of a task works; a part may be gone any moment."""
    return bool(wire.info(uuid).get("processingTime", -1) >= 0)


def token_of(stack: Stack, node: str, uuid: str, attempt: int = 1) -> str:
    """The token of the run, as the run itself has it: where nobody else may look."""
    path = wait_until(lambda: next(_netrcs(stack, node, uuid, attempt), None), f"the run of {uuid} to have its token")
    assert path.stat().st_mode & 0o077 == 0
    return path.read_text().split()[-1]


def _netrcs(stack: Stack, node: str, uuid: str, attempt: int) -> Iterator[Path]:
    return (data_of(stack) / "nodes" / node / "tasks" / uuid / str(attempt)).glob("netrc")


def data_of(stack: Stack) -> Path:
    """The folder of a stack."""
    return stack.secrets_file.parent


def kill_with_runs(stack: Stack, node: str) -> None:
    """A machine that is gone, with everything that ran on it."""
    os.kill(stack.pid_of(node), signal.SIGKILL)
    wait_until(lambda: stack.has_ended(node), f"{node} to be gone")
    folder = f"{data_of(stack)}/nodes/{node}/"
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def check_product(wire: Wire, uuid: str, prefix: str, folder: Path) -> dict[str, list[str]]:
    """The product holds every image of the survey once, in order; gives where each part was processed."""
    archive = wire.http.get(
        f"{wire.url}/task/{uuid}/download/all.zip", params={"token": wire.token}, follow_redirects=True
    )
    with zipfile.ZipFile(io.BytesIO(archive.content)) as members:
        members.extractall(folder)
    digests = [hashlib.sha256(content).digest() for _, content in pictures(prefix)]
    assert rows_of(folder / "odm_orthophoto/odm_orthophoto.tif") == digests
    places: dict[str, list[str]] = json.loads((folder / "odm_report/stats.json").read_text())
    return places


def check_nothing_left(stack: Stack, wire: Wire, uuid: str, parts: set[str]) -> None:
    """Every part that ever was is ended and removed, with what it had in S3."""
    assert parts, "there were parts"
    assert why(wire, uuid)["parts"] == []
    assert uuid in known(wire)
    assert not parts & known(wire)

    def staged() -> set[str]:
        objects = stack.storage().listing(Reference.parse(f"s3://{STAGING_BUCKET}/"))
        return {each.reference.key for each in objects if any(part in each.reference.key for part in parts)}

    wait_until(lambda: not staged(), "the parts to be gone from S3")


class Watch:
    """Remembers every part that was seen, and every code that each was shown with."""

    def __init__(self, wire: Wire, *uuids: str) -> None:
        """Nothing was seen yet."""
        self._wire, self._uuids = wire, uuids
        self.codes: dict[str, list[tuple[int, bool]]] = {}
        """By part its codes, each with whether it had begun by then."""

    def look(self) -> bool:
        """Look once; gives whether all surveys have ended."""
        for uuid in self._uuids:
            for part in why(self._wire, uuid)["parts"]:
                info = self._wire.info(part["uuid"])
                if "status" in info:
                    began = why(self._wire, part["uuid"]).get("attempt", 0) > 0
                    self.codes.setdefault(part["uuid"], []).append((info["status"]["code"], began))
        return all(self._wire.code(uuid) >= 30 for uuid in self._uuids)

    @property
    def parts(self) -> set[str]:
        """Every part that was seen."""
        return set(self.codes)


@pytest.mark.contract("8.3 sm-cluster", "8.3 seed", "8.3 accepted")
def test_a_survey_is_split_over_two_nodes_and_merged_though_one_is_killed(
    survey_stack: Stack, wire: Wire, tmp_path: Path
) -> None:
    """The parent's node stays; the other one goes with the parts that it has, which run again here."""
    go_on = tmp_path / "go on"
    uuid = survey(wire, orders=f"part until {go_on}")
    wire.running(uuid)
    home = str(why(wire, uuid)["node"])
    other = next(name for name in survey_stack.node_urls if name != home)
    watch = Watch(wire, uuid)
    lost = wait_until(lambda: watch.look() or parts_on(wire, uuid, other), "parts to run on the other node")
    kill_with_runs(survey_stack, other)
    go_on.touch()
    wait_until(watch.look, "the survey to end", within_s=120)
    assert wire.info(uuid)["status"] == {"code": 40}
    assert len(watch.parts) >= 4, "of two passes over four parts at least two each went to the cluster"
    assert isinstance(lost, list)
    assert set(lost) <= watch.parts
    places = check_product(wire, uuid, "a", tmp_path)
    assert sorted(places) == [f"submodel_000{number}" for number in range(4)]
    assert all(len(each) == 2 for each in places.values()), "two passes over each"
    assert "reconstruction there" in {place for each in places.values() for place in each}
    check_nothing_left(survey_stack, wire, uuid, watch.parts)
    survey_stack.start_again(other)


def test_the_parent_of_a_lost_node_begins_anew_and_its_first_parts_are_ended(
    survey_stack: Stack, wire: Wire, tmp_path: Path
) -> None:
    """Nobody waits for parts of an attempt that is gone, and its token opens nothing any more."""
    go_on = tmp_path / "go on"
    uuid = survey(wire, prefix="b", orders=f"part until {go_on}")
    wire.running(uuid)
    home = str(why(wire, uuid)["node"])
    other = next(name for name in survey_stack.node_urls if name != home)
    token = token_of(survey_stack, home, uuid)
    watch = Watch(wire, uuid)
    first = wait_until(lambda: watch.look() or parts_on(wire, uuid, other), "parts to run on the other node")
    kill_with_runs(survey_stack, home)
    wait_until(lambda: why(wire, uuid)["attempt"] == 2, "the survey to begin anew", within_s=60)
    assert isinstance(first, list)
    wait_until(lambda: codes(wire, first) == [50] * len(first), "the parts of the first attempt to end")
    go_on.touch()
    assert wire.http.get(f"{wire.url}/info", params={"token": token}).json() == {"error": TOKEN_REFUSED}
    wait_until(watch.look, "the survey to end", within_s=120)
    assert wire.info(uuid)["status"] == {"code": 40}
    check_product(wire, uuid, "b", tmp_path)
    assert wire.act("remove", uuid) == {"success": True}
    wait_until(lambda: not known(wire) & watch.parts, "the parts to be removed with their parent")
    survey_stack.start_again(home)


@pytest.mark.contract("8.3 sm-cluster")
def test_i12_the_token_of_a_split_task_opens_its_parts_and_nothing_else(
    survey_stack: Stack, wire: Wire, http: httpx.Client, tmp_path: Path
) -> None:
    """Two tenants split at the same time; neither run sees the other's parts, nor the task that it is itself."""
    made = http.post(
        f"{wire.url}/admin/tokens",
        json={"kind": "user", "name": "bob", "tenant": "bob"},
        headers={"Authorization": f"Bearer {survey_stack.admin_token}"},
    ).json()
    bobs = Wire(wire.url, made["token"], http)
    orders = f"part until {tmp_path / 'go on'}"
    mine, his = survey(wire, prefix="c", orders=orders), survey(bobs, prefix="d", orders=orders)
    for owner, uuid in ((wire, mine), (bobs, his)):
        wait_for_parts(owner, uuid)
    token = token_of(survey_stack, str(why(wire, mine)["node"]), mine)
    family = claimed_family(token)
    assert family is not None
    assert (family.uuid, family.attempt) == (mine, 1)
    run = Wire(wire.url, token, http)

    before, seen, after = parts_of(wire, mine), known(run), parts_of(wire, mine)
    assert before & after <= seen <= before | after, "its parts, all of them, and nothing else"
    for stranger in (mine, his, *parts_of(bobs, his)):
        assert run.info(stranger) == {"error": f"{stranger} not found"}
        for action in ("cancel", "remove", "restart"):
            assert run.act(action, stranger) == {"success": False, "error": f"{stranger} not found"}
    for path in ("/federation/nodes", "/admin/tokens", f"/task/{mine}/why"):
        answer = http.get(wire.url + path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 403, path
    refused = run.post("/task/new", json={"readS3Path": "s3://staging/"}).json()
    assert "S3 paths are not open to it" in refused["error"]

    own = run.init({"name": "a part"})
    run.upload(own, ("x.jpg", JPEG))
    run.commit(own)
    assert run.code(own) == 20, "as NodeODM shows it from the commit on (contract 2.11)"
    assert why(wire, own)["parent"] == mine
    assert bobs.info(own) == {"error": f"{own} not found"}
    assert run.act("remove", own) == {"success": True}

    forged = token[:-1] + ("0" if token[-1] != "0" else "1")
    assert http.get(f"{wire.url}/info", params={"token": forged}).json() == {"error": TOKEN_REFUSED}
    (tmp_path / "go on").touch()
    for owner, uuid in ((wire, mine), (bobs, his)):
        assert owner.ended(uuid, within_s=90)["status"] == {"code": 40}
    check_product(wire, mine, "c", tmp_path / "mine")
    check_product(bobs, his, "d", tmp_path / "his")
    assert run.get("/info").json() == {"error": TOKEN_REFUSED}, "dead with its task"
    assert "error" in run.post("/task/new/init", files={"name": (None, "late")}).json()


def test_i9_the_token_of_a_split_task_stands_nowhere_but_in_its_run(survey_stack: Stack, wire: Wire) -> None:
    """Not in an argv, the task's options, its console, what a node keeps of it, a log, or Postgres."""
    uuid = survey(wire, prefix="e", orders="part sleep 0.5")
    home = str(why_placed(wire, uuid)["node"])
    token = token_of(survey_stack, home, uuid)
    proof = token.rpartition(".")[2]
    wire.says(uuid, "[INFO]    sm_cluster: True")
    argvs = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    assert any(uuid in argv and "--sm-cluster=http://localhost" in argv for argv in argvs), "its engine works"
    assert not [argv for argv in argvs if proof in argv]
    assert files_with(survey_stack, proof) == {"netrc"}
    assert wire.ended(uuid, within_s=90)["status"] == {"code": 40}
    told = json.dumps([wire.info(uuid, with_output="0"), why(wire, uuid)])
    assert proof not in told
    assert "sm-cluster" not in told.replace("sm_cluster", ""), "it is not the client's option"


def files_with(stack: Stack, text: str) -> set[str]:
    """Names of the files of a stack that hold a text: of its nodes, its logs, its Postgres, its S3."""
    found = set()
    for path in data_of(stack).rglob("*"):
        with suppress(OSError):
            if path.is_file() and text.encode() in path.read_bytes():
                found.add(path.name)
    return found


def why_placed(wire: Wire, uuid: str) -> dict[str, Any]:
    """Where a task is, once it is somewhere."""
    return wait_until(lambda: found if (found := why(wire, uuid))["node"] else None, f"{uuid} to be placed")


def test_cancel_of_a_split_task_ends_its_parts(wire: Wire) -> None:
    """At once, wherever they run; and with their parent they are removed."""
    uuid = survey(wire, prefix="f", orders="part sleep 60")
    parts = wait_until(
        lambda: [each["uuid"] for each in why(wire, uuid)["parts"] if each["state"] == "running"] or None,
        "parts to run",
    )
    assert wire.act("cancel", uuid) == {"success": True}

    def gone() -> bool:
        lines = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
        return not any(part in line for line in lines for part in parts)

    wait_until(gone, "the engines of the parts to be gone")
    left = [part for part in parts if "status" in wire.info(part)]
    assert {wire.code(part) for part in left} <= {50}, "what its run could not remove itself is canceled"
    assert wire.act("remove", uuid) == {"success": True}
    wait_until(lambda: not any("status" in wire.info(part) for part in parts), "the parts to be removed")


@pytest.fixture
def full_stack(tmp_path: Path) -> Iterator[Stack]:
    """Two nodes of one slot, and little patience with parts that wait."""
    with stack_in(tmp_path / "full", slots=1, SCALEODM_ROUTER_PART_WAITS_S=str(PART_WAITS_S)) as stack:
        yield stack


@pytest.mark.contract("8.3 no deadlock")
def test_every_slot_filled_with_split_tasks_and_all_end(full_stack: Stack, http: httpx.Client, tmp_path: Path) -> None:
    """Three surveys on two slots: parts wait in vain, are shown as 10, and taken back by those who hold the slots."""
    wire = Wire(full_stack.router_url, full_stack.user_token, http)
    prefixes = ("p", "q", "r")
    uuids = [survey(wire, prefix, orders="part sleep 1.5") for prefix in prefixes]
    watch = Watch(wire, *uuids)
    wait_until(watch.look, "all surveys to end", within_s=150)
    for uuid, prefix in zip(uuids, prefixes, strict=True):
        assert wire.info(uuid)["status"] == {"code": 40}
        check_product(wire, uuid, prefix, tmp_path / prefix)
        check_nothing_left(full_stack, wire, uuid, watch.parts)
    shown = [codes for codes in watch.codes.values() if any(code == 10 for code, _ in codes)]
    assert shown, "some part found no slot"
    assert not [codes for codes in watch.codes.values() if (10, True) in codes], "none that had begun was shown so (I6)"
    assert all(codes[0][0] == 20 for codes in watch.codes.values()), "20 from the commit on"


def test_pyodm_finds_the_parts_by_netrc(survey_stack: Stack, wire: Wire) -> None:
    """The very way in which ODM's client gets its token: not by the URL.

    In a process of its own, as there: PyODM gives a node without a token that of the node asked before (contract 8.1).
    """
    uuid = survey(wire, prefix="g", orders="part sleep 60")
    home = str(why_placed(wire, uuid)["node"])
    token_of(survey_stack, home, uuid)
    port = survey_stack.router_url.rpartition(":")[2]
    asked = f"from pyodm import Node; print(Node.from_url('http://localhost:{port}').info().engine)"
    netrc = str(next(_netrcs(survey_stack, home, uuid, 1)))
    told = subprocess.run(
        [sys.executable, "-c", asked], env=os.environ | {"NETRC": netrc}, check=True, capture_output=True, text=True
    )
    assert told.stdout == "odm\n"
    wire.act("remove", uuid)
