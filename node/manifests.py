"""Task → Kubernetes Job, as plain dictionaries (design 4.4). Pure.

The Job's name comes from uuid and attempt, so that creating it twice is creating it once. The task's record lies in its
annotations; what may grow large lies in S3 beside the output, and the annotations refer to it.
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from common import boundaries
from common.nodeodm.options import Setting
from common.references import Reference
from common.tasks import ENDED, State, Task
from node.engines import Engine, argv, order_for
from node.records import Record, record_document, record_of, task_document
from node.rerun import is_rerun, without_rerun
from node.runs import Order
from node.settings import JobSettings
from node.sizing import size_of

DOMAIN = "scaleodm.org"
MANAGED_BY = "scaleodm-node"
NODE_LABEL = f"{DOMAIN}/node"
TASK_LABEL = f"{DOMAIN}/task"
ATTEMPT_LABEL = f"{DOMAIN}/attempt"
TENANT_LABEL = f"{DOMAIN}/tenant"
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
RECORD = f"{DOMAIN}/record"
VERSION = f"{DOMAIN}/version"
ANNEX = f"{DOMAIN}/annex"
ORDER = f"{DOMAIN}/order"
TOKEN = f"{DOMAIN}/token"
FETCH, ENGINE, PUBLISH = "fetch", "engine", "publish"
IN_PLACE = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""What keeps autoscalers from moving a run's pod to save a machine: the run would begin anew."""
NETRC = "netrc"
"""Name of the volume, of the file in it, and of its key in the Secret."""
IMAGES, DOWN, UP = "images", "down", "up"
"""What our two containers leave word of when they have ended well: how many images `fetch` has found, and how many
bytes came from S3 and went there."""

WORKSPACE = PurePosixPath("/workspace")
PROJECTS = WORKSPACE / "projects"
OPTION_FILES = WORKSPACE / "options"
SCRATCH = WORKSPACE / "tmp"
NETRC_FOLDER = PurePosixPath("/run/scaleodm")
CONSOLE_CAME_LATE = "The console was not there in time."
"""What `publish` says at its end where it has packed a note in place of the console: the node brings it once more."""
INPUT_AT_FAULT = 65
"""Exit code of our stages for what no retry can mend (`EX_DATAERR`)."""
ALREADY_PUBLISHED = 66
"""Exit code of our stages when an earlier attempt of the same run has published already."""
OUTDATED = 67
"""Exit code of our stages when another attempt has taken this one's place."""
TRY_AGAIN = 75
"""Exit code of our stages for what another pod may do better (`EX_TEMPFAIL`)."""
_FINAL = (INPUT_AT_FAULT, ALREADY_PUBLISHED, OUTDATED)
MOST_INLINE_BYTES = 32 * 1024
"""Of a record in an annotation. All annotations of an object may have 256 KiB together."""
LONGEST_ARGUMENT = 4096
"""Characters of an option's value in the argv; longer ones travel as files, where ODM takes a file."""
FILE_OPTIONS = frozenset({"boundary", "cameras"})
"""Options whose value may be JSON or the path of a file that holds it (contract 9.6)."""
GRACE_S = 10
"""ODM ends at once when it is told to; what does not is killed while a client still waits for its cancel."""
KILLED_FROM_OUTSIDE = (137, 143)
"""Exit codes of an engine that was killed: what killed it is for the node to find out."""
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Site:
    """What every Job of this node has in common, beside the settings."""

    node: str
    """The node's name."""
    namespace: str
    s3_environment: Mapping[str, str]
    """Where S3 is, as pods reach it; no secret."""
    credentials_url: str | None = None
    """Where pods ask for short-lived credentials; None where they get static ones, or none."""
    max_images: int | None = None


def job_name(uuid: str, attempt: int) -> str:
    """The name of an attempt's Job: also a valid host name, since pods are named after it."""
    name = uuid.lower()
    if name != uuid:
        # Clients may choose uuids that differ in nothing but case.
        name += "-" + hashlib.sha256(uuid.encode()).hexdigest()[:6]
    return f"odm-{name}-{attempt}"


def record_name(uuid: str) -> str:
    """The name of the ConfigMap that holds a task's record while it has no Job."""
    return job_name(uuid, 0).removesuffix("-0")


def lease_name(site: Site) -> str:
    """The name of the Lease that this node's replicas hold in turn."""
    name = f"scaleodm-{site.node}"
    is_plain = _OBJECT_NAME.fullmatch(name) is not None
    return name if is_plain else f"scaleodm-{hashlib.sha256(site.node.encode()).hexdigest()[:20]}"


def labels(record: Record, site: Site) -> dict[str, str]:
    """What tells our objects from others, and one task's from another's."""
    return {
        "app.kubernetes.io/name": "scaleodm",
        "app.kubernetes.io/managed-by": MANAGED_BY,
        NODE_LABEL: label_value(site.node),
        TASK_LABEL: label_value(record.task.uuid),
        ATTEMPT_LABEL: str(record.task.attempt),
        TENANT_LABEL: label_value(record.task.tenant),
    }


def token_name(record: Record) -> str:
    """The name of the Secret of a Job that is made of this record. Each Job that takes an older one's name has another:
    the older one's Secret may still be there, and goes with it."""
    return f"{job_name(record.task.uuid, record.task.attempt)}-v{record.version}"


def token_of(job_found: Mapping[str, Any]) -> str:
    """The name of a Job's Secret; that of a Job of an earlier release is the Job's own."""
    metadata = job_found["metadata"]
    return str((metadata.get("annotations") or {}).get(TOKEN) or metadata["name"])


def selector(site: Site) -> str:
    """The label selector of everything that belongs to this node."""
    return f"app.kubernetes.io/managed-by={MANAGED_BY},{NODE_LABEL}={label_value(site.node)}"


def label_value(text: str) -> str:
    """The text itself where Kubernetes takes it as a label's value, else a digest of it."""
    return text if _LABEL_VALUE.fullmatch(text) else "x" + hashlib.sha256(text.encode()).hexdigest()[:20]


# The record


def annotations(record: Record, annexed: bool = False) -> dict[str, str]:
    """The record as annotations. What is too large for that is left out, and `annex` says where it lies.

    `annexed`: it lies there although the record is not large, because what is large of it could not be read yet.
    """
    text = _json(record_document(record))
    if len(text.encode()) <= MOST_INLINE_BYTES and not annexed:
        return {VERSION: str(record.version), RECORD: text}
    return {
        VERSION: str(record.version),
        ANNEX: str(annex_of(record.task)),
        RECORD: _json(_without_annex(record)),
    }


def _without_annex(record: Record) -> dict[str, Any]:
    document = record_document(record)
    return document | {"task": document["task"] | {"options": [], "outputs": []}}


def needs_annex(record: Record) -> bool:
    """Whether part of the record must lie in S3."""
    return ANNEX in annotations(record)


def annex_of(task: Task) -> Reference:
    """Where the large part of an attempt's record lies: beside its output."""
    return Reference.parse(task.output) / f".scaleodm/{task.uuid}-{task.attempt}.json"


def annex_document(task: Task) -> dict[str, Any]:
    """The large part itself."""
    return {"options": [[each.name, each.value] for each in task.options], "outputs": list(task.outputs)}


def with_annex(record: Record, annex: Mapping[str, Any]) -> Record:
    """The record with what `annex_document` has kept of it."""
    return record_of(record_document(record) | {"task": task_document(record.task) | dict(annex)})


def record_from(found: Mapping[str, str], annex: Mapping[str, Any] | None) -> Record:
    """Read back what `annotations` wrote; `annex` where it refers to one."""
    document = json.loads(found[RECORD])
    if annex is not None:
        document["task"] |= annex
    return record_of(document)


def record_map(record: Record, site: Site, annexed: bool = False) -> dict[str, Any]:
    """The ConfigMap that holds a task's record while it has no Job: its images are still being counted, say.

    `annexed` as of `annotations`.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": record_name(record.task.uuid),
            "namespace": site.namespace,
            "labels": labels(record, site),
            "annotations": annotations(record, annexed),
        },
    }


# The Job


def is_suspended(state: State) -> bool:
    """Whether a Job of a task in this state must not run. What has ended by itself needs no stopping."""
    return state is not State.RUNNING


def refusal(task: Task, settings: JobSettings) -> str | None:
    """Why no Job can be made of this task; None where one can."""
    image = task.wishes.engine_image
    allowed = settings.engine_images
    if image is not None and image != settings.engine_image and not any(fnmatch.fnmatchcase(image, a) for a in allowed):
        known = ", ".join([settings.engine_image, *allowed])
        return (
            f"odmImage {image!r} is not allowed on this node, which runs {known}. Choose one of these, or leave it out."
        )
    for option in task.options:
        if len(str(option.value)) > LONGEST_ARGUMENT and not _is_file(option):
            return (
                f"Option {option.name} is {len(str(option.value))} characters long; at most {LONGEST_ARGUMENT} can be "
                "passed on. Shorten it."
            )
    return None


def job(record: Record, engine: Engine, settings: JobSettings, site: Site) -> dict[str, Any]:
    """The whole Job of a record's current attempt."""
    task = record.task
    marks = labels(record, site)
    queue = {KUEUE_LABEL: settings.kueue_queue} if settings.kueue_queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(task.uuid, task.attempt),
            "namespace": site.namespace,
            "labels": marks | queue,
            "annotations": annotations(record) | ({TOKEN: token_name(record)} if has_secret(record, site) else {}),
        },
        "spec": {
            "suspend": settings.kueue_queue is not None or is_suspended(task.state),
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": settings.backoff_limit,
            "activeDeadlineSeconds": settings.deadline_s,
            "ttlSecondsAfterFinished": settings.keep_s,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {
                    "labels": marks,
                    "annotations": IN_PLACE | {ORDER: _json(_order(record, engine, site))},
                },
                "spec": _pod(record, engine, settings, site),
            },
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """A disruption is not counted; what the engine or the input is at fault for fails at once; the rest is retried."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        _fail_on(ENGINE, "NotIn", KILLED_FROM_OUTSIDE),
        _fail_on(FETCH, "In", _FINAL),
        _fail_on(PUBLISH, "In", _FINAL),
    ]


def _fail_on(container: str, operator: str, codes: tuple[int, ...]) -> dict[str, Any]:
    return {
        "action": "FailJob",
        "onExitCodes": {"containerName": container, "operator": operator, "values": list(codes)},
    }


def _order(record: Record, engine: Engine, site: Site) -> dict[str, Any]:
    """What the stages beside the engine are told: options only where they travel as files."""
    task = record.task
    files = tuple(each for each in task.options if _is_file(each) or is_rerun(each))
    given = {"router": record.cluster, "traceparent": record.traceparent}
    order = replace(order_for(task, engine, site.max_images), options=files, command=(), **given)  # type: ignore[arg-type]
    if len(_json(order.as_json())) <= MOST_INLINE_BYTES:
        return order.as_json()
    return replace(order, options=(), outputs=()).as_json() | {"annex": str(annex_of(task))}


def order_from(document: Mapping[str, Any], annex: Mapping[str, Any] | None) -> Order:
    """Read the order back, as a stage does; `annex` where it refers to one."""
    plain = {name: value for name, value in document.items() if name != "annex"}
    order = Order.from_json(plain | dict(annex or {}))
    return replace(order, options=tuple(each for each in order.options if _is_file(each) or is_rerun(each)))


def _is_file(option: Setting) -> bool:
    if option.name not in FILE_OPTIONS or not isinstance(option.value, str):
        return False
    return option.value[:1] in ("{", "[") or boundaries.is_reference(option.value)


def option_file(option: Setting) -> PurePosixPath:
    """Where an option's value lies that travels as a file."""
    return OPTION_FILES / f"{option.name}.json"


def _pod(record: Record, engine: Engine, settings: JobSettings, site: Site) -> dict[str, Any]:
    task = record.task
    size = size_of(task, settings.rules)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            "fsGroup": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [
            _stage(FETCH, record, settings, site),
            _engine(record, engine, settings),
        ],
        "containers": [_stage(PUBLISH, record, settings, site)],
        "volumes": [_workspace(size.disk_mib, settings), *_writable_volumes(settings), *_netrc_volumes(record)],
    }
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if chosen := dict(settings.node_selector) | _capacity_selector(task, settings):
        spec["nodeSelector"] = chosen
    if settings.tolerations:
        spec["tolerations"] = list(settings.tolerations)
    if settings.priority_class is not None:
        spec["priorityClassName"] = settings.priority_class
    return spec


def _capacity_selector(task: Task, settings: JobSettings) -> dict[str, str]:
    """Spot machines are cheap and go away; a large task loses more by that than it saves."""
    asked = task.wishes.capacity_type or settings.capacity_type
    if settings.capacity_label is None or asked is None:
        return {}
    is_large = 0 < settings.on_demand_above <= task.images_count
    return {settings.capacity_label: "on-demand" if is_large else asked}


def _workspace(disk_mib: int, settings: JobSettings) -> dict[str, Any]:
    if settings.storage_class is None:
        return {"name": "workspace", "emptyDir": {"sizeLimit": f"{disk_mib}Mi"}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": settings.storage_class,
        "resources": {"requests": {"storage": f"{disk_mib}Mi"}},
    }
    return {"name": "workspace", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _writable_volumes(settings: JobSettings) -> list[dict[str, Any]]:
    names = ["tmp", *(f"writable-{place}" for place in range(len(settings.engine_writable)))]
    return [{"name": name, "emptyDir": {"sizeLimit": "2Gi"}} for name in names]


def _netrc_volumes(record: Record) -> list[dict[str, Any]]:
    """What opens the router for the engine of a split task: a file of a Secret, never an argument or part of a spec."""
    if record.cluster is None:
        return []
    only = {"secretName": token_name(record), "items": [{"key": NETRC, "path": NETRC}], "defaultMode": 0o440}
    return [{"name": NETRC, "secret": only}]


def _stage(name: str, record: Record, settings: JobSettings, site: Site) -> dict[str, Any]:
    """One of our own two containers: they alone may reach S3."""
    task = record.task
    plain = dict(site.s3_environment) | {"HOME": "/tmp", "TMPDIR": str(SCRATCH)}  # noqa: S108 - a volume of the pod's own
    if site.credentials_url is not None:
        plain["SCALEODM_CREDENTIALS_URL"] = f"{site.credentials_url}/jobs/{task.uuid}/{task.attempt}/credentials"
    environment: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in sorted(plain.items())]
    environment += [
        {"name": key, "valueFrom": {"secretKeyRef": secret}} for key, secret in _secrets(record, settings, site)
    ]
    environment.append(
        {
            "name": "SCALEODM_ORDER",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{ORDER}']"}},
        }
    )
    return {
        "name": name,
        "image": settings.stages_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "node.stages.job"],
        "args": [name],
        "env": environment,
        "resources": {
            "requests": {"cpu": "250m", "memory": "512Mi"},
            "limits": {"memory": "1Gi"},
        },
        "securityContext": _confined(),
        "volumeMounts": [
            {"name": "workspace", "mountPath": str(WORKSPACE)},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
        ],
    }


def _secrets(record: Record, settings: JobSettings, site: Site) -> list[tuple[str, dict[str, Any]]]:
    """Environment variables that come from Secrets, by reference."""
    if site.credentials_url is not None:
        token: dict[str, Any] = {"name": token_name(record), "key": "token"}
        return [("SCALEODM_CREDENTIALS_TOKEN", token)]
    if settings.s3_secret is None:
        return []
    found: list[tuple[str, dict[str, Any]]] = [
        (key, {"name": settings.s3_secret, "key": key}) for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    return [*found, ("AWS_SESSION_TOKEN", {"name": settings.s3_secret, "key": "AWS_SESSION_TOKEN", "optional": True})]


def _engine(record: Record, engine: Engine, settings: JobSettings) -> dict[str, Any]:
    """The engine's own image and entry point. It gets no credential but that for the parts of a split task."""
    task = record.task
    size = size_of(task, settings.rules)
    given = [
        Setting(each.name, str(option_file(each))) if _is_file(each) else each for each in without_rerun(task.options)
    ]
    requests = {"cpu": f"{size.cpu_request_milli}m", "memory": f"{size.memory_request_mib}Mi"}
    limits = {"memory": f"{size.memory_limit_mib}Mi"}
    if settings.storage_class is None:
        requests["ephemeral-storage"] = f"{size.disk_mib}Mi"
    if size.cpu_limit_milli is not None:
        limits["cpu"] = f"{size.cpu_limit_milli}m"
    if settings.gpus and not any(each.name == "no-gpu" and each.value is True for each in task.options):
        limits[settings.gpu_resource] = str(settings.gpus)
    container: dict[str, Any] = {
        "name": ENGINE,
        "image": task.wishes.engine_image or settings.engine_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": [_literal(each) for each in argv((), PROJECTS, task.uuid, given)],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": "ODM_NONINTERACTIVE", "value": "1"},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "TMPDIR", "value": str(SCRATCH)},
        ],
        "resources": {"requests": requests, "limits": limits},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": _confined(),
        "volumeMounts": [
            {"name": "workspace", "mountPath": str(WORKSPACE)},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *({"name": f"writable-{place}", "mountPath": path} for place, path in enumerate(settings.engine_writable)),
        ],
    }
    if record.cluster is not None:
        container["env"].append({"name": "NETRC", "value": str(NETRC_FOLDER / NETRC)})
        container["volumeMounts"].append({"name": NETRC, "mountPath": str(NETRC_FOLDER), "readOnly": True})
    if engine.command:
        container["command"] = [_literal(each) for each in engine.command]
    return container


def _literal(argument: str) -> str:
    """An argument as Kubernetes passes it on unchanged: it would put variables in place of `$(NAME)`."""
    return argument.replace("$", "$$")


def _confined() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def has_secret(record: Record, site: Site) -> bool:
    """Whether the pods of this record's Job need a Secret of their own."""
    return site.credentials_url is not None or record.cluster is not None


def token_secret(
    record: Record, site: Site, secrets: Mapping[str, str], job_found: Mapping[str, Any]
) -> dict[str, Any]:
    """The Secret with the token by which one Job's pods ask for credentials, and with what opens the router to a split
    task's. It goes with its Job."""
    owner = {"name": job_found["metadata"]["name"], "uid": job_found["metadata"]["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": token_of(job_found),
            "namespace": site.namespace,
            "labels": labels(record, site),
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", **owner, "controller": False}],
        },
        "type": "Opaque",
        "stringData": dict(secrets),
    }


def patch(
    record: Record, current_version: int, job_found: Mapping[str, Any], settings: JobSettings
) -> list[dict[str, Any]]:
    """What makes a Job (or ConfigMap) hold this record, provided that it still holds version `current_version`.

    For a Job it also starts or stops the run, in the same request: the state of the record and of the run are one.
    """
    where = "/metadata/annotations/"
    annexed = ANNEX in job_found["metadata"]["annotations"]
    document = _without_annex(record) if annexed else record_document(record)
    changes: list[dict[str, Any]] = [
        {"op": "test", "path": where + _escaped(VERSION), "value": str(current_version)},
        {"op": "replace", "path": where + _escaped(VERSION), "value": str(record.version)},
        {"op": "replace", "path": where + _escaped(RECORD), "value": _json(document)},
    ]
    if "spec" in job_found and not is_finished(job_found):
        suspend = is_suspended(record.task.state)
        # Said also where it seems to be so already: somebody else may have changed it, and we not have heard of it yet.
        if suspend or settings.kueue_queue is None:
            changes.append({"op": "add", "path": "/spec/suspend", "value": suspend})
    return changes


def is_finished(job_found: Mapping[str, Any]) -> bool:
    """Whether a Job is over: Complete or Failed, not one of their forerunners (kubernetes-facts 4)."""
    return finished_condition(job_found) is not None


def finished_condition(job_found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The condition that says how a Job ended."""
    conditions = (job_found.get("status") or {}).get("conditions") or []
    ends = (each for each in conditions if each["type"] in ("Complete", "Failed") and each["status"] == "True")
    return next(ends, None)


def must_retire(record: Record, job_found: Mapping[str, Any], settings: JobSettings) -> bool:
    """Whether an ended task's Job must go because it is not over itself: Kueue would start a suspended one again."""
    return settings.kueue_queue is not None and record.task.state in ENDED and not is_finished(job_found)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _json(document: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
