"""Which release this router is, and whether its database fits."""

from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from common.federation import PROTOCOL
from router.database import Database


@cache
def newest_migration() -> str:
    """The last migration that this release knows."""
    configuration = Config()
    configuration.set_main_option("script_location", "router:migrations")
    return str(ScriptDirectory.from_config(configuration).get_current_head())


def known_migrations() -> frozenset[str]:
    """Every migration that this release knows."""
    configuration = Config()
    configuration.set_main_option("script_location", "router:migrations")
    return frozenset(each.revision for each in ScriptDirectory.from_config(configuration).walk_revisions())


async def database_document(database: Database) -> dict[str, Any]:
    """The database: its version, its clock, its last migration. What goes wrong stands in `error`."""
    asked = datetime.now(UTC)
    try:
        async with database.statement() as session:
            said = (
                await session.exec(
                    text(  # type: ignore[call-overload]  # sqlmodel types what it builds itself alone
                        "SELECT current_setting('server_version'), current_setting('server_version_num')::int, "
                        "clock_timestamp(), to_regclass('alembic_version') IS NOT NULL"
                    )
                )
            ).one()
            migration = None
            if said[3]:
                migration = (await session.exec(text("SELECT version_num FROM alembic_version"))).scalar()  # type: ignore[call-overload]
    except (SQLAlchemyError, OSError, TimeoutError) as trouble:
        return {"error": type(trouble).__name__}
    answered = datetime.now(UTC)
    return {
        "version": said[0],
        "number": said[1],
        "ahead": round((said[2] - asked - (answered - asked) / 2).total_seconds(), 3),
        "migration": migration,
        "newest": newest_migration(),
    }


def release_document() -> dict[str, Any]:
    """This program."""
    return {"release": version("scaleodm"), "protocol": PROTOCOL, "time": datetime.now(UTC).isoformat()}
