"""What is made of Jobs and pods, as `kubernetes-facts.md` has measured them."""

import pytest

from common.tasks import Cause
from node.runs import Phase, RunStatus
from node.verdicts import Patience, Seen, judged
from tests.node.cluster_objects import Object, blocked, condition, ended, job, pod, running

BEGAN = 1795521600000
ENDED = BEGAN + 600_000
PATIENT = Patience(pull_s=600)
NOTHING = Seen()


def status(of: Object, *pods: Object, seen: Seen = NOTHING, now: int = ENDED) -> RunStatus | None:
    """Where the run stands."""
    return judged(of, pods, seen, PATIENT, now)


def test_the_stages_of_a_run() -> None:
    """Waiting, fetching, working, publishing, done; 93 from publish on (contract 6.2)."""
    assert status(job()) == RunStatus(waiting="Kubernetes has not made the pod yet.")
    assert status(job(), pod(running("fetch"))) == RunStatus()
    working = status(job(), pod(ended("fetch", message='{"images": 7}'), running("engine")), seen=Seen(50.0))
    assert working == RunStatus(Phase.ENGINE, BEGAN, images_count=7, progress=45.0)
    publishing = status(job(), pod(ended("fetch"), ended("engine"), running("publish")), seen=Seen(100.0))
    assert publishing == RunStatus(Phase.PUBLISH, BEGAN, progress=93.0, engine_ended_ms=ENDED)
    late = status(job(), pod(ended("engine"), running("publish")), seen=Seen(100.0, 97.0))
    assert late is not None
    assert late.progress == 97.0
    done = status(job(condition("Complete")), pod(ended("fetch"), ended("engine"), ended("publish")))
    assert done == RunStatus(Phase.COMPLETED, BEGAN, ENDED, 100.0, engine_ended_ms=ENDED)


def test_what_a_run_has_moved_is_what_its_stages_leave_word_of() -> None:
    """Both of them, each in its termination message; those of an earlier release say nothing, and that is no fault."""
    fetched = ended("fetch", message='{"images": 7, "down": 5000, "up": 10}')
    done = status(job(condition("Complete")), pod(fetched, ended("engine"), ended("publish", message='{"up": 900}')))
    assert done is not None
    assert (done.down_bytes, done.up_bytes) == (5000, 910)


def test_the_pods_end_may_come_after_the_jobs() -> None:
    """Two watches, each at its own pace: what explains the end is waited for, but not for ever."""
    failed = job(condition("Failed", "PodFailurePolicy", "container engine failed"))
    early = status(failed, pod(ended("fetch"), running("engine")), now=ENDED + 1000)
    assert early is not None
    assert early.phase is Phase.ENGINE
    never = status(failed, pod(ended("fetch"), running("engine")), now=ENDED + 11_000)
    assert never is not None
    assert never.error == "The run failed: container engine failed"


@pytest.mark.parametrize("kind", ["SuccessCriteriaMet", "FailureTarget", "Suspended"])
def test_forerunners_are_not_the_end(kind: str) -> None:
    """Trap 4."""
    still = status(job(condition(kind)), pod(ended("fetch"), running("engine")))
    assert still is not None
    assert still.phase is Phase.ENGINE


def test_complete_counts_although_a_child_was_killed() -> None:
    """Trap 1: `(OOMKilled, 0)` with the Job Complete; publish has looked at the products."""
    done = status(job(condition("Complete")), pod(ended("engine", 0, "OOMKilled"), ended("publish")))
    assert done is not None
    assert done.phase is Phase.COMPLETED


@pytest.mark.parametrize("code", [3, 137])
def test_out_of_memory_ends_the_run_whatever_its_code(code: int) -> None:
    """Trap 1 again: `(OOMKilled, 3)`. Another pod would die in the same way, so it is not waited for."""
    dead = status(job(), pod(ended("fetch"), ended("engine", code, "OOMKilled"), phase="Failed"))
    assert dead is not None
    assert (dead.phase, dead.ended_ms) == (Phase.FAILED, ENDED)
    assert str(dead.error).startswith("Not enough memory")


def test_an_engine_error_is_told_in_its_own_words() -> None:
    """By the lines that the node has seen, else by what Kubernetes kept of the log."""
    failed = job(condition("Failed", "PodFailurePolicy"))
    seen = status(failed, pod(ended("engine", 1), phase="Failed"), seen=Seen(error_lines=("[ERROR]   too few",)))
    assert seen is not None
    assert seen.error == "Cannot process dataset: too few"
    kept = status(failed, pod(ended("engine", 1, message="x\n[ERROR]   no overlap\n"), phase="Failed"))
    assert kept is not None
    assert kept.error == "Cannot process dataset: no overlap"
    other = status(failed, pod(ended("engine", 132), phase="Failed"))
    assert other is not None
    assert other.error == "Unsupported CPU"


def test_bad_input_is_told_as_fetch_told_it() -> None:
    """No node could do better."""
    told = status(
        job(condition("Failed", "PodFailurePolicy")), pod(ended("fetch", 65, message="No images"), phase="Failed")
    )
    assert told is not None
    assert (told.error, told.cause, told.began_ms) == ("No images", Cause.INPUT, None)
    publish = status(
        job(condition("Failed")), pod(ended("engine"), ended("publish", 65, message="No products"), phase="Failed")
    )
    assert publish is not None
    assert (publish.error, publish.cause) == ("No products", Cause.ENGINE)


def test_a_run_over_its_deadline() -> None:
    """The pod is gone already (trap 2)."""
    late = status(job(condition("Failed", "DeadlineExceeded")))
    assert late is not None
    assert "took longer than 60 seconds" in str(late.error)


@pytest.mark.parametrize("code", [1, 137, 143])
def test_a_pod_that_somebody_deleted_is_no_failure(code: int) -> None:
    """ODM ends with 1 on SIGTERM, as for an error; the deletion tells them apart."""
    failed = job(condition("Failed", "PodFailurePolicy"))
    assert status(failed, pod(ended("fetch"), ended("engine", code), phase="Failed", deleted=True)) is None
    assert status(failed, pod(ended("fetch"), ended("engine", code), phase="Failed")) is not None
    real = status(failed, pod(ended("fetch"), ended("engine", 132), phase="Failed", deleted=True))
    assert real is not None
    assert real.error == "Unsupported CPU"


def test_a_machine_that_lost_its_containers() -> None:
    """Trap 7: `ContainerStatusUnknown`, 137; the Job makes another pod, and the run goes on."""
    lost = status(job(), pod(ended("engine", 137, "ContainerStatusUnknown"), phase="Failed"))
    assert lost is not None
    assert lost.phase is Phase.ENGINE
    assert lost.waiting == "The pod was lost (failed); another one follows."


def test_a_full_disk_ends_the_run_and_an_eviction_does_not() -> None:
    """Trap 3: over the emptyDir's limit there is no DisruptionTarget."""
    told: Object = {"reason": "Evicted", "message": "Usage of EmptyDir volume exceeds the limit."}
    full = status(job(), pod(ended("engine", 137), phase="Failed", **told))
    assert full is not None
    assert full.error is not None
    assert full.error.startswith(
        "Not enough scratch disk: Usage of EmptyDir volume exceeds the limit. Use fewer images"
    )
    target = [{"type": "DisruptionTarget", "status": "True"}]
    evicted = status(job(), pod(ended("engine", 137), phase="Failed", conditions=target, **told))
    assert evicted is not None
    assert evicted.waiting == "The pod was lost (Evicted); another one follows."


def test_what_a_run_waits_for() -> None:
    """In Kubernetes' own words."""
    unscheduled = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
    waits = status(job(), pod(phase="Pending", conditions=unscheduled))
    assert waits is not None
    assert waits.waiting == "No machine can take it yet: 0/3 nodes are available"
    pulling = status(job(), pod(blocked("engine", "ImagePullBackOff", "not found"), phase="Pending"), now=BEGAN)
    assert pulling is not None
    assert pulling.waiting == "The image i cannot be pulled (ImagePullBackOff): not found"
    quota = status(job(), seen=Seen(quota="exceeded quota"))
    assert quota is not None
    assert quota.waiting == "exceeded quota"
    kueue = judged(job(suspend=True), [], NOTHING, Patience(600, kueue=True), 0)
    assert kueue is not None
    assert kueue.waiting == "Kueue has not admitted the Job yet."


def test_what_cannot_start_for_too_long_fails() -> None:
    """An image that is not there, a Secret that is not there."""
    for reason in ("ErrImagePull", "InvalidImageName", "CreateContainerConfigError"):
        dead = status(job(), pod(blocked("fetch", reason, "why"), phase="Pending"), now=BEGAN + 601_000)
        assert dead is not None
        assert dead.phase is Phase.FAILED
        assert str(dead.error).startswith("The run could not start:")


def test_of_two_pods_the_newer_counts() -> None:
    """After a disruption the old one may still be there."""
    old = pod(ended("engine", 137), phase="Failed", created="2026-11-24T11:00:00Z")
    new = pod(running("fetch"), created="2026-11-24T12:00:00Z")
    assert status(job(), new, old) == RunStatus()


def test_a_suspended_job_of_a_running_task_starts_again() -> None:
    """Somebody has suspended it behind our back."""
    assert status(job(suspend=True)) is None


def test_a_job_whose_pods_are_all_gone_is_judged_by_its_condition() -> None:
    """After a restart of the node nothing else is left."""
    gone = status(job(condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")))
    assert gone is not None
    assert gone.error == "The run failed: Job has reached the specified backoff limit"
    told = "Container engine for pod odm/p failed with exit code 132 matching FailJob rule at index 1"
    engine = status(job(condition("Failed", "PodFailurePolicy", told)))
    assert engine is not None
    assert engine.error == "Unsupported CPU"
    told = told.replace("engine", "fetch").replace("132", "65")
    fetch = status(job(condition("Failed", "PodFailurePolicy", told)))
    assert fetch is not None
    assert (fetch.error, fetch.cause) == ("fetch ended with exit code 65; see the console", Cause.INPUT)
