"""Task → Job: whole manifests, compared whole."""

import json
import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client

from common.nodeodm.options import Setting
from common.tasks import NO_WISHES, State, Task, Wishes
from node.backends import BackendRefused
from node.engines import Engine
from node.engines.odm import image_engine
from node.families import FamilyTokens
from node.manifests import (
    MOST_INLINE_BYTES,
    RECORD,
    Site,
    annex_document,
    annotations,
    has_secret,
    job,
    job_name,
    label_value,
    lease_name,
    must_retire,
    needs_annex,
    order_from,
    patch,
    record_from,
    record_map,
    refusal,
    token_of,
    token_secret,
)
from node.records import Record
from node.settings import JobSettings
from tests.common.nodeodm.test_messages import task

UUID = "3f1b2c4d-0000-4000-8000-000000000001"
ODM: Engine = image_engine("opendronemap/odm:3.6.0", None)
SITE = Site("berlin", "odm", {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": "http://s3:9000"})


def settings(**changes: Any) -> JobSettings:
    """Settings of a node, without the environment's."""
    return JobSettings(**({"stages_image": "scaleodm/stages:1", "s3_secret": "s3-keys"} | changes))


def record(**changes: Any) -> Record:
    """A counted task."""
    fields: dict[str, Any] = {
        "uuid": UUID,
        "tenant": "survey",
        "state": State.QUEUED,
        "attempt": 2,
        "images_count": 500,
        "input_bytes": 5 * 2**30,
        "options": (Setting("dsm", True), Setting("crop", -1.5)),
    }
    return Record(task(**fields | changes), version=3)


def pod_of(made: dict[str, Any]) -> dict[str, Any]:
    """A Job's pod."""
    found: dict[str, Any] = made["spec"]["template"]["spec"]
    return found


def container(made: dict[str, Any], name: str) -> dict[str, Any]:
    """One of its containers."""
    pod = pod_of(made)
    found: dict[str, Any] = next(each for each in (*pod["initContainers"], *pod["containers"]) if each["name"] == name)
    return found


CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
MARKS = {
    "app.kubernetes.io/name": "scaleodm",
    "app.kubernetes.io/managed-by": "scaleodm-node",
    "scaleodm.org/node": "berlin",
    "scaleodm.org/task": UUID,
    "scaleodm.org/attempt": "2",
    "scaleodm.org/tenant": "survey",
}


def stage(name: str) -> dict[str, Any]:
    """One of our own two containers."""

    def secret(key: str, **more: Any) -> dict[str, Any]:
        return {"name": key, "valueFrom": {"secretKeyRef": {"name": "s3-keys", "key": key, **more}}}

    return {
        "name": name,
        "image": "scaleodm/stages:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "node.stages.job"],
        "args": [name],
        "env": [
            {"name": "AWS_ENDPOINT_URL_S3", "value": "http://s3:9000"},
            {"name": "AWS_REGION", "value": "us-east-1"},
            {"name": "HOME", "value": "/tmp"},
            {"name": "TMPDIR", "value": "/workspace/tmp"},
            secret("AWS_ACCESS_KEY_ID"),
            secret("AWS_SECRET_ACCESS_KEY"),
            secret("AWS_SESSION_TOKEN", optional=True),
            {
                "name": "SCALEODM_ORDER",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['scaleodm.org/order']"}},
            },
        ],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "workspace", "mountPath": "/workspace"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def test_the_whole_job() -> None:
    """Every field that there is."""
    made = job(record(), ODM, settings(), SITE)
    order = {
        "uuid": UUID,
        "attempt": 2,
        "engine": "odm",
        "engine_version": "3.6.0",
        "command": [],
        "input": "s3://b/i/",
        "output": "s3://b/o/",
        "options": [],
        "outputs": [],
        "wishes": json.loads(json.dumps(asdict(NO_WISHES))),
        "max_images": None,
        "first_attempt": 1,
        "router": None,
    }
    assert json.loads(made["spec"]["template"]["metadata"]["annotations"].pop("scaleodm.org/order")) == order
    kept = made["metadata"]["annotations"]
    assert record_from(kept, None) == record()
    assert made == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"odm-{UUID}-2", "namespace": "odm", "labels": MARKS, "annotations": kept},
        "spec": {
            "suspend": True,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 3,
            "activeDeadlineSeconds": 604800,
            "ttlSecondsAfterFinished": 604800,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "engine", "operator": "NotIn", "values": [137, 143]},
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "fetch", "operator": "In", "values": [65, 66, 67]},
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "publish", "operator": "In", "values": [65, 66, 67]},
                    },
                ]
            },
            "template": {
                "metadata": {
                    "labels": MARKS,
                    "annotations": {
                        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                        "karpenter.sh/do-not-disrupt": "true",
                    },
                },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 10,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "fsGroup": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "initContainers": [
                        stage("fetch"),
                        {
                            "name": "engine",
                            "image": "opendronemap/odm:3.6.0",
                            "imagePullPolicy": "IfNotPresent",
                            "args": ["--dsm", "--crop=-1.5", "--project-path", "/workspace/projects", UUID],
                            "env": [
                                {"name": "HOME", "value": "/tmp"},
                                {"name": "ODM_NONINTERACTIVE", "value": "1"},
                                {"name": "PYTHONUNBUFFERED", "value": "1"},
                                {"name": "TMPDIR", "value": "/workspace/tmp"},
                            ],
                            "resources": {
                                "requests": {"cpu": "5088m", "memory": "41677Mi", "ephemeral-storage": "61440Mi"},
                                "limits": {"memory": "50013Mi"},
                            },
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "securityContext": CONFINED,
                            "volumeMounts": [
                                {"name": "workspace", "mountPath": "/workspace"},
                                {"name": "tmp", "mountPath": "/tmp"},
                                {"name": "writable-0", "mountPath": "/code/storage"},
                            ],
                        },
                    ],
                    "containers": [stage("publish")],
                    "volumes": [
                        {"name": "workspace", "emptyDir": {"sizeLimit": "61440Mi"}},
                        {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                        {"name": "writable-0", "emptyDir": {"sizeLimit": "2Gi"}},
                    ],
                },
            },
        },
    }


def test_the_official_clients_own_models_take_it() -> None:
    """Field names, types, what is required."""
    for chosen in (settings(), settings(storage_class="fast", kueue_queue="q", gpus=1, priority_class="p")):
        made = job(record(), ODM, chosen, SITE)
        model = client.V1Job.from_dict(made)
        assert model is not None
        sent = client.ApiClient().sanitize_for_serialization(model)  # type: ignore[no-untyped-call]
        assert sent == made


def test_everything_that_settings_may_add() -> None:
    """Where, with what, on what."""
    made = job(
        record(
            state=State.RUNNING, images_count=6000, wishes=Wishes(engine_image="other/odm:gpu", capacity_type="spot")
        ),
        replace(ODM, command=("python3", "/code/run.py")),
        settings(
            node_selector={"pool": "imagery"},
            tolerations=[{"key": "dedicated", "operator": "Exists"}],
            priority_class="low",
            capacity_label="karpenter.sh/capacity-type",
            image_pull_secrets=["registry"],
            gpus=1,
            storage_class="fast",
            service_account="odm-pods",
            cpu_limit_factor=1.5,
            largest_cpu=16,
            image_pull_policy="Always",
        ),
        SITE,
    )
    pod = pod_of(made)
    assert made["spec"]["suspend"] is False
    assert pod["nodeSelector"] == {"pool": "imagery", "karpenter.sh/capacity-type": "on-demand"}, "6000 images are many"
    assert pod["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
    assert pod["priorityClassName"] == "low"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["serviceAccountName"] == "odm-pods"
    assert pod["automountServiceAccountToken"] is False
    engine = container(made, "engine")
    assert engine["image"] == "other/odm:gpu"
    assert engine["command"] == ["python3", "/code/run.py"]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert engine["resources"]["limits"]["cpu"] == "24000m"
    assert "ephemeral-storage" not in engine["resources"]["requests"]
    assert pod["volumes"][0] == {
        "name": "workspace",
        "ephemeral": {
            "volumeClaimTemplate": {
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "fast",
                    "resources": {"requests": {"storage": "61440Mi"}},
                }
            }
        },
    }


@pytest.mark.parametrize(
    ("images", "asked", "usual", "got"),
    [
        (10, "spot", None, "spot"),
        (10, None, "spot", "spot"),
        (10, "on-demand", "spot", "on-demand"),
        (5000, "spot", None, "on-demand"),
        (10, None, None, None),
    ],
)
def test_spot_or_on_demand(images: int, asked: str | None, usual: str | None, got: str | None) -> None:
    """As asked for, but a large task has too much to lose."""
    chosen = settings(capacity_label="c", capacity_type=usual)
    made = job(record(images_count=images, wishes=Wishes(capacity_type=asked)), ODM, chosen, SITE)
    assert pod_of(made).get("nodeSelector", {}).get("c") == got


def test_a_gpu_is_not_asked_for_where_the_task_does_without() -> None:
    """`no-gpu` is ODM's own option."""
    made = job(record(options=(Setting("no-gpu", True),)), ODM, settings(gpus=1), SITE)
    assert "nvidia.com/gpu" not in container(made, "engine")["resources"]["limits"]


def test_kueue_admits_what_carries_its_label() -> None:
    """Suspended whatever the record says, labelled on the Job alone; an ended one goes, lest it be started again."""
    kueue = settings(kueue_queue="imagery")
    made = job(record(state=State.RUNNING), ODM, kueue, SITE)
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"] == MARKS | {"kueue.x-k8s.io/queue-name": "imagery"}
    assert made["spec"]["template"]["metadata"]["labels"] == MARKS
    canceled = record(state=State.CANCELED)
    assert must_retire(canceled, made, kueue)
    assert not must_retire(canceled, made, settings())
    over = made | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    assert not must_retire(record(state=State.COMPLETED), over, kueue)


def test_short_lived_credentials_come_by_a_token_that_goes_with_the_job() -> None:
    """No key of S3, no token in the manifest: a reference."""
    made = job(record(), ODM, settings(s3_secret=None), replace(SITE, credentials_url="http://node:3001"))
    environment = {each["name"]: each for each in container(made, "publish")["env"]}
    assert environment["SCALEODM_CREDENTIALS_URL"]["value"] == f"http://node:3001/jobs/{UUID}/2/credentials"
    assert environment["SCALEODM_CREDENTIALS_TOKEN"]["valueFrom"] == {
        "secretKeyRef": {"name": f"odm-{UUID}-2-v{record().version}", "key": "token"}
    }
    assert not [name for name in environment if name.startswith("AWS_SECRET")]
    assert "CREDENTIALS" not in json.dumps(container(made, "engine"))
    made["metadata"]["uid"] = "uid-of-the-job"
    newer = replace(record(), version=record().version + 1)
    secret = token_secret(newer, SITE, {"token": "t"}, made)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-of-the-job"
    assert secret["metadata"]["name"] == f"odm-{UUID}-2-v{record().version}", "as the Job was made"
    again = job(newer, ODM, settings(s3_secret=None), replace(SITE, credentials_url="http://node:3001"))
    assert token_of(again) != token_of(made), "a Job that takes another's name has a Secret of its own"
    old = {"metadata": {"name": f"odm-{UUID}-2", "annotations": {}}}
    assert token_of(old) == f"odm-{UUID}-2", "of an earlier release"
    assert secret["stringData"] == {"token": "t"}


def test_what_is_large_lies_beside_the_output() -> None:
    """Annotations hold 256 KiB together; ODM takes `boundary` as a file."""
    boundary = json.dumps({"type": "Polygon", "coordinates": [[0.5] * 20_000]})
    large = record(options=(Setting("boundary", boundary), Setting("dsm", True)))
    assert needs_annex(large)
    made = job(large, ODM, settings(), SITE)
    assert len(json.dumps(made)) < 3 * MOST_INLINE_BYTES
    assert made["metadata"]["annotations"]["scaleodm.org/annex"] == f"s3://b/o/.scaleodm/{UUID}-2.json"
    annex = json.loads(json.dumps(annex_document(large.task)))
    assert record_from(made["metadata"]["annotations"], annex) == large
    order = order_from(json.loads(made["spec"]["template"]["metadata"]["annotations"]["scaleodm.org/order"]), annex)
    assert order.options == (Setting("boundary", boundary),), "only what travels as a file"
    assert container(made, "engine")["args"][:2] == ["--boundary=/workspace/options/boundary.json", "--dsm"]


def test_a_small_boundary_travels_in_the_order() -> None:
    """As a file too: what begins with a brace is never an argument."""
    small = record(options=(Setting("boundary", '{"a": "$(rm -rf /)"}'),))
    made = job(small, ODM, settings(), SITE)
    assert not needs_annex(small)
    assert "rm -rf" not in json.dumps(container(made, "engine"))
    document = json.loads(made["spec"]["template"]["metadata"]["annotations"]["scaleodm.org/order"])
    assert order_from(document, None).options == small.task.options


@pytest.mark.contract("6.1 no shell", "10 16")
@given(st.text(max_size=200), st.text(max_size=50))
def test_no_text_of_a_users_becomes_anything_but_one_argument(value: str, tenant: str) -> None:
    """No shell, no label that Kubernetes refuses."""
    made = job(record(options=(Setting("primary-band", value),), tenant=tenant), ODM, settings(), SITE)
    assert f"--primary-band={value}".replace("$", "$$") in container(made, "engine")["args"], "$(HOME) stays what it is"
    assert (
        label_value(made["metadata"]["labels"]["scaleodm.org/tenant"])
        == made["metadata"]["labels"]["scaleodm.org/tenant"]
    )


@given(st.uuids(), st.integers(1, 99))
def test_names_are_stable_and_differ(uuid: Any, attempt: int) -> None:
    """Creating a Job twice is the same Job; another attempt, or another case of the uuid, is another."""
    text = str(uuid)
    assert job_name(text, attempt) == job_name(text, attempt)
    assert len(job_name(text.upper(), attempt)) <= 63
    names = {job_name(text, attempt), job_name(text, attempt + 1)}
    if text.upper() != text:
        names.add(job_name(text.upper(), attempt))
    assert len(names) == 2 + (text.upper() != text)


def test_every_node_name_makes_a_lease() -> None:
    """Node names may have capitals and underscores, names of objects may not."""
    assert lease_name(SITE) == "scaleodm-berlin"
    odd = {lease_name(replace(SITE, node=name)) for name in ("Berlin_2", "berlin_2")}
    assert len(odd) == 2
    assert all(re.fullmatch(r"scaleodm-[0-9a-f]{20}", name) for name in odd)


def test_what_cannot_become_a_job_is_told() -> None:
    """An image that is not allowed, an option that is too long to pass on."""

    def of(**changes: Any) -> Task:
        return record(**changes).task

    allowing = settings(engine_images=["ghcr.io/odm/*"])
    assert refusal(of(wishes=Wishes(engine_image="ghcr.io/odm/gpu:1")), allowing) is None
    told = refusal(of(wishes=Wishes(engine_image="evil/miner")), allowing)
    assert told == (
        "odmImage 'evil/miner' is not allowed on this node, which runs opendronemap/odm:3.6.0, ghcr.io/odm/*. "
        "Choose one of these, or leave it out."
    )
    long = refusal(of(options=(Setting("primary-band", "x" * 5000),)), settings())
    assert long == "Option primary-band is 5000 characters long; at most 4096 can be passed on. Shorten it."
    assert refusal(of(options=(Setting("boundary", "{" + "x" * 9000),)), settings()) is None


def test_a_patch_tests_what_it_changes_and_starts_or_stops_in_one_request() -> None:
    """The state of the record and of the run are one."""
    held = job(record(), ODM, settings(), SITE)
    started = replace(record(state=State.RUNNING), version=4)
    changes = patch(started, 3, held, settings())
    assert changes[0] == {"op": "test", "path": "/metadata/annotations/scaleodm.org~1version", "value": "3"}
    assert changes[1]["value"] == "4"
    assert json.loads(changes[2]["value"])["task"]["state"] == "running"
    assert changes[3:] == [{"op": "add", "path": "/spec/suspend", "value": False}]
    again = patch(replace(record(), version=4), 3, held, settings())[3:]
    assert again == [{"op": "add", "path": "/spec/suspend", "value": True}], "somebody may have started it unheard"
    over = held | {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    assert patch(replace(record(state=State.FAILED), version=4), 3, over, settings())[3:] == []
    assert patch(started, 3, held, settings(kueue_queue="q"))[3:] == [], "Kueue starts it"
    assert patch(started, 3, record_map(record(), SITE), settings())[3:] == [], "a ConfigMap runs nothing"


def test_a_record_survives_its_annotations() -> None:
    """Every field."""
    full = replace(
        record(error="x", waiting="y", wishes=Wishes(2, ("a",), "i", "spot")), forwarded=True, starts=2, ended_ms=9
    )
    assert record_from(annotations(full), None) == full
    assert set(annotations(full)) == {RECORD, "scaleodm.org/version"}


def test_i9_what_opens_the_router_to_the_parts_of_a_split_task_is_a_file_of_a_secret() -> None:
    """The engine's arguments hold the bare address; the token is in no spec and no annotation; it goes with its Job."""
    options = (Setting("split", 400), Setting("sm-cluster", "http://router:3000"))
    large = replace(record(options=options), cluster="http://router:3000")
    families = FamilyTokens()
    with pytest.raises(BackendRefused, match="has not joined its router yet"):
        families.netrc_of(large)
    families.joined("node-id", "s" * 64)
    netrc = families.netrc_of(large)
    assert netrc is not None
    assert netrc.startswith(f"machine router login scaleodm password scaleodm-parts.{UUID}.2.node-id.")
    assert families.netrc_of(record()) is None

    made = job(large, ODM, settings(), SITE)
    engine = container(made, "engine")
    assert "--sm-cluster=http://router:3000" in engine["args"]
    assert {"name": "NETRC", "value": "/run/scaleodm/netrc"} in engine["env"]
    assert {"name": "netrc", "mountPath": "/run/scaleodm", "readOnly": True} in engine["volumeMounts"]
    volume = next(each for each in pod_of(made)["volumes"] if each["name"] == "netrc")
    assert volume["secret"] == {
        "secretName": token_of(made),
        "items": [{"key": "netrc", "path": "netrc"}],
        "defaultMode": 0o440,
    }
    assert "netrc" not in json.dumps([container(made, name) for name in ("fetch", "publish")])
    assert json.loads(made["spec"]["template"]["metadata"]["annotations"]["scaleodm.org/order"])["router"]
    assert "scaleodm-parts" not in json.dumps(made)
    assert record_from(made["metadata"]["annotations"], None) == large, "and what is kept of it says where parts go"

    made["metadata"]["uid"] = "uid-of-the-job"
    secret = token_secret(large, SITE, {"netrc": netrc}, made)
    assert secret["stringData"] == {"netrc": netrc}
    assert secret["metadata"]["name"] == token_of(made)
    assert not has_secret(record(), SITE)
    assert "NETRC" not in json.dumps(job(record(), ODM, settings(), SITE))
