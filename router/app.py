"""Composition root of the router: settings, database, loops, routes; nothing else."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

import uvloop
from fastapi import APIRouter, FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from common.bodies import BodyLimit
from common.courier import Courier
from common.federation import MOST_BODY_BYTES
from common.health import health_routes, s3_probe
from common.logs import scrubbed, start_logging
from common.metrics import Measured
from common.nodeodm.direct import DirectUploads
from common.nodeodm.envelope import Envelope
from common.nodeodm.polls import Polls
from common.nodeodm.routes import NodeOdmApi, answer_refusals, nodeodm_routes
from common.references import Reference
from common.scraping import Scraping, metrics_routes
from common.server import NO_TELEMETRY, serve
from common.settings import S3Settings, SettingsUnusable, Switch, TailscaleSettings, read_settings
from common.storage import Storage, StorageFault
from common.tailscaled import Tailscaled
from common.tokens import Kind
from common.tracing import TRACES_WITHIN_S, start_tracing
from router.access import Access
from router.api.about import about_routes
from router.api.browsing import browsing_routes
from router.api.federation import federation_routes
from router.api.guard import Guard
from router.api.health import RecordProbe
from router.api.nodes import node_routes
from router.api.records import record_routes
from router.api.tasks import task_routes
from router.api.tokens import token_routes
from router.browsing import TaskDesk
from router.dashboard.live import Pulse
from router.database import Database
from router.events import EventLog
from router.facts import Fact
from router.federated import FederatedTasks
from router.history import History
from router.housekeeping import Housekeeping
from router.loop import Loop
from router.metrics import RouterMetrics
from router.nodes import Nodes
from router.overview import Overviews
from router.registry import Registry
from router.samples import Samples
from router.settings import RouterSettings
from router.snapshot import Snapshot, SnapshotKeeper
from router.tailnet import TailnetGuests
from router.tenants import Tenants
from router.timeline import Timelines
from router.traces import Traces
from router.visits import Visitor
from router.webhooks import Webhooks

logger = logging.getLogger(__name__)

_OUTAGES = (OSError, SQLAlchemyError, StorageFault)
"""What is raised while the database or S3 is away."""


class RouterProgram:
    """A router, built from its settings."""

    def __init__(self, settings: RouterSettings, s3: S3Settings) -> None:
        """Nothing runs yet."""
        check_addresses(settings, s3)
        self._settings = settings
        self._metrics = RouterMetrics()
        self._storage = Storage.from_settings(s3, self._metrics.s3)
        self._database = Database(settings.database_url.get_secret_value())
        self._tracer = start_tracing("scaleodm-router", socket.gethostname())
        self._traces = Traces(self._database, self._tracer)
        self._database.hear = self._heard
        snapshot = Snapshot()
        self._access = Access(settings, self._database, snapshot.get)
        staging = s3.staging_reference
        hooks = (settings.webhook.get_secret_value(),) if settings.webhook else ()
        self._registry = Registry(
            self._database, snapshot, self._access, self._storage, staging, hooks, settings.heartbeat_s
        )
        history = History(self._database, self._registry)
        self._loop = Loop(
            self._database,
            snapshot,
            self._access,
            self._storage,
            staging,
            self._registry,
            history,
            settings.clocks,
            hooks,
            settings.url,
        )
        courier = Courier(
            self._storage,
            settings.webhook_secret,
            settings.webhook_private is Switch.ON,
            "SCALEODM_ROUTER_WEBHOOK_PRIVATE",
        )
        self._loop.tracer = self._tracer
        self._webhooks = Webhooks(self._database, self._loop.leadership, courier)
        self._housekeeping = Housekeeping(
            self._database,
            snapshot,
            self._loop.leadership,
            self._storage,
            staging,
            settings.ages,
            self._loop.let_go,
            hooks,
        )
        self._tasks = FederatedTasks(
            self._database, snapshot, self._registry, self._loop, self._access, self._storage, staging, hooks
        )
        self._nodes = Nodes(self._database, self._registry, self._loop)
        self._desk = TaskDesk(self._database, snapshot, self._loop)
        self._samples = Samples(self._nodes, snapshot, self._loop.leadership)
        self._overviews = Overviews(self._database, self._samples)
        self._events = EventLog(self._database)
        self._tenants = Tenants(self._database, snapshot)
        self._timelines = Timelines(self._database)
        self._visitor = Visitor()
        tailscaled = Tailscaled(read_settings(TailscaleSettings).socket)
        self._tailnet = TailnetGuests(tailscaled, settings.rights, urlsplit(settings.url or "").hostname or "")
        self._snapshot = snapshot
        self._access_changed = asyncio.Event()
        self._pulse = Pulse()
        self._keeper = SnapshotKeeper(
            self._database,
            snapshot,
            self._then_beat(self._loop.wake),
            {"nodes": self._then_beat(self._registry.load_soon), "tokens": self._then_beat(self._access_changed.set)},
        )
        self._metrics.ask(self._database, self._keeper, snapshot, self._loop, self._registry)
        self.app = self._app(staging)

    def _heard(self, facts: Sequence[Fact]) -> None:
        self._metrics.hear(facts)
        self._traces.hear(facts)

    async def prepare(self) -> None:
        """Migrate, and read what memory needs, before the first request."""
        await self._database.migrate()
        await self._access.start()
        await self._registry.load()
        await self._keeper.load()

    async def run(self, url: str) -> None:
        """Everything that runs beside the API; ends with the first of it that fails."""
        del url
        try:
            await self._run()
        finally:
            # Open pages would hold the server's end up.
            self._pulse.end()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run(), name="snapshot")
            group.create_task(self._registry.run(), name="registry")
            group.create_task(self._keep_access(), name="access")
            group.create_task(self._loop.leadership.run(), name="leadership")
            group.create_task(self._loop.run(), name="loop")
            group.create_task(self._loop.foreign.run(), name="foreign nodes")
            group.create_task(self._webhooks.run(), name="webhooks")
            group.create_task(self._housekeeping.run(), name="housekeeping")
            group.create_task(self._samples.run(), name="samples")

    def _then_beat(self, call: Callable[[], None]) -> Callable[[], None]:
        """A call after which whoever watches looks again."""

        def calling() -> None:
            call()
            self._pulse.beat()

        return calling

    async def _keep_access(self) -> None:
        """Read the tokens again when another replica has changed them."""
        while True:
            await self._access_changed.wait()
            self._access_changed.clear()
            try:
                await self._access.load()
            except (OSError, SQLAlchemyError) as trouble:
                logger.warning("the tokens cannot be read (%s); again in 1 s", type(trouble).__name__)
                self._access_changed.set()
                await asyncio.sleep(1)

    async def serve(self) -> None:
        """Serve until a signal."""
        try:
            await self.prepare()
            await serve(self.app, self._settings.host, self._settings.port, self.run)
        finally:
            await self._webhooks.close()
            await self._visitor.close()
            await self._tailnet.close()
            await self._loop.close()
            await self._traces.close()
            await self._database.close()
            await asyncio.to_thread(self._tracer.close, TRACES_WITHIN_S)

    def _app(self, staging: Reference) -> ASGIApp:
        app = FastAPI(
            title="ScaleODM router",
            openapi_url="/openapi.json",
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            telemetry=NO_TELEMETRY,
        )
        gate = self._access.gate
        guard = Guard(gate)
        api = NodeOdmApi(self._tasks, gate, self._storage, DirectUploads(self._storage))
        app.include_router(nodeodm_routes(api))
        app.include_router(task_routes(self._tasks, guard))
        app.include_router(federation_routes(self._registry, self._nodes, self._visitor, guard))
        app.include_router(token_routes(self._access, guard))
        app.include_router(node_routes(self._nodes, guard))
        app.include_router(browsing_routes(self._desk, guard))
        app.include_router(record_routes(self._events, self._overviews, self._tenants, self._timelines, guard))
        app.include_router(about_routes(self._database, guard))
        record = RecordProbe(self._database, self._keeper, self._loop.leadership)
        app.include_router(health_routes("router", [record.probe, s3_probe(self._storage, staging)]))
        app.include_router(self._figures(api))
        answer_refusals(app)
        limited = BodyLimit(app, MOST_BODY_BYTES, ("/federation", "/admin"))
        requests = self._metrics.requests
        measured = self._tailnet.recognising(Measured(Envelope(limited, _OUTAGES), requests))
        return Polls(self._with_dashboard(measured), self._tasks, gate, requests.of)

    def _with_dashboard(self, api: ASGIApp) -> ASGIApp:
        """What answers at `/dashboard`, beside the API. Imported only where it is wanted."""
        if self._settings.dashboard is Switch.OFF:
            return api
        from router.dashboard.site import Beside, Dashboard

        dashboard = Dashboard(
            secret_key=self._settings.secret_key.get_secret_value(),
            session_lasts=timedelta(hours=self._settings.dashboard_session_h),
            pulse=self._pulse,
            access=self._access,
            database=self._database,
            snapshot=self._snapshot,
            storage=self._storage,
            queue=self._loop.queue,
            nodes=self._nodes,
            visitor=self._visitor,
            tasks=self._tasks,
            desk=self._desk,
            events=self._events,
            overviews=self._overviews,
            tenants=self._tenants,
            timelines=self._timelines,
            outages=_OUTAGES,
            guests=self._tailnet.guest,
        )
        return Beside("/dashboard", dashboard.app, api)

    def _figures(self, api: NodeOdmApi) -> APIRouter:
        self._metrics.watch(lambda: api.files[0], self._webhooks.calls)
        settings = self._settings
        scraping = Scraping(settings.metrics, settings.metrics_token, self._access.gate, frozenset({Kind.ADMIN}))
        return metrics_routes(self._metrics, scraping, self._metrics.look)


def check_addresses(settings: RouterSettings, s3: S3Settings) -> None:
    """A run sends its token to a host, whatever the port (`common.families`): S3 must not be given it, nor take it for
    credentials. Raises `SettingsUnusable`."""
    public = s3.public_endpoint or s3.endpoint
    host = urlsplit(settings.url or "").hostname
    if host is not None and public is not None and urlsplit(public).hostname == host:
        raise SettingsUnusable(
            f"SCALEODM_ROUTER_URL and S3 ({public}) are both on the host {host}, but runs must tell the two apart by "
            "their hosts. Give this router's address in another way, such as its IP address in place of its name."
        )


def main() -> int:
    """Run a router from the environment's settings."""
    try:
        start_logging("router")
        program = RouterProgram(read_settings(RouterSettings), read_settings(S3Settings))
        uvloop.run(program.serve())
    except SettingsUnusable as unusable:
        logger.error("%s", unusable)  # noqa: TRY400 - the text says it all
        return 2
    except (SQLAlchemyError, OSError) as trouble:
        logger.error("the router cannot start: %s", scrubbed(str(trouble)))  # noqa: TRY400 - likewise
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
