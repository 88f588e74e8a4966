"""Composition root of the node: settings, backend, tasks, routes, membership; nothing else."""

import asyncio
import json
import logging
import os
import sys
from functools import partial

import uvloop
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from common.courier import Courier
from common.credentials import Minter
from common.health import health_routes, s3_probe
from common.logs import start_logging
from common.metrics import Measured
from common.nodeodm.direct import DirectUploads
from common.nodeodm.envelope import Envelope
from common.nodeodm.polls import Polls
from common.nodeodm.routes import NodeOdmApi, answer_refusals, nodeodm_routes
from common.scraping import Scraping, metrics_routes
from common.server import NO_TELEMETRY, serve
from common.settings import InputSettings, S3Settings, SettingsUnusable, Switch, TailscaleSettings, read_settings
from common.storage import Storage, StorageFault
from common.tailscaled import Tailscaled
from common.tokens import Caller, Gate, Kind, OpenGate, TokenGate, derived, hashed
from common.tracing import TRACES_WITHIN_S, handed_on, start_tracing
from node.backends import Backend, BackendAway, BackendRefused
from node.backends.kubernetes import KubernetesBackend
from node.backends.local import LocalBackend
from node.cluster.api import Cluster, ClusterUnknown
from node.cluster.options import OptionsOfImage
from node.engines import EngineInUse, order_for
from node.engines.known import EngineUnknown, engine_here, engine_in_image
from node.families import FamilyTokens
from node.federation_routes import federation_routes
from node.health import backend_probe, router_probe
from node.housekeeping import NodeHousekeeping
from node.job_routes import job_routes
from node.kept import KeptWorkspaces
from node.local_tasks import Limits, LocalTasks
from node.manifests import Site
from node.membership import Membership
from node.metrics import NodeMetrics
from node.settings import JobSettings, NodeSettings
from node.sizing import most_images
from node.traces import NodeTraces
from node.webhooks import NodeWebhooks
from node.whereabouts import Whereabouts

logger = logging.getLogger(__name__)

EVERY_TASK = 1_000_000
MEMORY_FACTORS = (1.5, 2.25)
"""What a task is given that ran out of memory once, and twice."""


class NodeProgram:
    """A node, built from its settings."""

    def __init__(self, settings: NodeSettings, s3: S3Settings, site: "OnThisMachine | InCluster") -> None:
        """`site`: where runs happen. Nothing runs yet."""
        self._settings = settings
        self._site = site
        metrics = NodeMetrics(site.requests)
        storage = Storage.from_settings(s3, metrics.s3)
        families = FamilyTokens()
        self._backend = site.backend(storage, families)
        webhook = settings.webhook.get_secret_value() if settings.webhook else None
        self.tasks = LocalTasks(self._backend, storage, s3.staging_reference, site.engine, site.limits, webhook)
        private = settings.webhook_private is Switch.ON
        courier = Courier(storage, settings.webhook_secret, private, "SCALEODM_NODE_WEBHOOK_PRIVATE")
        self._webhooks = NodeWebhooks(self.tasks, courier, webhook)
        self._tracer = start_tracing("scaleodm-node", settings.name)
        self.tasks.traces = NodeTraces(self._tracer)
        is_open = settings.auth is Switch.OFF or settings.user_token is not None
        self._housekeeping = NodeHousekeeping(self.tasks, takes_uploads=is_open)
        known = TokenGate(_callers(settings))
        gate: Gate = OpenGate(known) if settings.auth is Switch.OFF else known
        has_router = settings.router_url is not None
        socket = read_settings(TailscaleSettings).socket
        self._tailscaled = Tailscaled(socket) if has_router and settings.uses_tailnet else None
        self._whereabouts = Whereabouts(settings, self._tailscaled)
        proof_key = self._whereabouts.proof_key if has_router else None
        self._membership = (
            Membership(settings, self.tasks, site.engine, known, families, self._whereabouts) if has_router else None
        )
        metrics.ask(settings, self.tasks, self._backend, self._membership)
        api = NodeOdmApi(self.tasks, gate, storage, DirectUploads(storage))
        metrics.watch(lambda: api.files[0], self._webhooks.calls)
        probes = [backend_probe(self._backend), s3_probe(storage, s3.staging_reference), router_probe(self._membership)]
        scraping = Scraping(settings.metrics, settings.metrics_token, gate, frozenset({Kind.USER, Kind.ADMIN}))
        routes = [
            nodeodm_routes(api),
            federation_routes(self.tasks, gate, settings.name, proof_key),
            *site.routes(self.tasks),
            health_routes("node", probes),
            metrics_routes(metrics, scraping, _nothing_more),
        ]
        self.app = _app(routes, self.tasks, gate, metrics)

    async def run(self, url: str) -> None:
        """Everything that runs beside the API; ends with the first of it that fails."""
        async with asyncio.TaskGroup() as group:
            await self._backend.run(group)
            group.create_task(self._site.learn(), name="options of the engine")
            group.create_task(self.tasks.run(), name="runs")
            group.create_task(self._webhooks.run(), name="webhooks")
            group.create_task(self._housekeeping.run(), name="housekeeping")
            if self._membership is not None:
                self._whereabouts.listen_at_tailnet(self.app, url)
                group.create_task(self._whereabouts.run(), name="whereabouts")
                group.create_task(self._membership.run(url), name="membership")

    async def serve(self) -> None:
        """Serve until a signal. Processes end with the node and start again with it; Jobs go on without it."""
        await self.tasks.load()
        try:
            await serve(self.app, self._settings.host, self._settings.port, self.run)
        finally:
            if self._site.runs_end_with_node:
                await self.tasks.stop_runs()
            await self._webhooks.close()
            await self._backend.close()
            if self._tailscaled is not None:
                await self._tailscaled.close()
            await asyncio.to_thread(self._tracer.close, TRACES_WITHIN_S)


class OnThisMachine:
    """Runs are processes of this machine."""

    runs_end_with_node = True
    requests = None

    def __init__(self, settings: NodeSettings) -> None:
        """Raises `EngineUnknown`."""
        self._settings = settings
        self.engine = EngineInUse(engine_here(settings.engine, settings.engine_command))
        self.limits = Limits(
            settings.slots,
            settings.max_images,
            keep_for_s=settings.keep_tasks_for_s(None),
            keep_uploads_for_s=settings.keep_uploads_for_s,
            max_runtime_min=settings.max_runtime_min,
            max_concurrency=settings.max_concurrency,
        )

    def backend(self, storage: Storage, families: FamilyTokens) -> Backend:
        """What keeps tasks and runs them."""
        del storage  # the runs have a client of their own
        order = partial(order_for, engine=self.engine.now, max_images=self._settings.max_images)
        most_bytes = int(self._settings.keep_workspace_gib * 2**30)
        kept = KeptWorkspaces(self._settings.data / "kept", self._settings.keep_workspace_h, most_bytes)
        return LocalBackend(self._settings.data / "tasks", order, families, kept)

    def routes(self, tasks: LocalTasks) -> list[APIRouter]:
        """Routes beyond the NodeODM API."""
        del tasks
        return []

    async def learn(self) -> None:
        """The engine is known from the start."""


class InCluster:
    """Runs are Jobs of a cluster."""

    runs_end_with_node = False

    def __init__(self, settings: NodeSettings, jobs: JobSettings, s3: S3Settings, cluster: Cluster) -> None:
        """Raises `SettingsUnusable`."""
        self._settings = settings
        self._jobs = jobs
        self._s3 = s3
        self._cluster = cluster
        self.requests = cluster.requests
        self.engine = EngineInUse(engine_in_image(settings.engine, settings.engine_command, jobs.engine_image))
        if settings.max_runtime_min * 60 > jobs.deadline_s:
            raise SettingsUnusable(
                f"SCALEODM_NODE_MAX_RUNTIME_MIN is {settings.max_runtime_min:g}, but after SCALEODM_JOB_DEADLINE_S = "
                f"{jobs.deadline_s} s Kubernetes ends every Job. Make the deadline longer: it counts fetching and "
                "publishing too."
            )
        largest = most_images(jobs.rules)
        most = min((each for each in (settings.max_images, largest) if each is not None), default=None)
        self.limits = Limits(
            # Kueue, where it decides, is given every task at once.
            slots=settings.slots if jobs.kueue_queue is None else EVERY_TASK,
            max_images=most,
            memory_bytes=int(jobs.largest_memory_gib * 2**30) if jobs.largest_memory_gib else None,
            cpu_cores=int(jobs.largest_cpu) if jobs.largest_cpu else None,
            keep_for_s=settings.keep_tasks_for_s(jobs.keep_s),
            keep_uploads_for_s=settings.keep_uploads_for_s,
            max_runtime_min=settings.max_runtime_min,
            max_concurrency=settings.max_concurrency,
            max_images_at={
                factor: most_with_more
                for factor in MEMORY_FACTORS
                if (most_with_more := most_images(jobs.rules, factor)) is not None
            },
        )
        self._site = Site(
            node=settings.name,
            namespace=cluster.namespace,
            s3_environment=_s3_environment(jobs, s3),
            credentials_url=self._credentials_url(),
            max_images=most,
        )
        self._options = OptionsOfImage(cluster, self.engine, jobs, self._site)

    @classmethod
    async def connect(cls, settings: NodeSettings, s3: S3Settings) -> "InCluster":
        """Find the cluster."""
        jobs = read_settings(JobSettings)
        return cls(settings, jobs, s3, await Cluster.connect(jobs.kubeconfig, jobs.context, jobs.namespace))

    def _credentials_url(self) -> str | None:
        if self._s3.sts_role_arn is None:
            return None
        url = self._jobs.node_url or self._settings.url
        if url is None or self._jobs.secret_key is None:
            raise SettingsUnusable(
                "SCALEODM_S3_STS_ROLE_ARN is set, so SCALEODM_JOB_SECRET_KEY (at least 32 characters) and "
                "SCALEODM_JOB_NODE_URL (how pods reach this node) are needed."
            )
        return str(url).rstrip("/")

    def _pod_token(self, uuid: str, attempt: int) -> str:
        assert self._jobs.secret_key is not None
        return derived(self._jobs.secret_key.get_secret_value(), f"pod {uuid} {attempt}")

    def backend(self, storage: Storage, families: FamilyTokens) -> Backend:
        """What keeps tasks and runs them."""
        token = self._pod_token if self._site.credentials_url is not None else None
        folder = self._settings.data / "consoles"
        return KubernetesBackend(self._cluster, self.engine, self._jobs, self._site, storage, folder, token, families)

    def routes(self, tasks: LocalTasks) -> list[APIRouter]:
        """What the pods ask for."""
        return [] if self._site.credentials_url is None else [job_routes(tasks, Minter(self._s3), self._pod_token)]

    async def learn(self) -> None:
        """Ask the engine's image for its options."""
        if self._settings.engine != "orthomosaic" and self._jobs.discover_options is Switch.ON:
            await self._options.learn()


def _s3_environment(jobs: JobSettings, s3: S3Settings) -> dict[str, str]:
    """Where S3 is, as pods reach it. The keys come from Secrets, or from this node while the pod runs."""
    endpoint = jobs.s3_endpoint or s3.endpoint
    found = {"AWS_REGION": s3.region, "SCALEODM_STAGING": s3.staging} | _input_environment() | handed_on(os.environ)
    if s3.endpoints:
        found["SCALEODM_S3_ENDPOINTS"] = json.dumps(s3.endpoints)
    return found | ({"AWS_ENDPOINT_URL_S3": endpoint} if endpoint else {})


def _input_environment() -> dict[str, str]:
    """What a task's input may do in a pod: what it may do here."""
    inputs = read_settings(InputSettings)
    return {f"SCALEODM_INPUT_{name.upper()}": str(value) for name, value in inputs.model_dump(mode="json").items()}


def _callers(settings: NodeSettings) -> dict[str, Caller]:
    if settings.user_token is None:
        return {}
    return {hashed(settings.user_token.get_secret_value()): Caller(Kind.USER, "direct", tenant="direct")}


async def _nothing_more() -> None:
    """All figures of a node are in memory."""


def _app(routes: list[APIRouter], tasks: LocalTasks, gate: Gate, metrics: NodeMetrics) -> ASGIApp:
    app = FastAPI(
        title="ScaleODM node",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
    )
    for each in routes:
        app.include_router(each)
    answer_refusals(app)
    measured = Measured(Envelope(app, (OSError, StorageFault, BackendAway, BackendRefused)), metrics.requests)
    return Polls(measured, tasks, gate, metrics.requests.of)


async def _serve(settings: NodeSettings, s3: S3Settings) -> None:
    in_cluster = settings.backend == "kubernetes"
    site = await InCluster.connect(settings, s3) if in_cluster else OnThisMachine(settings)
    await NodeProgram(settings, s3, site).serve()


def main() -> int:
    """Run a node from the environment's settings."""
    try:
        start_logging("node")
        settings = read_settings(NodeSettings)
        start_logging("node", settings.name)
        uvloop.run(_serve(settings, read_settings(S3Settings)))
    except (SettingsUnusable, EngineUnknown, ClusterUnknown, BackendRefused) as unusable:
        logger.error("%s", unusable)  # noqa: TRY400 - the text says it all
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
