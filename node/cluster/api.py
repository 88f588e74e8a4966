"""The Kubernetes API server. The only file that knows the client library.

ClusterFault          something about the cluster went wrong
├── ClusterAway       no answer, or one that may pass (also a `BackendAway`)
├── ObjectConflict    the object is there already, or was changed meanwhile
├── ObjectGone        the object is not there
├── WatchExpired      what a watch was to begin with is too old: list again
└── ClusterRefused    the API server says no: rights, say (also a `BackendRefused`)
    ├── ObjectRefused   to this very object: an admission rule, a manifest that it does not take
    └── QuotaReached    for want of room, which may come

Objects go in and out as plain dictionaries: who watches a thousand Jobs has no use for a thousand trees of models.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import tenacity
from kubernetes.aio import client, config
from kubernetes.aio.config.config_exception import ConfigException

from node.backends import BackendAway, BackendRefused

Object = dict[str, Any]

PATHS: Mapping[str, str] = {
    "jobs": "/apis/batch/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "events": "/api/v1",
}
PAGE = 500
"""Objects of one page of a listing."""
WATCH_S = 270
"""Seconds after which the API server ends a watch, which then begins again where it was."""
ATTEMPTS = 6
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_REQUEST = aiohttp.ClientTimeout(total=30, sock_connect=10)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_S + 60)
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)
"""What is raised where a connection cannot be made, or breaks."""
_JSON_PATCH = "application/json-patch+json"
_PATCH_REJECTED = ("the server rejected our request due to an error in our request", "testing value", "testing path")
"""How API servers say that a JSON patch did not apply, which for ours means that a test of it did not hold. The first
is all that a current one says; a patch whose result is not valid is told with the field that is wrong."""
_CONFLICTS = {"POST": "AlreadyExists", "PUT": "Conflict", "DELETE": "Conflict"}
"""The `reason` of a 409 that is about the object itself: one of that name is there, or it is not the version, or the
one, that was named. Any other 409 passes: of a quota's counter, say, which many count at once; of a patch, which names
no version and tests for itself what it changes; and whoever only asks cannot be in conflict with anybody."""
_PASSING = (408, 409, 425, 429)
"""Statuses below 500 that may be another one the next time."""
_OF_THE_OBJECT = (400, 403, 413, 422)
"""Statuses by which validation, admission policies and webhooks refuse an object."""
_NO_RIGHT = re.compile(r"is forbidden: (User \"[^\"]*\" )?cannot ")
"""A 403 that is about who asks; any other is about what was asked for."""


class ClusterFault(Exception):
    """Something about the cluster went wrong."""


class ClusterAway(ClusterFault, BackendAway):
    """The API server does not answer, or asks for patience."""


class ObjectConflict(ClusterFault):
    """The object is there already, or is not as it was expected to be."""


class ObjectGone(ClusterFault):
    """The object is not there."""


class WatchExpired(ClusterFault):
    """The watch must begin again with a listing."""


class ClusterRefused(ClusterFault, BackendRefused):
    """The API server says no."""


class ObjectRefused(ClusterRefused):
    """The API server does not take this object, and says why."""

    def __init__(self, text: str, reason: str) -> None:
        """`reason`: the API server's own sentence."""
        super().__init__(text)
        self.reason = reason


class QuotaReached(ClusterRefused):
    """A quota of the namespace has no room for the object now."""


class ClusterUnknown(Exception):
    """The settings lead to no cluster."""


class Cluster:
    """One namespace of one cluster."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        """`api`: configured with address and credentials."""
        self._api = api
        self.namespace = namespace
        self.requests: Counter[str] = Counter()
        """How many were made, watches and logs apart, by how they ended: `ok`, or the name of the fault."""

    @classmethod
    async def connect(cls, kubeconfig: Path | None, context: str | None, namespace: str | None) -> "Cluster":
        """By a kubeconfig file, else by the pod's own service account. Raises `ClusterUnknown`."""
        settings = client.Configuration()
        if kubeconfig is not None and not kubeconfig.is_file():  # noqa: ASYNC240 - once, at start
            raise ClusterUnknown(f"SCALEODM_JOB_KUBECONFIG is {kubeconfig}, and there is no such file.")
        try:
            if kubeconfig is not None:
                await config.load_kube_config(  # type: ignore[no-untyped-call]
                    str(kubeconfig), context, client_configuration=settings
                )
                own = _namespace_of(kubeconfig, context)
            else:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                own = _OWN_NAMESPACE.read_text().strip()  # noqa: ASYNC240 - once, at start
        except (ConfigException, OSError) as unusable:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "this pod's service account"
            raise ClusterUnknown(
                f"No Kubernetes cluster by {where}: {str(unusable).rstrip('.')}. "
                "Set SCALEODM_JOB_KUBECONFIG, or run in a pod whose service account may use Jobs (deploy/kubernetes)."
            ) from unusable
        settings.connection_pool_maxsize = 0  # each followed log holds a connection
        return cls(client.ApiClient(settings), namespace or own)

    async def close(self) -> None:
        """No more requests."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, name: str) -> Object:
        """One object."""
        return await self._request("GET", kind, name)

    async def create(self, kind: str, manifest: Object) -> Object:
        """Create an object; gives it as the cluster holds it. Raises `ObjectConflict` where one of that name is."""
        return await self._request("POST", kind, body=manifest)

    async def replace(self, kind: str, manifest: Object) -> Object:
        """Replace an object. Raises `ObjectConflict` unless its `resourceVersion` is still the current one."""
        return await self._request("PUT", kind, manifest["metadata"]["name"], body=manifest)

    async def patch(self, kind: str, name: str, operations: list[Object]) -> Object:
        """Apply a JSON patch. Raises `ObjectConflict` where one of its tests fails."""
        return await self._request("PATCH", kind, name, body=operations)

    async def delete(self, kind: str, name: str, only: Mapping[str, str] | None = None) -> None:
        """Delete an object and what it owns. What is gone is deleted already.

        `only`: `uid` or `resourceVersion` that it must still have; raises `ObjectConflict` where it has another.
        """
        options: Object = {"propagationPolicy": "Background"}
        if only is not None:
            options["preconditions"] = dict(only)
        try:
            await self._request("DELETE", kind, name, body=options)
        except ObjectGone:
            return

    async def listing(self, kind: str, selector: str = "", fields: str = "") -> tuple[list[Object], str]:
        """All objects that a selector names, page by page, and the version from which a watch goes on."""
        found: list[Object] = []
        query = {"limit": str(PAGE), "labelSelector": selector, "fieldSelector": fields}
        while True:
            try:
                page = await self._request("GET", kind, query=query)
            except WatchExpired:
                # The rest of a listing that took too long is no longer to be had: from the first page again.
                if query.pop("continue", None) is None:
                    raise
                found = []
                continue
            found += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return found, str(metadata.get("resourceVersion") or "")
            query["continue"] = metadata["continue"]

    async def watch(self, kind: str, selector: str, version: str) -> AsyncIterator[tuple[str, Object]]:
        """Changes since `version`, as (ADDED, MODIFIED, DELETED or BOOKMARK, object), until the API server ends it.

        Raises `WatchExpired` where `version` is too old.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S),
        }
        async for lines in self._stream(self._path(kind), query):
            for event in map(_event, lines):
                if event["type"] == "ERROR":
                    told = event["object"]
                    raise _fault(told.get("code") or 500, told, f"watching {kind}")
                yield event["type"], event["object"]

    def log(self, pod: str, container: str, since: str | None) -> AsyncIterator[list[bytes]]:
        """A container's log as it grows, some lines at a time, with timestamps, from the second of `since` on."""
        query = {"container": container, "follow": "true", "timestamps": "true"}
        if since is not None:
            query["sinceTime"] = since
        return self._stream(f"{self._path('pods')}/{pod}/log", query)

    async def whole_log(self, pod: str, container: str) -> str:
        """A container's log as it is now."""
        path = f"{self._path('pods')}/{pod}/log"
        found = [line async for lines in self._stream(path, {"container": container}) for line in lines]
        return b"\n".join(found).decode("utf-8", "replace")

    def _path(self, kind: str) -> str:
        return f"{PATHS[kind]}/namespaces/{self.namespace}/{kind}"

    async def _request(
        self,
        method: str,
        kind: str,
        name: str = "",
        query: Mapping[str, str] | None = None,
        body: object = None,
    ) -> Object:
        """Everything we send may be sent again: names are ours, patches test what they change."""
        path = self._path(kind) + (f"/{name}" if name else "")
        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ClusterAway),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.3),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        answer: Object = await again(self._once, method, path, query or {}, body)
        return answer

    async def _once(self, method: str, path: str, query: Mapping[str, str], body: object) -> Object:
        try:
            document = await self._answered(method, path, query, body)
        except ClusterFault as fault:
            self.requests[type(fault).__name__] += 1
            raise
        self.requests["ok"] += 1
        return document

    async def _answered(self, method: str, path: str, query: Mapping[str, str], body: object) -> Object:
        async with _Answer(self, method, path, query, body, _REQUEST) as answer:
            raw = await answer.read()
        document = _document(raw)
        if answer.status >= 400:
            raise _fault(answer.status, document or _words(raw), f"{method} {path}", _conflict_of(method, body))
        if document is None:
            raise ClusterAway(f"{method} {path} was not answered by the API server, but with {raw[:100]!r}")
        return document

    async def _stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[list[bytes]]:
        """Whole lines, as many as came at once."""
        async with _Answer(self, "GET", path, query, None, _STREAM) as answer:
            if answer.status >= 400:
                raw = await answer.read()
                raise _fault(answer.status, _document(raw) or _words(raw), f"GET {path}")
            rest = b""
            async for block in answer.content.iter_any():
                *lines, rest = (rest + block).split(b"\n")
                if lines:
                    yield lines
            if rest:
                yield [rest]


class _Answer:
    """One HTTP exchange; whatever fails on the way is told as `ClusterAway`."""

    def __init__(
        self,
        cluster: Cluster,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object,
        timeout: aiohttp.ClientTimeout,
    ) -> None:
        self._cluster, self._method, self._path = cluster, method, path
        self._query, self._body, self._timeout = query, body, timeout
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        api = self._cluster._api
        headers = {"Accept": "application/json, */*"}
        if self._method == "PATCH":
            headers["Content-Type"] = _JSON_PATCH
        query = [(name, value) for name, value in self._query.items() if value]
        method, url, headers, body, _ = await api.param_serialize(
            self._method,
            self._path,
            query_params=query,
            header_params=headers,
            body=self._body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await api.call_api(method, url, headers, body, _request_timeout=self._timeout)
        except _BROKEN as away:
            raise _away(away) from away
        response: aiohttp.ClientResponse = answer.response
        self._response = response
        return response

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        assert self._response is not None
        # A stream that is left early must not be read to its end.
        self._response.close() if kind is not None else self._response.release()
        if isinstance(value, _BROKEN):
            raise _away(value) from value


def _away(reason: BaseException) -> ClusterAway:
    return ClusterAway(f"The Kubernetes API server does not answer ({type(reason).__name__}: {reason})")


def _event(line: bytes) -> Object:
    event = _document(line)
    if event is None or not isinstance(event.get("object"), dict) or "type" not in event:
        raise ClusterAway("a watch broke off in the middle of an event")
    return event


def _document(raw: bytes) -> Object | None:
    """A JSON object; None where it is none: something in between has answered, or it broke off."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _words(raw: bytes) -> Object:
    return {"message": raw[:300].decode("utf-8", "replace")}


def _conflict_of(method: str, body: object) -> str | None:
    """The `reason` by which a 409 to this request is a conflict; None where no 409 can be one."""
    if method == "DELETE" and not (isinstance(body, dict) and "preconditions" in body):
        return None
    return _CONFLICTS.get(method)


def _fault(status: int, document: Mapping[str, Any], what: str, conflict: str | None = None) -> ClusterFault:
    message = str(document.get("message") or document.get("reason") or status)[:500]
    if status == 404:
        return ObjectGone(f"{what}: {message}")
    if status == 410:
        return WatchExpired(f"{what}: {message}")
    if status == 409 and conflict is not None and document.get("reason") == conflict:
        return ObjectConflict(f"{what}: {message}")
    if status == 422 and message.lower().startswith(_PATCH_REJECTED):
        return ObjectConflict(f"{what}: {message}")
    if status in _PASSING or status >= 500:
        return ClusterAway(f"The Kubernetes API server cannot answer {what} now ({status}: {message})")
    if status == 403 and "exceeded quota" in message:
        return QuotaReached(f"Kubernetes has no room for {what} now: {message}")
    if status == 401 or (status == 403 and _NO_RIGHT.search(message)):
        return ClusterRefused(
            f"Kubernetes lets this node not {what}: {message}. Give its service account the Role in deploy/kubernetes."
        )
    told = f"Kubernetes refused {what} ({status}): {message}"
    return ObjectRefused(told, message) if status in _OF_THE_OBJECT else ClusterRefused(told)


def _namespace_of(kubeconfig: Path, context: str | None) -> str:
    contexts, active = config.list_kube_config_contexts(str(kubeconfig))  # type: ignore[no-untyped-call]
    wanted = next((each for each in contexts if each["name"] == context), active) if context else active
    return str(wanted["context"].get("namespace") or "default")
