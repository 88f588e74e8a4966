"""A namespace of a real cluster, made for these tests and removed after them.

The node itself is a process of this machine, with a token of the service account that we ship and so with its Role.
"""

import base64
import contextlib
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from kubernetes import client, config, utils
from kubernetes.client.exceptions import ApiException

from common.embedded.object_store import ObjectStore, storage_at
from common.storage import Storage, StorageFault
from tests.kubernetes_node import S3_SECRET, KubernetesNode
from tests.kubernetes_standin import ROLE, STANDIN
from tests.waiting import wait_until

SOON_S = 300.0
"""A real cluster pulls images and has other things to do."""


@dataclass(frozen=True)
class Given:
    """What the environment says, read before the tests' own clean-up of it."""

    kubeconfig: str
    node_image: str
    engine_image: str
    engine: str
    pull_policy: str
    s3_endpoint: str
    s3_keys: tuple[str, str]


def _given() -> Given:
    node_image = os.environ.get("SCALEODM_TEST_NODE_IMAGE", "")
    return Given(
        kubeconfig=os.environ.get("KUBECONFIG", ""),
        node_image=node_image,
        engine_image=os.environ.get("SCALEODM_TEST_ENGINE_IMAGE", ""),
        engine=os.environ.get("SCALEODM_TEST_ENGINE", "odm"),
        pull_policy=os.environ.get("SCALEODM_TEST_IMAGE_PULL_POLICY", "IfNotPresent"),
        s3_endpoint=os.environ.get("SCALEODM_TEST_S3_ENDPOINT", ""),
        s3_keys=(os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")),
    )


GIVEN = _given()


@pytest.fixture(scope="session")
def given() -> Given:
    """The variables; what is missing is told."""
    needed = {
        "KUBECONFIG": GIVEN.kubeconfig,
        "SCALEODM_TEST_NODE_IMAGE": GIVEN.node_image,
        "SCALEODM_TEST_S3_ENDPOINT": GIVEN.s3_endpoint,
    }
    missing = [name for name, value in needed.items() if not value]
    assert not missing, f"set {', '.join(missing)}: see deploy/kubernetes/README.md"
    return GIVEN


@dataclass(frozen=True)
class S3:
    """One S3 server, as pods reach it and as we do."""

    environment: dict[str, str]
    """For the node, which runs here."""
    pods_endpoint: str
    storage: Storage


@pytest.fixture(scope="session")
def s3(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The one that is there, with the keys of the environment; where nothing answers, one of our own on that port."""
    port = urlsplit(given.s3_endpoint).port or 80
    keys = given.s3_keys if all(given.s3_keys) else ("scaleodm", "scaleodm-test-secret")
    own: ObjectStore | None = None
    here = next((each for each in (given.s3_endpoint, f"http://127.0.0.1:{port}") if _answers(each)), None)
    if here is None:
        folder = tmp_path_factory.mktemp("s3")
        own = ObjectStore(folder / "data", port, *keys, folder / "s3.log", host="0.0.0.0")
        own.start("staging")
        here = own.url
    storage = storage_at(here, *keys)
    storage.make_bucket("staging")
    environment = {
        "AWS_ENDPOINT_URL_S3": here,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "SCALEODM_STAGING": "s3://staging/",
    }
    yield S3(environment, given.s3_endpoint, storage)
    if own is not None:
        own.stop()


def _answers(endpoint: str) -> bool:
    try:
        httpx.get(endpoint, timeout=5)
    except httpx.TransportError:
        return False
    return True


class Site:
    """The namespace, seen with an administrator's eyes."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.core = client.CoreV1Api(api)
        self.batch = client.BatchV1Api(api)

    def job(self, uuid: str, attempt: int = 1) -> Any:
        """One attempt's Job, None where there is none."""
        try:
            return self.batch.read_namespaced_job(f"odm-{uuid}-{attempt}", self.namespace)
        except ApiException as gone:
            if gone.status != 404:
                raise
            return None

    def pods(self, uuid: str) -> list[Any]:
        """The pods of a task."""
        selector = f"scaleodm.org/task={uuid}"
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def working(self) -> list[Any]:
        """Pods of Jobs that have not ended."""
        pods = self.core.list_namespaced_pod(
            self.namespace, label_selector="app.kubernetes.io/managed-by=scaleodm-node"
        )
        return [pod for pod in pods.items if pod.status and pod.status.phase in {"Pending", "Running"}]

    def delete_pods(self, uuid: str) -> None:
        """As `kubectl delete pod` does."""
        for pod in self.pods(uuid):
            self.core.delete_namespaced_pod(pod.metadata.name, self.namespace)


@pytest.fixture(scope="session")
def site(given: Given, s3: S3) -> Iterator[Site]:
    """A namespace with the Role that we ship and a Secret with S3's keys."""
    api = config.new_client_from_config(given.kubeconfig)  # type: ignore[no-untyped-call]
    namespace = f"scaleodm-test-{secrets.token_hex(4)}"
    core = client.CoreV1Api(api)
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=namespace)))
    try:
        wait_until(lambda: _has_default_account(core, namespace), "the namespace's default service account", 60)
        for document in yaml.safe_load_all(ROLE.read_text()):
            document["metadata"]["namespace"] = namespace
            for subject in document.get("subjects", []):
                subject["namespace"] = namespace
            utils.create_from_dict(api, document, namespace=namespace)  # type: ignore[no-untyped-call]
        keys = {key: s3.environment[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        secret = client.V1Secret(metadata=client.V1ObjectMeta(name=S3_SECRET), string_data=keys)
        core.create_namespaced_secret(namespace, secret)
        yield Site(api, namespace)
    finally:
        core.delete_namespace(namespace)


def _has_default_account(core: client.CoreV1Api, namespace: str) -> bool:
    with contextlib.suppress(ApiException):
        core.read_namespaced_service_account("default", namespace)
        return True
    return False


@pytest.fixture(scope="session")
def kubeconfig(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the service account that we ship: it may do what its Role says and nothing else."""
    asked = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=6 * 3600)
    )
    answer = site.core.create_namespaced_service_account_token("scaleodm-node", site.namespace, asked)
    assert answer.status is not None
    settings = site.api.configuration
    cluster: dict[str, Any] = {"server": settings.host}
    if settings.ssl_ca_cert:
        cluster["certificate-authority-data"] = base64.b64encode(Path(settings.ssl_ca_cert).read_bytes()).decode()
    if not settings.verify_ssl:
        cluster["insecure-skip-tls-verify"] = True
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "node", "user": {"token": answer.status.token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "node", "namespace": site.namespace}}],
        "current-context": "c",
    }
    path = tmp_path_factory.mktemp("kubeconfig") / "config"
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


@pytest.fixture
def nodes(given: Given, s3: S3, kubeconfig: Path, tmp_path: Path) -> Iterator[Callable[..., KubernetesNode]]:
    """Makes nodes whose engine is the stand-in, run by the node image's own Python, and whose pods are small."""
    made: list[KubernetesNode] = []

    def make(**settings: str) -> KubernetesNode:
        folder = tmp_path / f"node-{len(made)}"
        folder.mkdir()
        own = {
            "SCALEODM_NODE_SLOTS": "4",
            "SCALEODM_NODE_ENGINE_COMMAND": shlex.join(["python", "-c", STANDIN.read_text()]),
            "SCALEODM_JOB_STAGES_IMAGE": given.node_image,
            "SCALEODM_JOB_ENGINE_IMAGE": given.node_image,
            "SCALEODM_JOB_ENGINE_IMAGES": '["registry.invalid/*"]',
            "SCALEODM_JOB_IMAGE_PULL_POLICY": given.pull_policy,
            "SCALEODM_JOB_S3_ENDPOINT": s3.pods_endpoint,
            "SCALEODM_JOB_MEMORY_FACTOR": "0.001",
            "SCALEODM_JOB_MEMORY_MIN_GIB": "0.125",
            "SCALEODM_JOB_DISK_MIN_GIB": "0.5",
            "SCALEODM_JOB_LEASE_S": "5",
        }
        node = KubernetesNode(kubeconfig, s3.environment, folder, own | settings, f"node-{secrets.token_hex(4)}")
        made.append(node)
        return node.start()

    yield make
    for node in made:
        node.stop()


@pytest.fixture(scope="session")
def patient_http() -> Iterator[httpx.Client]:
    """A client that waits for a cancel, which waits for a pod."""
    with httpx.Client(timeout=60) as http:
        yield http


def is_there(storage: Storage, reference: Any) -> bool:
    """Whether an object is there; S3 may take a moment."""
    with contextlib.suppress(StorageFault):
        return storage.exists(reference)
    return False
