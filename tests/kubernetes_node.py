"""A node with the backend `kubernetes` as a real process, over the stand-in cluster and a real S3 server."""

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from common.embedded.children import Child, free_port, start_child
from common.embedded.object_store import ObjectStore
from common.embedded.stack import Stack
from tests.client import Wire
from tests.kubernetes_standin import ENGINE_IMAGE, OTHER_IMAGE, STAGES_IMAGE, StandInCluster
from tests.waiting import wait_until

S3_SECRET = "s3-keys"
TOKEN = "kubernetes-node-user"


@dataclass
class KubernetesNode:
    """One replica of a node."""

    kubeconfig: Path
    s3: dict[str, str]
    """Environment by which the node reaches S3."""
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    name: str = "in-cluster"
    port: int = field(default_factory=free_port)
    child: Child | None = None
    was_killed: bool = False

    @property
    def url(self) -> str:
        """The node's API."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Everything that it is told."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
        own = {
            "SCALEODM_NODE_BACKEND": "kubernetes",
            "SCALEODM_NODE_NAME": self.name,
            "SCALEODM_NODE_PORT": str(self.port),
            "SCALEODM_NODE_DATA": str(self.folder),
            "SCALEODM_NODE_USER_TOKEN": TOKEN,
            "SCALEODM_NODE_SLOTS": "2",
            "SCALEODM_INPUT_PRIVATE": "on",
            "SCALEODM_JOB_KUBECONFIG": str(self.kubeconfig),
            "SCALEODM_JOB_STAGES_IMAGE": STAGES_IMAGE,
            "SCALEODM_JOB_ENGINE_IMAGE": ENGINE_IMAGE,
            "SCALEODM_JOB_ENGINE_IMAGES": json.dumps([OTHER_IMAGE, "nowhere/*"]),
            "SCALEODM_JOB_S3_SECRET": S3_SECRET,
            "SCALEODM_JOB_DISCOVER_OPTIONS": "off",
            "SCALEODM_JOB_LEASE_S": "2",
        }
        return clean | self.s3 | own | self.settings

    def start(self) -> "KubernetesNode":
        """Start it, and wait until it answers."""
        log = self.folder / "node.log"
        self.was_killed = False
        self.child = start_child(self.name, [sys.executable, "-m", "node"], self.environment(), log)
        with httpx.Client(timeout=2) as http:
            self.child.wait_until(lambda: self._answers(http))
        return self

    def join(self, stack: Stack) -> "KubernetesNode":
        """Start it, and wait until that federation's router can give it tasks."""
        self.start()
        wait_until(lambda: self._is_healthy(stack), f"{self.name} to join")
        return self

    def _is_healthy(self, stack: Stack) -> bool:
        bearer = {"Authorization": f"Bearer {stack.admin_token}"}
        known = httpx.get(f"{stack.router_url}/federation/nodes", headers=bearer, timeout=10).json()
        return any(each["url"] == self.url and each["health"] == "healthy" for each in known)

    def _answers(self, http: httpx.Client) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return http.get(self.url).status_code == httpx.codes.OK
        return False

    def stop(self) -> None:
        """As Kubernetes stops a pod. A node that has ended by itself, or met what it did not expect, is a fault."""
        if self.child is None:
            return
        child, self.child = self.child, None
        died = child.process.poll() is not None and not self.was_killed
        child.stop()
        assert not died, f"the node {self.name} ended by itself:\n{self.said()[-4000:]}"
        assert "\nTraceback" not in self.said(), self.said()[-8000:]

    def kill(self) -> None:
        """As a machine that loses power."""
        assert self.child is not None
        self.was_killed = True
        self.child.process.send_signal(signal.SIGKILL)
        self.child.process.wait()

    def said(self) -> str:
        """Its log."""
        return (self.folder / "node.log").read_text()

    def wire(self, http: httpx.Client) -> Wire:
        """Its NodeODM API."""
        return Wire(self.url, TOKEN, http)


def node_in(
    cluster: StandInCluster,
    store: ObjectStore,
    folder: Path,
    settings: dict[str, str] | None = None,
    name: str = "in-cluster",
) -> KubernetesNode:
    """A node of the stand-in cluster, whose pods get the keys of that S3 server by a Secret of its own."""
    s3 = store.environment("s3://staging/")
    keys = {key: s3[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    secret = f"{S3_SECRET}-{urlsplit(s3['AWS_ENDPOINT_URL_S3']).port}"
    cluster.controllers.secrets[secret] = keys
    return KubernetesNode(cluster.kubeconfig, s3, folder, {"SCALEODM_JOB_S3_SECRET": secret} | (settings or {}), name)
