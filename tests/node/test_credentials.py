"""Short-lived S3 credentials: minted for one task's prefixes, given to its own pod only, renewed while it runs."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from common.credentials import session_policy
from common.embedded.object_store import storage_at
from common.references import Reference
from common.settings import S3Settings
from common.storage import AccessRefused, Storage
from common.tokens import derived
from tests.kubernetes_node import KubernetesNode
from tests.kubernetes_standin import StandInCluster
from tests.waiting import wait_until

KEY = "a key of the node's own, long enough for it"
ROLE = "arn:aws:iam::123456789012:role/imagery"


def test_a_policy_reaches_the_tasks_prefixes_and_nothing_else() -> None:
    """Compared whole: what stands here is what a pod may do."""
    assert session_policy(Reference.parse("s3://in/flight*1/"), Reference.parse("s3://out/p/")) == {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::in/flight${*}1/*"]},
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": ["arn:aws:s3:::out/p/*"],
            },
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": ["arn:aws:s3:::in"],
                "Condition": {"StringLike": {"s3:prefix": ["flight${*}1/*"]}},
            },
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": ["arn:aws:s3:::out"],
                "Condition": {"StringLike": {"s3:prefix": ["p/*"]}},
            },
        ],
    }


def test_of_a_zip_only_the_zip_may_be_read() -> None:
    """Not what begins with the same name."""
    policy = session_policy(Reference.parse("s3://in/a.zip"), Reference.parse("s3://in/a-output/"))
    assert policy["Statement"][0]["Resource"] == ["arn:aws:s3:::in/a.zip"]


class Giver(ThreadingHTTPServer):
    """A node's credentials endpoint that gives what it is told to give."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str | None] = []
        self.refusals: list[int] = []
        self.lifetime_s = 300
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/jobs/u/1/credentials"


class _Answer(BaseHTTPRequestHandler):
    server: Giver

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Authorization"))
        status = self.server.refusals.pop(0) if self.server.refusals else 200
        expires = datetime.now(UTC) + timedelta(seconds=self.server.lifetime_s)
        number = len(self.server.asked)
        document = {
            "AccessKeyId": f"key-{number}",
            "SecretAccessKey": "s",
            "Token": "t",
            "Expiration": expires.isoformat(),
        }
        body = json.dumps(document if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Be quiet."""


@pytest.fixture
def giver() -> Iterator[Giver]:
    """It."""
    server = Giver()
    yield server
    server.shutdown()
    server.server_close()


def storage_with(giver: Giver, moto_url: str) -> Storage:
    """S3 as a pod sees it."""
    return Storage.from_settings(
        S3Settings.model_construct(
            endpoint=moto_url,
            public_endpoint=None,
            region="us-east-1",
            access_key_id=None,
            secret_access_key=None,
            session_token=None,
            credentials_url=giver.url,
            credentials_token=SecretStr("pod-token"),
            staging="s3://staging/",
        )
    )


def test_credentials_are_asked_for_anew_before_they_expire(giver: Giver, moto_url: str) -> None:
    """These have five minutes left, which is less than a run may need."""
    storage = storage_with(giver, moto_url)
    storage.make_bucket("renewing")
    for number in range(3):
        storage.write(Reference("renewing", f"{number}"), b"x")
    assert len(giver.asked) >= 4
    assert set(giver.asked) == {"Bearer pod-token"}
    giver.lifetime_s = 7200
    storage.write(Reference("renewing", "x"), b"x")
    before = len(giver.asked)
    storage.write(Reference("renewing", "y"), b"x")
    assert len(giver.asked) == before, "good for two hours"


def test_a_node_that_cannot_give_any_now_is_asked_again(giver: Giver, moto_url: str) -> None:
    """A restart of the node, a hiccup of STS."""
    giver.refusals = [503, 503]
    giver.lifetime_s = 7200
    storage_with(giver, moto_url).make_bucket("patient")
    assert len(giver.asked) == 3


def test_a_run_that_is_not_the_current_one_gets_none(giver: Giver, moto_url: str) -> None:
    """And does not ask again."""
    giver.refusals = [403]
    with pytest.raises(AccessRefused, match="no longer, the task's current run"):
        storage_with(giver, moto_url)
    assert len(giver.asked) == 1


@pytest.fixture
def aws() -> Iterator[str]:
    """S3 and STS, from moto."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def sts_node(cluster: StandInCluster, aws: str, folder: Path) -> KubernetesNode:
    """A node whose S3 has STS, set up as documented for short-lived credentials: no Secret with keys."""
    s3 = {
        "AWS_ENDPOINT_URL_S3": aws,
        "AWS_ACCESS_KEY_ID": "the-nodes-own",
        "AWS_SECRET_ACCESS_KEY": "the-nodes-own-secret",
        "SCALEODM_STAGING": "s3://staging/",
        "SCALEODM_S3_STS_ROLE_ARN": ROLE,
    }
    node = KubernetesNode(cluster.kubeconfig, s3, folder, name="sts")
    node.settings = {"SCALEODM_JOB_SECRET_KEY": KEY, "SCALEODM_JOB_NODE_URL": node.url}
    return node


@pytest.mark.timeout(90)
def test_a_task_runs_on_credentials_of_its_own(
    cluster: StandInCluster, aws: str, tmp_path: Path, http: httpx.Client
) -> None:
    """From the node, by the token in the Job's own Secret; nobody else gets any, and none after the run has ended."""
    node = sts_node(cluster, aws, tmp_path)
    storage = storage_at(aws, "tester", "tester")
    storage.make_bucket("staging")
    wire = node.start().wire(http)
    try:
        uuid, _ = wire.by_reference(storage, "say begun\nsleep 2")
        wire.says(uuid, "begun")
        url = f"{node.url}/jobs/{uuid}/1/credentials"
        right = {"Authorization": f"Bearer {derived(KEY, f'pod {uuid} 1')}"}
        given = http.get(url, headers=right)
        assert given.status_code == 200
        assert set(given.json()) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {derived(KEY, f'pod {uuid} 2')}"}):
            assert http.get(url, headers=wrong).status_code == 403
        assert http.get(f"{node.url}/jobs/{uuid4()}/1/credentials", headers=right).status_code == 403
        wire.completed(uuid)
        assert http.get(url, headers=right).status_code == 403, "the run is over"
        everything = json.dumps([cluster.objects(plural) for plural in ("jobs", "pods", "configmaps")])
        assert derived(KEY, f"pod {uuid} 1") not in everything
        assert "the-nodes-own" not in everything
        assert "the-nodes-own" not in node.said()
        assert wire.act("remove", uuid) == {"success": True}
        wait_until(
            lambda: not [each for each in cluster.objects("secrets") if uuid in each["metadata"]["name"]],
            "the token to go with its Job",
        )
    finally:
        node.stop()


@pytest.mark.timeout(90)
def test_a_job_that_is_made_again_keeps_its_token(
    cluster: StandInCluster, aws: str, tmp_path: Path, http: httpx.Client
) -> None:
    """Its pod was deleted, so another Job takes its name, while the old one's Secret is still to be collected."""
    node = sts_node(cluster, aws, tmp_path)
    storage = storage_at(aws, "tester", "tester")
    storage.make_bucket("staging")
    wire = node.start().wire(http)

    def tokens(uuid: str) -> list[str]:
        """Uids of the owners of the task's Secrets."""
        secrets = [each for each in cluster.objects("secrets") if uuid in each["metadata"]["name"]]
        return [str(each["metadata"]["ownerReferences"][0]["uid"]) for each in secrets]

    cluster.call(lambda: setattr(cluster.api, "collects_after_s", 2.0))
    try:
        uuid, _ = wire.by_reference(storage, "say begun\nsleep 3")
        wire.says(uuid, "begun")
        first = tokens(uuid)
        cluster.delete_pod(uuid)
        wait_until(lambda: len(tokens(uuid)) == 2, "both Jobs' Secrets to be there")
        wire.completed(uuid, 60)
        wait_until(lambda: len(tokens(uuid)) == 1, "the old one's to be collected")
        assert tokens(uuid) != first
        assert wire.act("remove", uuid) == {"success": True}
        wait_until(lambda: not tokens(uuid), "the other to go with its Job")
    finally:
        cluster.call(lambda: setattr(cluster.api, "collects_after_s", 0.0))
        node.stop()
