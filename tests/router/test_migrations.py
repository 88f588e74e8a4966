"""The road from nothing leads to the tables that the code declares."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlmodel import SQLModel

import router.tables
from router.database import Database


def differences(connection: Connection) -> list[object]:
    """What autogenerate would still change."""
    assert router.tables.TaskRow.metadata is SQLModel.metadata
    found: list[object] = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
    return found


async def test_migrated_tables_are_the_declared_ones(database: Database) -> None:
    """Style 7.9."""
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_two_replicas_may_migrate_at_once(empty_database: Database) -> None:
    """One waits for the other, and finds the work done."""
    await asyncio.gather(empty_database.migrate(), empty_database.migrate())
    async with empty_database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
