"""The road from nothing leads to the tables that the code declares."""

import asyncio
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, insert, select, text
from sqlmodel import SQLModel

import router.tables
from router.database import Database, upgrade


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


def previous_release_writes(connection: Connection, uuid: str) -> None:
    """A node, a task and its attempt, with the columns that tables have now: all that the release of now knows."""
    rows: dict[str, dict[str, object]] = {
        "nodes": {
            "id": f"n-{uuid}",
            "name": f"n-{uuid}",
            "url": "http://n",
            "engine": "odm",
            "engine_version": "1",
            "capacity": {},
            "labels": {},
            "capabilities": [],
            "options": [],
            "draining": False,
        },
        "tasks": {
            "uuid": uuid,
            "tenant": "t",
            "name": "n",
            "created_ms": 1,
            "state": "queued",
            "input": "s3://b/i/",
            "output": "s3://b/o/",
            "staged": False,
            "options": [],
            "outputs": [],
            "skip_post_processing": False,
            "wishes": {},
            "images_count": 1,
            "input_bytes": 1,
            "attempt": 1,
            "begun": False,
            "processing_ms": -1,
            "progress": 0.0,
            "console_lines": 0,
            "version": 1,
        },
        "attempts": {
            "task_uuid": uuid,
            "number": 1,
            "node_id": f"n-{uuid}",
            "state": "placed",
            "delivered": False,
            "why": "",
            "reasons": [],
            "next_line": 0,
        },
        "tokens": {"hash": uuid, "kind": "user", "name": uuid, "tenant": "t", "prefixes": []},
    }
    tables = MetaData()
    tables.reflect(connection)
    for name, values in rows.items():
        connection.execute(insert(tables.tables[name]).values(**values))


def read_all(connection: Connection) -> list[str]:
    """Every task, as this release reads it."""
    rows = connection.execute(select(router.tables.TaskRow.__table__)).mappings()  # type: ignore[attr-defined]
    return [router.tables.TaskRow(**row).task().uuid for row in rows]


async def test_the_previous_release_goes_on_beside_this_one(empty_database: Database) -> None:
    """Its rows are read, and what it still writes to the new tables too, while routers are replaced one by one."""
    async with empty_database.engine.begin() as connection:
        await connection.run_sync(upgrade, "0002")
        await connection.run_sync(previous_release_writes, "before")
    await empty_database.migrate()
    async with empty_database.engine.begin() as connection:
        await connection.run_sync(previous_release_writes, "after")
        assert sorted(await connection.run_sync(read_all)) == ["after", "before"]
        assert (await connection.execute(text("SELECT count(*) FROM leader"))).scalar_one() == 1


async def test_the_previous_release_starts_on_tables_of_this_one(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """While routers are replaced one of the old ones may restart; and whoever goes back finds a router that works."""
    await empty_database.migrate()
    async with empty_database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await empty_database.migrate()
    assert "the tables are at 9999, which a newer release has made" in caplog.text
    async with empty_database.engine.connect() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one() == "9999"


async def test_runs_of_before_are_told_as_far_as_they_are_known(empty_database: Database) -> None:
    """Migration 0005: since when a task waited for its first attempt, and how tasks that are gone had ended."""
    async with empty_database.engine.begin() as connection:
        await connection.run_sync(upgrade, "0004")
        await connection.run_sync(previous_release_writes, "u")
        await connection.execute(text("UPDATE tasks SET committed_at = '2026-01-01T00:00:00Z'"))
        await connection.execute(
            text(
                "INSERT INTO past_runs (task_uuid, number, tenant, node_id, state, options, images_count, ended_at) "
                "VALUES ('p', 2, 't', 'n', 'completed', '', 1, now()), ('p', 1, 't', 'n', 'failed', '', 1, now())"
            )
        )
    await empty_database.migrate()
    async with empty_database.engine.connect() as connection:
        queued = (await connection.execute(text("SELECT queued_at FROM attempts"))).scalar_one()
        outcomes = (await connection.execute(text("SELECT number, outcome FROM past_runs ORDER BY number"))).all()
    assert queued == datetime(2026, 1, 1, tzinfo=UTC)
    assert [tuple(row) for row in outcomes] == [(1, None), (2, "completed")]
