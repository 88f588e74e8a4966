"""A stand-in for a cluster: kmock with an API server's manners, a Job controller, and a kubelet that runs processes.

The three containers of a Job really run, one after the other, as processes of this machine against the real S3 server.
How Jobs, pods and their deaths look is taken from `kubernetes-facts.md`; the times are shortened. Every request is held
against the Role that we ship (`deploy/kubernetes/node/rbac.yaml`).
"""

import asyncio
import base64
import contextlib
import copy
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import aiohttp.web
import jsonpatch
import yaml
from kmock import KubernetesEmulator, KubernetesError, Server, action, method
from kmock import Request as KmockRequest
from kmock._internal.rendering import Response

ROOT = Path(__file__).parent.parent
ROLE = ROOT / "deploy/kubernetes/node/rbac.yaml"
STANDIN = Path(__file__).with_name("standin_odm.py")
NAMESPACE = "odm"
STAGES_IMAGE = "scaleodm/stages:test"
ENGINE_IMAGE = "opendronemap/odm:3.6.0"
OTHER_IMAGE = "opendronemap/odm:gpu"
SPLIT_IMAGE = "opendronemap/odm:split"
"""With the stand-in for ODM's split-merge."""
GRACE_S = 2.0
REPLACE_AFTER_S = 0.3
ANNOTATIONS_LIMIT = 256 * 1024
HISTORY = 2_000
PLURALS = ("jobs", "pods", "configmaps", "secrets", "events", "leases", "serviceaccounts", "roles", "rolebindings")
ADMIN = "Bearer an-administrator"
TOKENS = ("Bearer no-secret", "Bearer of-the-role")
ENTRY_POINTS = {
    STAGES_IMAGE: [sys.executable],
    ENGINE_IMAGE: [sys.executable, str(STANDIN)],
    OTHER_IMAGE: [sys.executable, str(STANDIN)],
    SPLIT_IMAGE: ["env", "STANDIN_RETRY_S=1", "STANDIN_POLL_S=0.5", sys.executable, "-m", "tests.standin_split"],
}

Object = dict[str, Any]
R = TypeVar("R")


def moment() -> str:
    """Now, as the API server writes it: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reset(request: KmockRequest) -> None:
    """Break the connection, as a network or a dying API server does."""
    raw = request._raw_request
    assert raw is not None
    if raw.transport is not None:
        raw.transport.abort()
    raise KubernetesError(status=503)


def rules() -> set[tuple[str, str]]:
    """(resource, verb) that the Role we ship allows."""
    role = next(each for each in yaml.safe_load_all(ROLE.read_text()) if each["kind"] == "Role")
    return {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


class StandInApi(KubernetesEmulator):
    """The API server: names, versions, selectors, JSON patches, watches, rights."""

    def __attrs_post_init__(self) -> None:
        """Our manners in place of kmock's."""
        super().__attrs_post_init__()
        self.store: dict[str, dict[str, Object]] = {plural: {} for plural in PLURALS}
        self.version = 1000
        self.history: list[tuple[int, str, str, Object]] = []
        self.oldest = 0
        self.grew = asyncio.Event()
        self.watch_round = 0
        self.namespaces = {NAMESPACE}
        self.allowed = rules()
        self.used: set[tuple[str, str]] = set()
        self.faults: list[Callable[[KmockRequest], KubernetesError | None]] = []
        self.losses: list[Callable[[KmockRequest], bool]] = []
        """What is done, and its answer lost on the way."""
        self.delay_s = 0.0
        self.collects_after_s = 0.0
        """How long what a deleted object owned stays before it is collected."""
        self.is_away = False
        self.on_change: Callable[[str, str], None] = lambda _plural, _name: None
        self.log_of: Callable[[str, str], Log | None] = lambda _pod, _container: None

    async def __call__(self, raw_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        """Namespaces, which kmock's own parser does not know as objects."""
        found = re.fullmatch(r"/api/v1/namespaces(?:/([^/]+))?", raw_request.path)
        if found is None:
            return await super().__call__(raw_request)
        name = found.group(1) or (await raw_request.json())["metadata"]["name"]
        self.namespaces.add(name)
        if raw_request.method == "DELETE":
            self.namespaces.discard(name)
            for plural in ("jobs", "configmaps", "secrets"):
                for obj in list(self.store[plural].values()):
                    if obj["metadata"].get("namespace") == name:
                        self.discard(plural, copy.deepcopy(obj))
        return aiohttp.web.json_response({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def _handle(self, request: KmockRequest) -> Any:
        """Rights and planted faults first."""
        if self.is_away:
            reset(request)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        for fault in self.faults:
            if (error := fault(request)) is not None:
                raise error
        plural = request.resource.plural if request.resource else None
        if plural in PLURALS and request.headers.get("Authorization") != ADMIN:
            self._check_rights(request, str(plural))
        # Not by kmock's filters: they are rich, and slow, and a bench would measure them.
        answer = await self._answer(request)
        if any(lost(request) for lost in self.losses):
            reset(request)
        return await Response(payload=answer)(request)

    async def _answer(self, request: KmockRequest) -> Any:
        match request.action:
            case action.LIST:
                return await self._serve_list(request)
            case action.WATCH:
                return self._serve_watch(request)
            case action.FETCH:
                return await self._serve_fetch(request)
            case action.UPDATE:
                return await self._serve_update(request)
            case action.DELETE:
                return await self._serve_delete(request)
            case action.CREATE:
                return await self._serve_create(request)
        if request.method == method.PUT:
            return await self._serve_replace(request)
        if request.method == method.POST:
            return await self._serve_create(request)
        raise KubernetesError(status=405, reason="MethodNotAllowed", message=f"{request.method} {request.url}")

    def _check_rights(self, request: KmockRequest, plural: str) -> None:
        if request.headers.get("Authorization") not in TOKENS:
            raise KubernetesError(status=401, reason="Unauthorized", message="Unauthorized")
        verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        verb = verbs[str(request.method.value).upper()]
        if verb == "get" and request.name is None:
            verb = "watch" if request.params.get("watch") == "true" else "list"
        resource = plural if request.subresource is None else f"{plural}/{request.subresource}"
        if (resource, verb) not in self.allowed or request.namespace not in self.namespaces:
            raise KubernetesError(
                status=403,
                reason="Forbidden",
                message=f'{resource} is forbidden: User "system:serviceaccount:{NAMESPACE}:scaleodm-node" '
                f'cannot {verb} resource "{resource}" in the namespace "{request.namespace}"',
            )
        self.used.add((resource, verb))

    # The store

    def keep(self, plural: str, obj: Object, happened: str = "MODIFIED") -> Object:
        """Keep an object under a new version, and tell everybody."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        name = obj["metadata"]["name"]
        if happened == "DELETED":
            self.store[plural].pop(name, None)
        else:
            self.store[plural][name] = obj
        self.history.append((self.version, plural, happened, copy.deepcopy(obj)))
        if len(self.history) > HISTORY:
            self.oldest = self.history[0][0]
            del self.history[: HISTORY // 2]
        self.grew.set()
        self.grew = asyncio.Event()
        self.on_change(plural, name)
        return obj

    def forget_history(self) -> None:
        """Etcd compacts: watches that begin at an older version get 410."""
        self.history.clear()
        self.version += 1
        self.oldest = self.version

    def break_watches(self) -> None:
        """Every watch ends now."""
        self.watch_round += 1
        self.grew.set()
        self.grew = asyncio.Event()

    def _found(self, request: KmockRequest) -> Object:
        assert request.resource is not None
        plural = str(request.resource.plural)
        try:
            return self.store[plural][str(request.name)]
        except KeyError:
            raise KubernetesError(
                status=404, reason="NotFound", message=f'{plural} "{request.name}" not found'
            ) from None

    async def _serve_fetch(self, request: KmockRequest) -> Any:
        if request.resource is not None and request.resource.plural == "serviceaccounts":
            return {"metadata": {"name": request.name}}
        if request.subresource == "log":
            return self._serve_log(request)
        return copy.deepcopy(self._found(request))

    async def _serve_list(self, request: KmockRequest) -> Any:
        assert request.resource is not None
        objects = [each for each in self.store[str(request.resource.plural)].values() if _matches(each, request.params)]
        begin, limit = int(request.params.get("continue", 0)), int(request.params.get("limit", 10**9))
        metadata: Object = {"resourceVersion": str(self.version)}
        if begin + limit < len(objects):
            metadata["continue"] = str(begin + limit)
        return {"metadata": metadata, "items": copy.deepcopy(objects[begin : begin + limit])}

    async def _serve_watch(self, request: KmockRequest) -> AsyncIterator[Any]:
        assert request.resource is not None
        plural, since = str(request.resource.plural), int(request.params.get("resourceVersion") or 0)
        current_round = self.watch_round
        deadline = time.monotonic() + float(request.params.get("timeoutSeconds", 3600))
        yield b""
        if since < self.oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            yield {"type": "ERROR", "object": status}
            return
        while time.monotonic() < deadline and current_round == self.watch_round:
            grew = self.grew
            for version, kind, happened, obj in self.history[bisect_right(self.history, since, key=itemgetter(0)) :]:
                since = version
                if kind == plural and _matches(obj, request.params):
                    yield {"type": happened, "object": obj}
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(grew.wait(), 1.0)

    async def _serve_create(self, request: KmockRequest) -> Any:
        assert request.resource is not None
        if request.subresource == "token":
            return {
                "metadata": {},
                "spec": {"audiences": []},
                "status": {"token": "of-the-role", "expirationTimestamp": moment()},
            }
        plural, obj = str(request.resource.plural), copy.deepcopy(request.data)
        metadata = obj["metadata"]
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", metadata["name"]):
            raise KubernetesError(status=422, reason="Invalid", message=f"metadata.name: {metadata['name']!r}")
        if sum(len(k) + len(v) for k, v in (metadata.get("annotations") or {}).items()) > ANNOTATIONS_LIMIT:
            raise KubernetesError(
                status=422,
                reason="Invalid",
                message="metadata.annotations: Too long: may not be more than 262144 bytes",
            )
        for value in (metadata.get("labels") or {}).values():
            if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value):
                raise KubernetesError(
                    status=422, reason="Invalid", message=f"metadata.labels: Invalid value: {value!r}"
                )
        if metadata["name"] in self.store[plural]:
            raise KubernetesError(
                status=409, reason="AlreadyExists", message=f'{plural} "{metadata["name"]}" already exists'
            )
        metadata |= {"namespace": request.namespace, "uid": secrets.token_hex(16), "creationTimestamp": moment()}
        if plural == "secrets":
            obj["data"] = {k: base64.b64encode(v.encode()).decode() for k, v in obj.pop("stringData", {}).items()}
        return copy.deepcopy(self.keep(plural, obj, "ADDED"))

    async def _serve_update(self, request: KmockRequest) -> Any:
        assert request.resource is not None
        found = copy.deepcopy(self._found(request))
        try:
            patched: Object = jsonpatch.JsonPatch(request.data).apply(found)
        except jsonpatch.JsonPatchTestFailed:
            raise KubernetesError(
                status=422, reason="Invalid", message="the server rejected our request due to an error in our request"
            ) from None
        if sum(len(k) + len(v) for k, v in (patched["metadata"].get("annotations") or {}).items()) > ANNOTATIONS_LIMIT:
            raise KubernetesError(status=422, reason="Invalid", message="metadata.annotations: Too long")
        return copy.deepcopy(self.keep(str(request.resource.plural), patched))

    async def _serve_replace(self, request: KmockRequest) -> Any:
        assert request.resource is not None
        found = self._found(request)
        asked = request.data["metadata"].get("resourceVersion")
        if asked is not None and asked != found["metadata"]["resourceVersion"]:
            raise KubernetesError(status=409, reason="Conflict", message="the object has been modified")
        keep = {key: found["metadata"][key] for key in ("uid", "creationTimestamp", "namespace")}
        obj = copy.deepcopy(request.data)
        obj["metadata"] |= keep
        return copy.deepcopy(self.keep(str(request.resource.plural), obj))

    async def _serve_delete(self, request: KmockRequest) -> Any:
        assert request.resource is not None
        found = copy.deepcopy(self._found(request))
        for mark, value in ((request.data or {}).get("preconditions") or {}).items():
            if found["metadata"][mark] != value:
                told = f"Precondition failed: {mark} in precondition: {value}, in object: {found['metadata'][mark]}"
                raise KubernetesError(status=409, reason="Conflict", message=told)
        self.discard(str(request.resource.plural), copy.deepcopy(found))
        return found if request.resource.plural == "pods" else {"kind": "Status", "status": "Success"}

    def discard(self, plural: str, obj: Object) -> None:
        """Delete an object and, in the background, what it owns."""
        name = obj["metadata"]["name"]
        if plural == "pods":
            self.terminate(name)
            return
        self.keep(plural, obj, "DELETED")
        uid = str(obj["metadata"]["uid"])
        if self.collects_after_s:
            asyncio.get_running_loop().call_later(self.collects_after_s, self._collect, uid)
        else:
            self._collect(uid)

    def _collect(self, owner: str) -> None:
        """Delete what an object owned that is gone."""
        for kind in ("pods", "secrets"):
            for each in list(self.store[kind].values()):
                if any(mark["uid"] == owner for mark in each["metadata"].get("ownerReferences") or []):
                    self.discard(kind, copy.deepcopy(each))

    def terminate(self, pod: str) -> None:
        """A pod is to go: its kubelet ends it."""
        found = self.store["pods"].get(pod)
        if found is not None and not found["metadata"].get("deletionTimestamp"):
            found = copy.deepcopy(found)
            found["metadata"]["deletionTimestamp"] = moment()
            self.keep("pods", found)

    async def _serve_log(self, request: KmockRequest) -> AsyncIterator[bytes]:
        log = self.log_of(str(request.name), request.params["container"])
        if log is None:
            raise KubernetesError(status=400, reason="BadRequest", message="container is waiting to start")
        since = request.params.get("sinceTime")
        stamps = request.params.get("timestamps") == "true"
        yield b""
        position = log.first
        while True:
            grew = log.grew
            for stamp, line in log.from_line(position):
                # The API keeps whole seconds of `sinceTime`.
                if since is None or stamp[:19] >= since[:19]:
                    yield (stamp.encode() + b" " if stamps else b"") + line + b"\n"
            position = log.first + len(log.lines)
            if log.is_whole or request.params.get("follow") != "true":
                return
            if log.breaks:
                log.breaks -= 1
                return
            await grew.wait()


def _matches(obj: Object, params: Any) -> bool:
    marks = obj["metadata"].get("labels") or {}
    wanted = [part.split("=", 1) for part in (params.get("labelSelector") or "").split(",") if part]
    if any(marks.get(key) != value for key, value in wanted):
        return False
    for part in (params.get("fieldSelector") or "").split(","):
        if not part:
            continue
        path, value = part.split("=", 1)
        found: Any = obj
        for step in path.split("."):
            found = (found or {}).get(step)
        if found != value:
            return False
    return True


class Log:
    """One container's log, which a kubelet may rotate."""

    def __init__(self) -> None:
        self.first = 0
        self.lines: list[tuple[str, bytes]] = []
        self.is_whole = False
        self.breaks = 0
        self.grew = asyncio.Event()

    def add(self, line: bytes) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{time.time_ns() % 1000:03d}Z"
        self.lines.append((stamp, line))
        self.tell()

    def from_line(self, position: int) -> list[tuple[str, bytes]]:
        return self.lines[max(0, position - self.first) :]

    def rotate(self) -> None:
        """What was written so far is no longer to be had."""
        self.first += len(self.lines)
        self.lines = []

    def tell(self) -> None:
        self.grew.set()
        self.grew = asyncio.Event()


class Controllers:
    """The Job controller, the scheduler and the kubelet."""

    def __init__(self, api: StandInApi, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.logs: dict[tuple[str, str], Log] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.quota: str | None = None
        self.code = Path("/code")
        """Where the engine's own source lies."""
        self.instead: dict[str, list[str]] = {}
        """By a container's name what runs in its place."""
        self.started: list[str] = []
        self.processes: defaultdict[str, list[int]] = defaultdict(list)
        self._pods: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due: set[str] = set()
        self._judged: set[str] = set()
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._lives: dict[str, asyncio.Event] = {}
        api.on_change = self._changed
        api.log_of = lambda pod, container: self.logs.get((pod, container))

    def _changed(self, plural: str, name: str) -> None:
        if plural == "jobs":
            self._soon(name)
        elif plural == "pods":
            pod = self.api.store["pods"].get(name)
            if pod is not None and pod["metadata"].get("deletionTimestamp") and name in self._lives:
                self._lives[name].set()
            self._soon(name.rpartition("-")[0])

    def _soon(self, job: str, after_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        if after_s == 0.0:
            if job not in self._due:
                self._due.add(job)
                loop.call_soon(self._sync, job)
        elif job not in self._timers:
            self._timers[job] = loop.call_later(after_s, self._sync, job)

    def _sync(self, name: str) -> None:
        self._due.discard(name)
        self._timers.pop(name, None)
        found = self.api.store["jobs"].get(name)
        if found is None:
            return
        job = copy.deepcopy(found)
        conditions = job.setdefault("status", {}).setdefault("conditions", [])
        if any(each["type"] in ("Complete", "Failed") for each in conditions):
            return
        pods = [pod for pod in self.api.store["pods"].values() if _owner(pod) == job["metadata"]["uid"]]
        for pod in pods:
            self._judge(job, pod)
        target = next((each for each in conditions if each["type"] == "FailureTarget"), None)
        if target is not None:
            # The Job fails only when its pods have ended, and of those that were deleted, are gone.
            if not any(pod["metadata"].get("deletionTimestamp") for pod in pods):
                conditions.append(target | {"type": "Failed", "lastTransitionTime": moment()})
            if conditions != found["status"].get("conditions"):
                self.api.keep("jobs", job)
            return
        if any(each["type"] in ("Complete", "Failed") for each in conditions):
            self.api.keep("jobs", job)
            return
        if job["spec"].get("suspend"):
            for pod in pods:
                self.api.terminate(pod["metadata"]["name"])
            if job["status"].pop("startTime", None) is not None:
                self.api.keep("jobs", job)
            return
        if "startTime" not in job["status"]:
            job["status"]["startTime"] = moment()
            self._timers.pop(f"{name} deadline", None)
            deadline = asyncio.get_running_loop().call_later(job["spec"]["activeDeadlineSeconds"], self._deadline, name)
            self._timers[f"{name} deadline"] = deadline
            self.api.keep("jobs", job)
            return
        if all(pod["status"].get("phase") in ("Failed", "Succeeded") for pod in pods):
            self._make_pod(job)

    def _deadline(self, name: str) -> None:
        found = self.api.store["jobs"].get(name)
        if found is None or found["spec"].get("suspend"):
            return
        job = copy.deepcopy(found)
        conditions = job["status"].setdefault("conditions", [])
        if any(each["type"] in ("Complete", "Failed") for each in conditions):
            return
        for pod in list(self.api.store["pods"].values()):
            if _owner(pod) == job["metadata"]["uid"]:
                self.api.terminate(pod["metadata"]["name"])
        conditions.append(_target("DeadlineExceeded", "Job was active longer than specified deadline"))
        self.api.keep("jobs", job)

    def _judge(self, job: Object, pod: Object) -> None:
        """What a pod's end means for its Job."""
        phase, uid = pod["status"].get("phase"), pod["metadata"]["uid"]
        conditions = job["status"]["conditions"]
        if phase not in ("Succeeded", "Failed") or uid in self._judged:
            return
        if phase == "Succeeded":
            self._judged.add(uid)
            conditions.append({"type": "SuccessCriteriaMet", "status": "True"})
            conditions.append({"type": "Complete", "status": "True", "lastTransitionTime": moment()})
            job["status"]["completionTime"] = moment()
            return
        if job["spec"].get("suspend"):
            self._judged.add(uid)
            return
        self._judged.add(uid)
        action = _policy(job, pod)
        if action == "FailJob":
            name, code = next(each for each in _exit_codes(pod) if each[1] != 0)
            where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            told = f"Container {name} for pod {where} failed with exit code {code} matching FailJob rule at index 1"
            conditions.append(_target("PodFailurePolicy", told))
        elif action != "Ignore":
            self._failures[job["metadata"]["uid"]] += 1
            if self._failures[job["metadata"]["uid"]] > job["spec"]["backoffLimit"]:
                conditions.append(_target("BackoffLimitExceeded", "Job has reached the specified backoff limit"))

    def _make_pod(self, job: Object) -> None:
        name = job["metadata"]["name"]
        made = sum(_owner(pod) == job["metadata"]["uid"] for pod in self.api.store["pods"].values())
        if self.quota is not None:
            event = {
                "metadata": {"name": f"{name}.{secrets.token_hex(4)}", "namespace": NAMESPACE},
                "involvedObject": {"kind": "Job", "name": name},
                "reason": "FailedCreate",
                "message": self.quota,
            }
            self.api.keep("events", event, "ADDED")
            self._soon(name, 1.0)
            return
        if made and f"{name} replace" not in self._due:
            self._due.add(f"{name} replace")
            self._soon(name, REPLACE_AFTER_S)
            return
        self._due.discard(f"{name} replace")
        template = job["spec"]["template"]
        marks = {"batch.kubernetes.io/job-name": name, "job-name": name}
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{secrets.token_hex(3)}",
                "namespace": job["metadata"]["namespace"],
                "uid": secrets.token_hex(16),
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "labels": template["metadata"]["labels"] | marks,
                "annotations": template["metadata"].get("annotations") or {},
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": name,
                        "uid": job["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }
        pod_name = str(pod["metadata"]["name"])
        self.started.append(name)
        self._lives[pod_name] = asyncio.Event()
        self.api.keep("pods", pod, "ADDED")
        self._pods[pod_name] = asyncio.get_running_loop().create_task(Pod(self, pod_name).run(), name=pod_name)

    def kill(self, pod: str) -> None:
        """End a pod's processes as the kernel does."""
        for process in self.processes.get(pod, []):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._pods.values():
            task.cancel()
        await asyncio.gather(*self._pods.values(), return_exceptions=True)


def expanded(argument: str) -> str:
    """What Kubernetes makes of an argument: `$$` is a dollar; of the variables that it would put in, we use none."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", argument), f"Kubernetes would put a variable into {argument!r}"
    return argument.replace("$$", "$")


def in_bytes(quantity: str) -> int:
    """`512Mi`, `1Gi` in bytes."""
    return int(quantity[:-2]) * {"Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


def _owner(pod: Object) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def _target(reason: str, message: str) -> Object:
    return {
        "type": "FailureTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": moment(),
    }


def _exit_codes(pod: Object) -> list[tuple[str, int]]:
    statuses = (pod["status"].get("initContainerStatuses") or []) + (pod["status"].get("containerStatuses") or [])
    ended = [(each["name"], each["state"].get("terminated")) for each in statuses]
    return [(name, terminated["exitCode"]) for name, terminated in ended if terminated is not None]


def _policy(job: Object, pod: Object) -> str:
    statuses = {
        each["name"]: each
        for each in (pod["status"].get("initContainerStatuses") or []) + (pod["status"].get("containerStatuses") or [])
    }
    for rule in (job["spec"].get("podFailurePolicy") or {"rules": []})["rules"]:
        wanted = rule.get("onPodConditions")
        if wanted is not None:
            met = {(each["type"], each["status"]) for each in pod["status"].get("conditions") or []}
            if any((each["type"], each["status"]) in met for each in wanted):
                return str(rule["action"])
            continue
        codes = rule["onExitCodes"]
        ended = (statuses.get(codes["containerName"]) or {}).get("state", {}).get("terminated")
        if ended is None or ended["exitCode"] == 0:
            continue
        if (ended["exitCode"] in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


class Pod:
    """One pod on its machine: its containers one after the other, as processes."""

    def __init__(self, controllers: Controllers, name: str) -> None:
        self._controllers = controllers
        self._api = controllers.api
        self._name = name
        self._folder = controllers.folder / name
        self._ending = controllers._lives[name]

    @property
    def _object(self) -> Object:
        return copy.deepcopy(self._api.store["pods"][self._name])

    def _write(self, change: Callable[[Object], None]) -> None:
        pod = self._object
        change(pod)
        self._api.keep("pods", pod)

    async def run(self) -> None:
        try:
            if await self._scheduled():
                await self._run_containers()
        finally:
            if self._object["metadata"].get("deletionTimestamp"):
                self._write(
                    lambda pod: pod["status"].update(phase="Failed") if pod["status"]["phase"] != "Succeeded" else None
                )
                await asyncio.sleep(0.05)
                self._api.keep("pods", self._object, "DELETED")
            else:
                # A finished pod stays until its Job goes; then it goes at once.
                await self._ending.wait()
                self._api.keep("pods", self._object, "DELETED")

    async def _scheduled(self) -> bool:
        if (self._object["spec"].get("nodeSelector") or {}).get("size") == "impossible":
            told = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": told}
            self._write(lambda pod: pod["status"].update(conditions=[condition]))
            await self._ending.wait()
            return False
        self._write(lambda pod: pod["status"].update(conditions=[{"type": "PodScheduled", "status": "True"}]))
        return True

    async def _run_containers(self) -> None:
        spec = self._object["spec"]
        if not await self._mounted():
            return
        steps = [("initContainerStatuses", each) for each in spec.get("initContainers") or []]
        steps += [("containerStatuses", each) for each in spec["containers"]]
        for where, container in steps:
            if not await self._can_start(where, container):
                return
            code = await self._run_container(where, container)
            if code != 0 or self._ending.is_set():
                self._write(lambda pod: pod["status"].update(phase="Failed"))
                return
        self._write(lambda pod: pod["status"].update(phase="Succeeded"))

    async def _mounted(self) -> bool:
        """As a kubelet does before any container: it waits for the Secrets whose keys are to be files."""
        while not self._ending.is_set():
            files = [each for volume in self._object["spec"]["volumes"] for each in self._files_of(volume)]
            if all(content is not None for _, content in files):
                for path, content in files:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch(mode=0o600)
                    path.write_text(content or "")
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 0.1)
        return False

    def _files_of(self, volume: Object) -> list[tuple[Path, str | None]]:
        """Where the keys of a volume's Secret lie, and what is in them: None of one that is not there yet."""
        secret = volume.get("secret") or {"items": []}
        return [
            (self._place_of(volume["name"]) / each["path"], self._secret({"name": secret["secretName"]} | each))
            for each in secret["items"]
        ]

    def _place_of(self, volume: str) -> Path:
        return self._folder / "volumes" / volume

    async def _can_start(self, where: str, container: Object) -> bool:
        while not self._ending.is_set():
            blocked = self._blocked(container)
            if blocked is None:
                return True
            self._state(where, container, {"waiting": blocked})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 0.2)
        return False

    def _blocked(self, container: Object) -> Object | None:
        if container["image"] not in ENTRY_POINTS:
            told = f'Back-off pulling image "{container["image"]}": not found'
            return {"reason": "ImagePullBackOff", "message": told}
        for each in container.get("env") or []:
            secret = (each.get("valueFrom") or {}).get("secretKeyRef")
            if secret and not secret.get("optional") and self._secret(secret) is None:
                return {"reason": "CreateContainerConfigError", "message": f'secret "{secret["name"]}" not found'}
        return None

    def _secret(self, wanted: Object) -> str | None:
        own = self._controllers.secrets.get(wanted["name"], {})
        if wanted["key"] in own:
            return own[wanted["key"]]
        held = self._api.store["secrets"].get(wanted["name"])
        if held is None or wanted["key"] not in held["data"]:
            return None
        return base64.b64decode(held["data"][wanted["key"]]).decode()

    def _state(self, where: str, container: Object, state: Object) -> None:
        def change(pod: Object) -> None:
            statuses = [each for each in pod["status"].get(where) or [] if each["name"] != container["name"]]
            entry = {"name": container["name"], "image": container["image"], "state": state, "imageID": "sha256:abc"}
            entry |= {"ready": "running" in state, "restartCount": 0}
            pod["status"][where] = [*statuses, entry]
            if "running" in state:
                pod["status"]["phase"] = "Running" if where == "containerStatuses" else "Pending"

        self._write(change)

    async def _run_container(self, where: str, container: Object) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        name, log = container["name"], Log()
        self._controllers.logs[self._name, name] = log
        command = self._controllers.instead.get(name) or container.get("command") or ENTRY_POINTS[container["image"]]
        if command[0] in ("python", "python3"):
            command = [sys.executable, *command[1:]]
        command = [self._mapped(expanded(each)) for each in command]
        arguments = [self._mapped(expanded(each)) for each in container.get("args") or []]
        terminal = self._folder / f"{name}.termination"
        terminal.touch()
        started = moment()
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            env=self._environment(container, terminal),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=2**20,
        )
        self._controllers.processes[self._name].append(process.pid)
        self._state(where, container, {"running": {"startedAt": started}})
        ending = asyncio.create_task(self._end_when_told(process))
        watching = asyncio.create_task(self._kill_over(process, in_bytes(container["resources"]["limits"]["memory"])))
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                log.add(line.rstrip(b"\n"))
            code = await process.wait()
        finally:
            ending.cancel()
            watching.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        log.is_whole = True
        log.tell()
        code = 128 - code if code < 0 else code
        out_of_memory = bool(list(self._folder.rglob(".oom")))
        message = terminal.read_text()
        if not message and code and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = b"\n".join(line for _, line in log.lines[-80:]).decode("utf-8", "replace")[-2048:]
        reason = "OOMKilled" if out_of_memory and name == "engine" else "Error" if code else "Completed"
        terminated = {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": started,
            "finishedAt": moment(),
        }
        self._state(where, container, {"terminated": terminated})
        return code

    async def _end_when_told(self, process: asyncio.subprocess.Process) -> None:
        await self._ending.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await asyncio.sleep(GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    async def _kill_over(self, process: asyncio.subprocess.Process, limit: int) -> None:
        """What the kernel does with a cgroup's memory limit."""
        page = os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(OSError, IndexError, ProcessLookupError):
            while True:
                resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * page  # noqa: ASYNC240
                if resident > limit:
                    self._folder.joinpath(".oom").touch()
                    os.killpg(process.pid, signal.SIGKILL)
                    return
                await asyncio.sleep(0.05)

    def _mapped(self, text: str) -> str:
        return text.replace("/workspace", str(self._folder / "workspace")).replace("/code", str(self._controllers.code))

    def _mounts(self, container: Object, text: str) -> str:
        """A path below a Secret's mount, where it lies on this machine."""
        secrets_of = {each["name"] for each in self._object["spec"]["volumes"] if "secret" in each}
        for mount in container["volumeMounts"]:
            if mount["name"] in secrets_of:
                text = text.replace(mount["mountPath"], str(self._place_of(mount["name"])))
        return text

    def _environment(self, container: Object, terminal: Path) -> dict[str, str]:
        found = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        for each in container.get("env") or []:
            source = each.get("valueFrom") or {}
            if "secretKeyRef" in source:
                value = self._secret(source["secretKeyRef"])
            elif "fieldRef" in source:
                key = re.search(r"\['(.+)'\]", source["fieldRef"]["fieldPath"])
                assert key is not None
                value = self._object["metadata"]["annotations"][key.group(1)]
            else:
                value = self._mounts(container, self._mapped(each["value"]))
            if value is not None:
                found[each["name"]] = value
        return found | {
            "SCALEODM_WORKSPACE": str(self._folder / "workspace"),
            "SCALEODM_TERMINATION_LOG": str(terminal),
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
        }


class StandInCluster:
    """All of it on a thread of its own, for nodes that are processes of their own."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for workspaces and the kubeconfig."""
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="stand-in cluster", daemon=True)
        self.kubeconfig = folder / "kubeconfig"
        self.url = ""
        self.api: StandInApi
        self.controllers: Controllers

    def start(self) -> None:
        """Until the port is open."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        if not self._ready.wait(30):
            raise AssertionError("the stand-in cluster did not start within 30 s")

    def stop(self) -> None:
        """End it and every process of it."""
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)

    def call(self, work: Callable[[], R]) -> R:
        """Do something on the cluster's own thread."""

        async def doing() -> R:
            return work()

        return self.run(doing())

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Await something on the cluster's own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with StandInApi() as self.api, Server(self.api) as server:
            self.controllers = Controllers(self.api, self._folder / "pods")
            self.url = str(server.url).rstrip("/")
            self._write_kubeconfig()
            self._ready.set()
            await self._over.wait()
            await self.controllers.close()

    def _write_kubeconfig(self) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "stand-in", "cluster": {"server": self.url}}],
            "users": [{"name": "node", "user": {"token": "no-secret"}}],
            "contexts": [
                {"name": "stand-in", "context": {"cluster": "stand-in", "user": "node", "namespace": NAMESPACE}}
            ],
            "current-context": "stand-in",
        }
        self.kubeconfig.write_text(json.dumps(document))

    # What tests look at and do

    def objects(self, plural: str) -> list[Object]:
        """Everything of one kind."""
        return self.call(lambda: copy.deepcopy(list(self.api.store[plural].values())))

    def job(self, uuid: str, attempt: int = 1) -> Object | None:
        """One attempt's Job."""
        return self.call(lambda: copy.deepcopy(self.api.store["jobs"].get(f"odm-{uuid}-{attempt}")))

    def file_of(self, uuid: str, name: str) -> Path:
        """A file that a Secret has put into the one pod of a task."""
        (pod,) = self.pods(uuid)
        place: Path = self.controllers.folder / pod["metadata"]["name"] / "volumes"
        (found,) = place.glob(f"*/{name}")
        return found

    def pods(self, uuid: str) -> list[Object]:
        """The pods of a task."""
        return [pod for pod in self.objects("pods") if pod["metadata"]["labels"].get("scaleodm.org/task") == uuid]

    def delete_pod(self, uuid: str) -> None:
        """As `kubectl delete pod` does."""
        for pod in self.pods(uuid):
            self.call(lambda name=pod["metadata"]["name"]: self.api.terminate(name))  # type: ignore[misc]

    def evict(self, uuid: str, disrupted: bool = True, message: str = "The node was low on resource: memory.") -> None:
        """The kubelet, or a drain, evicts the pod; without `disrupted` for having filled its own disk."""

        def mark(name: str) -> None:
            pod = copy.deepcopy(self.api.store["pods"][name])
            pod["status"] |= {"reason": "Evicted", "message": message}
            if disrupted:
                pod["status"].setdefault("conditions", []).append({"type": "DisruptionTarget", "status": "True"})
            self.api.keep("pods", pod)
            if disrupted:
                self.api.terminate(name)
            else:
                # The kubelet kills it; the object stays.
                self.controllers.kill(name)

        for pod in self.pods(uuid):
            self.call(lambda name=pod["metadata"]["name"]: mark(name))  # type: ignore[misc]

    def processes(self, uuid: str) -> list[int]:
        """Process numbers that work in the workspaces of a task."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"odm-{uuid}-".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found


def scratch_cluster() -> StandInCluster:
    """A cluster in a folder of its own."""
    cluster = StandInCluster(Path(tempfile.mkdtemp(prefix="scaleodm-cluster-")))
    cluster.start()
    return cluster
