"""The one way to Postgres: engine, sessions, migrations, notifications."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from router.facts import Hear, told

logger = logging.getLogger(__name__)

_MIGRATION_LOCK = 0x5CA1E0D1
"""Number of the advisory lock under which one replica at a time migrates."""
_STATEMENT_TIMEOUT_MS = 15_000
MOST_CONNECTIONS = 20
"""Of the pool: half of them are kept when they are idle."""


class Database:
    """A pool of connections to one Postgres."""

    def __init__(self, url: str) -> None:
        """`url`: `postgresql://user:password@host:port/database`."""
        self.hear: Hear = lambda _: None
        """Is told what each transaction has settled, once it is committed."""
        parsed = make_url(url).set(drivername="postgresql+asyncpg")
        self._dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        self.engine: AsyncEngine = create_async_engine(
            parsed,
            pool_size=MOST_CONNECTIONS // 2,
            max_overflow=MOST_CONNECTIONS // 2,
            pool_timeout=10,
            json_deserializer=orjson.loads,
            connect_args={"timeout": 5, "server_settings": {"statement_timeout": str(_STATEMENT_TIMEOUT_MS)}},
        )
        single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._single_statements = async_sessionmaker(single, class_=AsyncSession, expire_on_commit=False)
        self._sessions = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)

    @property
    def dsn(self) -> str:
        """The address for asyncpg itself; it holds the password."""
        return self._dsn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session in a transaction: committed at the end, rolled back on any exception."""
        async with self._sessions() as session, session.begin():
            yield session
        if facts := told(session):
            self.hear(facts)

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncSession]:
        """A session in which every statement stands by itself: one trip to Postgres each."""
        async with self._single_statements() as session:
            yield session

    async def migrate(self) -> None:
        """Bring the tables up to this release, one replica at a time. Those of a newer release are left as they are."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SET statement_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            await connection.commit()
            try:
                newer = await connection.run_sync(newer_revision)
                await connection.commit()
                if newer is None:
                    await connection.run_sync(upgrade)
                    await connection.commit()
                else:
                    logger.warning("the tables are at %s, which a newer release has made; this one goes on", newer)
            finally:
                await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})
                await connection.commit()

    async def close(self) -> None:
        """Give every connection back."""
        await self.engine.dispose()


def newer_revision(connection: Connection) -> str | None:
    """The tables' revision where this release does not know it. Migrations only add, so one release back works on."""
    found = MigrationContext.configure(connection).get_current_revision()
    known = {each.revision for each in ScriptDirectory.from_config(_configuration()).walk_revisions()}
    return found if found is not None and found not in known else None


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the migrations that this database has not seen, up to this one."""
    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, revision)


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", "router:migrations")
    return configuration
