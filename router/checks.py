"""What a router finds when it examines its own settings and its database: `python -m router.checks`."""

import asyncio
import os
import sys
from urllib.parse import urlsplit

import asyncpg

from common.checks import Check, clock, note, ok, problem, written
from common.settings import S3Settings, SettingsUnusable, Switch, TailscaleSettings, read_settings
from common.tailscaled import tailnet_check
from router.settings import RouterSettings

OLDEST_POSTGRES = 140_000
_CONNECT_S = 5.0
_ADVICE = "Check SCALEODM_ROUTER_DATABASE_URL."


def settings_check() -> tuple[RouterSettings | None, Check]:
    """Whether a router would start with them."""
    try:
        settings = read_settings(RouterSettings)
        if settings.url is not None and "SCALEODM_STAGING" in os.environ:
            from router.app import check_addresses  # the whole router, which takes its time

            check_addresses(settings, read_settings(S3Settings))
    except SettingsUnusable as unusable:
        told = "; ".join(line.strip() for line in str(unusable).splitlines()[1:]) or str(unusable)
        return None, problem("router settings", told, "docs/settings.md tells of each one.")
    if settings.auth is Switch.OFF:
        return settings, note("router settings", "readable; SCALEODM_ROUTER_AUTH=off lets everybody in")
    return settings, ok("router settings", "readable")


async def database_checks(url: str) -> list[Check]:
    """Whether it answers, is new enough, has our tables, and tells the time."""
    parts = urlsplit(url)
    where = f"Postgres at {parts.hostname or 'localhost'}:{parts.port or 5432}"
    refused = await _refused(url, where)
    if refused is not None:
        return [refused]
    from router.database import Database  # with what reads tables, which takes its time
    from router.release import database_document

    database = Database(url)
    try:
        told = await database_document(database)
    finally:
        await database.close()
    if "error" in told:
        return [problem("database", f"{where} does not answer as it should ({told['error']})", _ADVICE)]
    return [_version(where, told["version"], told["number"]), _migration(told), clock("database clock", told["ahead"])]


async def _refused(url: str, where: str) -> Check | None:
    parts = urlsplit(url)
    user, name = parts.username, parts.path.lstrip("/")
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_S)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        return problem("database", f"{where} refuses the user {user} or its password", _ADVICE)
    except asyncpg.InvalidCatalogNameError:
        return problem("database", f"{where} has no database {name}", f'Make it: CREATE DATABASE "{name}"')
    except TimeoutError:
        return problem(
            "database", f"{where} does not answer within {_CONNECT_S:.0f} s", f"{_ADVICE} Is a firewall there?"
        )
    except (OSError, asyncpg.PostgresError) as trouble:
        return problem("database", f"{where} cannot be reached: {trouble}".splitlines()[0], f"{_ADVICE} Is it running?")
    await connection.close()
    return None


def _version(where: str, version: str, number: int) -> Check:
    if number < OLDEST_POSTGRES:
        return problem("database", f"{where} is version {version}", "Postgres 14 or newer is needed.")
    return ok("database", f"{where} answers, version {version}")


def _migration(told: dict[str, object]) -> Check:
    found, newest = told["migration"], told["newest"]
    if found == newest:
        return ok("migrations", f"the tables are those of this release ({newest})")
    if found is None:
        return note("migrations", "no tables yet; a router makes them when it starts")
    from router.release import known_migrations

    if found in known_migrations():
        return note(
            "migrations", f"the tables are at {found}, this release is at {newest}; a router migrates when it starts"
        )
    return problem(
        "migrations",
        f"the tables are at {found}, which this release does not know (it is at {newest})",
        "A newer router has been here: bring this one to its release.",
    )


async def examine() -> list[Check]:
    """All of it."""
    settings, first = settings_check()
    if settings is None:
        url = os.environ.get("SCALEODM_ROUTER_DATABASE_URL", "")
        known = url.startswith(("postgresql://", "postgres://"))
        return [first, *(await database_checks(url) if known else [])]
    found = [first, *(await database_checks(settings.database_url.get_secret_value()))]
    asks = settings.rights.are_given
    return [*found, await tailnet_check(read_settings(TailscaleSettings).socket)] if asks else found


if __name__ == "__main__":
    sys.stdout.write(written(asyncio.run(examine())))
