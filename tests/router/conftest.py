"""A fresh database for each test, on the one real Postgres."""

import secrets
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from router.database import Database


@pytest.fixture
async def empty_database(postgres_url: str) -> AsyncIterator[Database]:
    """Without tables."""
    name = f"test_{secrets.token_hex(6)}"
    server = create_async_engine(
        make_url(postgres_url).set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT"
    )
    async with server.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    database = Database(make_url(postgres_url).set(database=name).render_as_string(hide_password=False))
    yield database
    await database.close()
    async with server.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    await server.dispose()


@pytest.fixture
async def database(empty_database: Database) -> Database:
    """With every table."""
    await empty_database.migrate()
    return empty_database
