"""The one way to Postgres: engine, sessions, migrations, notifications."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

logger = logging.getLogger(__name__)

_MIGRATION_LOCK = 0x5CA1E0D1
"""Number of the advisory lock under which one replica at a time migrates."""
_STATEMENT_TIMEOUT_MS = 15_000


class Database:
    """A pool of connections to one Postgres."""

    def __init__(self, url: str) -> None:
        """`url`: `postgresql://user:password@host:port/database`."""
        parsed = make_url(url).set(drivername="postgresql+asyncpg")
        self._dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        self.engine: AsyncEngine = create_async_engine(
            parsed,
            pool_size=10,
            max_overflow=10,
            pool_timeout=10,
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

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncSession]:
        """A session in which every statement stands by itself: one trip to Postgres each."""
        async with self._single_statements() as session:
            yield session

    async def migrate(self) -> None:
        """Bring the tables up to this release, one replica at a time."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SET statement_timeout = 0"))
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            await connection.commit()
            try:
                await connection.run_sync(upgrade)
                await connection.commit()
            finally:
                await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})
                await connection.commit()

    async def close(self) -> None:
        """Give every connection back."""
        await self.engine.dispose()


def upgrade(connection: Connection) -> None:
    """Run the migrations that this database has not seen."""
    configuration = Config()
    configuration.set_main_option("script_location", "router:migrations")
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")
