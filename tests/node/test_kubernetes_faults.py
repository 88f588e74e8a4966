"""A cluster that answers each single call badly once, or several times in a row: every task ends as if it had not.

What calls there are is recorded from a task that nothing happens to; then each of them gets each fault, in a task of
its own; and what asks how such a call ended is answered badly in its turn. A node process has two kinds of fault for
its own listings, watches and lease. The containers are shell commands: what runs in the pods is no matter here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import pytest
from kmock import KubernetesError
from kmock import Request as KmockRequest

from common.embedded.object_store import ObjectStore
from common.references import Reference
from tests.client import JPEG, Wire
from tests.kubernetes_node import KubernetesNode, node_in
from tests.kubernetes_standin import StandInCluster, reset
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

SHELL = {
    "fetch": ["/bin/sh", "-c", "echo fetched"],
    "engine": ["/bin/sh", "-c", "echo working; sleep 0.2"],
    "publish": ["/bin/sh", "-c", "echo published"],
}
IN_A_ROW = 3
AT_ONCE = 80
"""Requests of clients: most of them wait for a node that waits for the cluster."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
FAULTS = (*map(str, REASONS), "reset", "lost")
"""Statuses; a connection that breaks before the request is looked at; one that breaks once it is done."""
NODES = {"409": "a", "reset": "a", "429": "b", "lost": "b", "500": "c", "503": "c"}
"""Which node has which faults for its own calls, and the tasks to whose calls they happen."""
TIMES = {"409": (1, IN_A_ROW), "reset": (1, IN_A_ROW), "lost": (1,)} | dict.fromkeys(("429", "500", "503"), (IN_A_ROW,))
"""How often in a row; what is done and lost is done once."""


def name_in(request: KmockRequest) -> str:
    """The name of the object, which a POST has in its body."""
    made = request.data["metadata"]["name"] if isinstance(request.data, dict) and "metadata" in request.data else ""
    return str(request.name or made)


def call_of(request: KmockRequest) -> str:
    """What is called, whichever task and node it is for."""
    assert request.resource is not None
    kind = str(request.resource.plural) + (f"/{request.subresource}" if request.subresource else "")
    how = "watch" if request.params.get("watch") else ""
    which = UUID.sub("{task}", name_in(request)) if request.subresource is None else request.params.get("container", "")
    which = "" if kind == "leases" else which
    return " ".join(part for part in (str(request.method.value).upper(), kind, which, how) if part)


def subject_of(request: KmockRequest) -> str:
    """The task, or the node, that a request is for."""
    told = f"{name_in(request)} {request.params.get('labelSelector', '')}"
    found = UUID.search(told) or re.search(r"faults-[a-z0-9]+", told)
    return found.group() if found else told


@dataclass
class Case:
    """One call of one task (or node) and what happens to it."""

    subject: str
    call: str
    occurrence: int
    """Which of the subject's calls of this kind is the first that it happens to, from 1 on."""
    fault: str
    times: int
    hits: int = 0
    seen: int = 0

    def __str__(self) -> str:
        return f"{self.fault} x{self.times} at {self.call!r} number {self.occurrence} of {self.subject}"

    def befalls(self, request: KmockRequest) -> bool:
        """Whether it happens to this request, which is then counted."""
        if call_of(request) != self.call:
            return False
        self.seen += 1
        if self.seen < self.occurrence or self.hits == self.times:
            return False
        self.hits += 1
        return True


@dataclass
class Planted:
    """Everything that is planted, and a record of what was called."""

    cases: defaultdict[str, list[Case]] = field(default_factory=lambda: defaultdict(list))
    called: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def plant(self, case: Case) -> Case:
        """Let it happen."""
        self.cases[case.subject].append(case)
        return case

    def fault(self, request: KmockRequest) -> KubernetesError | None:
        """For `StandInApi.faults`."""
        if request.resource is None:
            return None
        self.called[subject_of(request)].append(call_of(request))
        for case in self.cases[subject_of(request)]:
            if case.fault != "lost" and case.befalls(request):
                if case.fault == "reset":
                    reset(request)
                return KubernetesError(
                    status=int(case.fault), reason=REASONS[int(case.fault)], message=f"planted {case}"
                )
        return None

    def loss(self, request: KmockRequest) -> bool:
        """For `StandInApi.losses`."""
        if request.resource is None:
            return False
        return any(case.fault == "lost" and case.befalls(request) for case in self.cases[subject_of(request)])


@dataclass
class Place:
    """The cluster and its nodes."""

    site: StandInCluster
    planted: Planted
    nodes: dict[str, KubernetesNode]
    http: httpx.Client
    images: Reference

    def wire(self, fault: str) -> Wire:
        """The API of the node with that fault."""
        return self.nodes[NODES[fault]].wire(self.http)

    def submit(self, fault: str, uuid: str) -> None:
        """A new task; sent again where the connection drops, as clients do."""
        document = {"readS3Path": str(self.images), "writeS3Path": f"s3://staging/{uuid}/"}
        patient(
            lambda: self.wire(fault).post("/task/new", json=document, headers={"set-uuid": uuid}).json()["uuid"] == uuid
        )

    def act(self, what: str, fault: str, uuid: str) -> None:
        """Restart or remove, likewise."""
        patient(lambda: self.wire(fault).act(what, uuid))

    def left_of(self, uuid: str) -> list[str]:
        """Objects that still tell of a task."""
        kinds = ("jobs", "configmaps")
        return [f"{kind} {name}" for kind in kinds for name in self.site.api.store[kind] if uuid in name]


def patient(ask: Callable[[], object]) -> None:
    """Ask, and ask again where the connection drops."""
    for _ in range(5):
        try:
            assert ask()
        except httpx.TransportError:
            continue
        return
    raise AssertionError("the connection dropped five times")


@pytest.fixture(scope="module")
def place(rclone: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All of it, with the nodes' own calls already in trouble at their start."""
    site = StandInCluster(tmp_path_factory.mktemp("site"))
    site.start()
    planted = Planted()
    site.controllers.instead = SHELL
    site.call(lambda: site.api.faults.append(planted.fault))
    site.call(lambda: site.api.losses.append(planted.loss))
    images = Reference.parse(f"s3://staging/{uuid4()}/")
    rclone.storage().write(images / "a.jpg", JPEG)
    nodes = {}
    for name in sorted(set(NODES.values())):
        folder = tmp_path_factory.mktemp(f"node-{name}")
        settings = {"SCALEODM_NODE_SLOTS": "500", "SCALEODM_JOB_LEASE_S": "5"}
        nodes[name] = node_in(site, rclone, folder, settings, f"faults-{name}")
    for place_of, fault in enumerate(FAULTS):
        # The second fault of a node does not follow the first at once: so long a row costs it its lease.
        later = 3 if place_of < len(FAULTS) // 2 else 6
        for call in calls_of_a_node(fault):
            planted.plant(Case(f"faults-{NODES[fault]}", call, 1, fault, 1))
            planted.plant(Case(f"faults-{NODES[fault]}", call, later, fault, IN_A_ROW if fault != "lost" else 1))
    with ThreadPoolExecutor(len(nodes)) as starting, httpx.Client(timeout=60) as http:
        list(starting.map(KubernetesNode.start, nodes.values()))
        yield Place(site, planted, nodes, http, images)
        list(starting.map(KubernetesNode.stop, nodes.values()))
    site.stop()


def calls_of_a_node(fault: str) -> list[str]:
    """What a node asks beside its tasks. A listing or watch changes nothing: that its answer is lost is a reset."""
    kinds = ("jobs", "configmaps", "pods")
    reading = [f"GET {kind}" for kind in kinds] + [f"GET {kind} watch" for kind in kinds] + ["GET leases"]
    return [*(reading if fault != "lost" else ()), "POST leases", "PUT leases"]


def live(place: Place, cases: Sequence[Case]) -> list[str]:
    """The lives of many tasks: run, run again, be removed. Gives what went otherwise."""
    wrong = []
    lives = [(case, case.fault, case.subject) for case in cases]

    def all_do(step: Callable[[str, str], None]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda case: step(case.fault, case.subject), cases))

    all_do(place.submit)
    for attempt in (1, 2):
        for case, fault, uuid in lives:
            info = place.wire(fault).ended(uuid, 60)
            if info["status"]["code"] != 40:
                wrong.append(f"{case}: attempt {attempt} ended with {info['status']}")
        if attempt == 1:
            all_do(lambda fault, uuid: place.act("restart", fault, uuid))
    all_do(lambda fault, uuid: place.act("remove", fault, uuid))
    runs = Counter(place.site.controllers.started)
    for case, fault, uuid in lives:
        pods = [runs[f"odm-{uuid}-{attempt}"] for attempt in (1, 2)]
        if pods != [1, 1]:
            wrong.append(f"{case}: {pods} pods of its two attempts after {place.planted.called[uuid]}")
        if "error" not in place.wire(fault).info(uuid):
            wrong.append(f"{case}: it is still known")
        wait_until(lambda uuid=uuid: not place.left_of(uuid), f"nothing to be left of {uuid}")  # type: ignore[misc]
    return wrong


def calls_of_a_life(place: Place) -> Counter[str]:
    """How often what is called for a task that nothing happens to."""
    clean = Case(str(uuid4()), "nothing", 1, FAULTS[0], 0)
    assert live(place, [clean]) == []
    return Counter(place.planted.called[clean.subject])


def followed(place: Place, calls: Counter[str]) -> list[tuple[Case, list[Case]]]:
    """A change whose answer is lost, or a deletion that is refused, and then each look at what became of it fails."""
    found = []
    for call, count in calls.items():
        fault = {"PATCH": "lost", "DELETE": "409"}.get(call.split()[0])
        for number in range(1, count + 1 if fault == "lost" else 2) if fault else ():
            first = place.planted.plant(Case(str(uuid4()), call, number, fault or "", 1))
            looks = ("GET jobs odm-{task}-1", "GET jobs odm-{task}-2", "GET configmaps odm-{task}")
            found.append(
                (first, [place.planted.plant(Case(first.subject, look, 1, "409", IN_A_ROW)) for look in looks])
            )
    return found


def test_every_call_of_a_task_may_fail(place: Place) -> None:
    """Once, and several times in a row, by each fault: it completes, runs once per attempt, and can be removed."""
    calls = calls_of_a_life(place)
    assert {call.split()[0] for call in calls} >= {"POST", "PATCH", "DELETE", "GET"}, calls
    cases = [
        place.planted.plant(Case(str(uuid4()), call, number, fault, times))
        for fault in FAULTS
        for call, count in calls.items()
        # How often a log is asked for, and who deletes a Job first, is a matter of the moment.
        for number in ([1] if call.startswith(("GET", "DELETE jobs")) else range(1, count + 1))
        for times in TIMES[fault]
        if fault != "lost" or not call.startswith("GET")
    ]
    chains = followed(place, calls)
    cases += [first for first, _ in chains]
    assert live(place, cases) == []
    assert [str(case) for case in cases if case.hits != case.times] == [], "cases that did not come to pass"
    looked = [any(look.hits for look in looks) for first, looks in chains if first.fault == "lost"]
    assert looked, "nothing was lost"
    assert all(looked), "a lost answer makes the node look"
