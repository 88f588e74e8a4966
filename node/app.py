"""Composition root of the node: settings, backend, tasks, routes, membership; nothing else."""

import asyncio
import logging
import sys

import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from common.logs import start_logging
from common.nodeodm.envelope import Envelope
from common.nodeodm.polls import Polls
from common.nodeodm.routes import NodeOdmApi, answer_refusals, nodeodm_routes
from common.server import serve
from common.settings import S3Settings, SettingsUnusable, Switch, read_settings
from common.storage import Storage, StorageFault
from common.tokens import Caller, Gate, Kind, OpenGate, TokenGate, hashed
from node.backends.local import LocalBackend
from node.engines.known import EngineUnknown, engine_named
from node.federation_routes import federation_routes
from node.local_tasks import Limits, LocalTasks
from node.membership import Membership
from node.records import Records
from node.settings import NodeSettings

logger = logging.getLogger(__name__)


class NodeProgram:
    """A node, built from its settings."""

    def __init__(self, settings: NodeSettings, s3: S3Settings) -> None:
        """Nothing runs yet."""
        self._settings = settings
        folder = settings.data / "tasks"
        engine = engine_named(settings.engine, settings.engine_command)
        storage = Storage.from_settings(s3)
        self.tasks = LocalTasks(
            Records(folder),
            LocalBackend(folder),
            storage,
            s3.staging_reference,
            engine,
            Limits(settings.slots, settings.max_images),
        )
        known = TokenGate(_callers(settings))
        gate: Gate = OpenGate(known) if settings.auth is Switch.OFF else known
        self.app = _app(self.tasks, gate, storage)
        self._membership = Membership(settings, self.tasks, engine, known) if settings.router_url else None

    async def run(self, url: str) -> None:
        """Everything that runs beside the API; ends with the first of it that fails."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.tasks.run(), name="runs")
            if self._membership is not None:
                group.create_task(self._membership.run(url), name="membership")

    async def serve(self) -> None:
        """Serve until a signal; then end the runs, which start again with the node."""
        try:
            await serve(self.app, self._settings.host, self._settings.port, self.run)
        finally:
            await self.tasks.stop_runs()


def _callers(settings: NodeSettings) -> dict[str, Caller]:
    if settings.user_token is None:
        return {}
    return {hashed(settings.user_token.get_secret_value()): Caller(Kind.USER, "direct", tenant="direct")}


def _app(tasks: LocalTasks, gate: Gate, storage: Storage) -> ASGIApp:
    app = FastAPI(
        title="ScaleODM node", openapi_url="/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.include_router(nodeodm_routes(NodeOdmApi(tasks, gate, storage)))
    app.include_router(federation_routes(tasks, gate))
    answer_refusals(app)
    return Polls(Envelope(app, (OSError, StorageFault)), tasks, gate)


def main() -> int:
    """Run a node from the environment's settings."""
    start_logging()
    try:
        program = NodeProgram(read_settings(NodeSettings), read_settings(S3Settings))
    except (SettingsUnusable, EngineUnknown) as unusable:
        logger.error("%s", unusable)  # noqa: TRY400 - the text says it all
        return 2
    uvloop.run(program.serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
