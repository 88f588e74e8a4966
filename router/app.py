"""Composition root of the router: settings, database, loops, routes; nothing else."""

import asyncio
import logging
import sys

import uvloop
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from common.logs import scrubbed, start_logging
from common.nodeodm.envelope import Envelope
from common.nodeodm.polls import Polls
from common.nodeodm.routes import NodeOdmApi, answer_refusals, nodeodm_routes
from common.server import serve
from common.settings import S3Settings, SettingsUnusable, read_settings
from common.storage import Storage, StorageFault
from router.access import Access
from router.api.admin import admin_routes
from router.api.federation import federation_routes
from router.api.guard import Guard
from router.api.health import health_routes
from router.api.tasks import task_routes
from router.database import Database
from router.federated import FederatedTasks
from router.loop import Loop
from router.registry import Registry
from router.settings import RouterSettings
from router.snapshot import Snapshot, SnapshotKeeper

logger = logging.getLogger(__name__)


class RouterProgram:
    """A router, built from its settings."""

    def __init__(self, settings: RouterSettings, s3: S3Settings) -> None:
        """Nothing runs yet."""
        self._settings = settings
        self._storage = Storage.from_settings(s3)
        self._database = Database(settings.database_url.get_secret_value())
        self._access = Access(settings, self._database)
        snapshot = Snapshot()
        self._keeper = SnapshotKeeper(self._database, snapshot)
        parts = (self._database, snapshot, self._access, self._storage, s3.staging_reference)
        self._registry = Registry(*parts)
        self._loop = Loop(*parts)
        self._tasks = FederatedTasks(
            self._database, snapshot, self._registry, self._loop, self._storage, s3.staging_reference
        )
        self.app = self._app()

    async def prepare(self) -> None:
        """Migrate, and read what memory needs, before the first request."""
        await self._database.migrate()
        await self._access.load()
        await self._registry.load()
        await self._keeper.load()

    async def run(self, url: str) -> None:
        """Everything that runs beside the API; ends with the first of it that fails."""
        del url
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run(), name="snapshot")
            group.create_task(self._loop.run(), name="loop")

    async def serve(self) -> None:
        """Serve until a signal."""
        try:
            await self.prepare()
            await serve(self.app, self._settings.host, self._settings.port, self.run)
        finally:
            await self._loop.close()
            await self._database.close()

    def _app(self) -> ASGIApp:
        app = FastAPI(
            title="ScaleODM router", openapi_url="/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False
        )
        gate = self._access.gate
        guard = Guard(gate)
        app.include_router(nodeodm_routes(NodeOdmApi(self._tasks, gate, self._storage)))
        app.include_router(task_routes(self._tasks, guard))
        app.include_router(federation_routes(self._registry, self._database, guard))
        app.include_router(admin_routes(self._access, self._database, guard))
        app.include_router(health_routes(self._database))
        answer_refusals(app)
        return Polls(Envelope(app, (OSError, SQLAlchemyError, StorageFault)), self._tasks, gate)


def main() -> int:
    """Run a router from the environment's settings."""
    start_logging()
    try:
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
