"""What the router needs, as `/readyz` tells it."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from common.health import Finding, Probe, State
from router import queries
from router.database import Database
from router.leadership import Leadership
from router.release import known_migrations, newest_migration
from router.snapshot import SnapshotKeeper

DEAF_FOR_S = 60.0
"""A replica that has not heard the others for longer, though the database answers it, answers what may no longer be."""
LED_WITHIN = timedelta(seconds=30)
"""A dead leader is replaced well within."""
_NOT_KNOWN = "Not known while the database does not answer."


class RecordProbe:
    """Asks the database for all that lies in it: itself, its tables, who leads; and whether its notices are heard."""

    def __init__(self, database: Database, keeper: SnapshotKeeper, leadership: Leadership) -> None:
        """`leadership`: this replica's own."""
        self._database = database
        self._keeper = keeper
        self._leadership = leadership
        self.probe = Probe(("database", "migrations", "leader", "memory"), self._ask)

    async def _ask(self) -> Sequence[Finding]:
        try:
            async with self._database.statement() as session:
                migration, leaderless = await queries.migration(session), await queries.leaderless(session)
        except (SQLAlchemyError, OSError) as trouble:
            says = f"Postgres does not answer ({type(trouble).__name__}). Polls are answered from memory."
            return [
                Finding("database", State.FAILING, says),
                Finding("migrations", State.UNKNOWN, _NOT_KNOWN),
                Finding("leader", State.UNKNOWN, _NOT_KNOWN),
                Finding("memory", State.UNKNOWN, _NOT_KNOWN),
            ]
        return [
            Finding("database", State.OK, "Postgres answers."),
            migrations(migration, newest_migration(), known_migrations()),
            leader(self._leadership.is_leading, leaderless),
            memory(self._keeper.deaf_s),
        ]


def migrations(found: str | None, newest: str, known: frozenset[str]) -> Finding:
    """Whether the tables are those that this release needs. Pure."""
    if found == newest:
        return Finding("migrations", State.OK, f"The tables are those of this release ({newest}).")
    if found is not None and found not in known:
        says = f"The tables are at {found}, of a newer release; this one works with them until it is updated."
        return Finding("migrations", State.OK, says)
    says = f"The tables are at {found or 'nothing'}, this release needs {newest}: start a router of it, which migrates."
    return Finding("migrations", State.FAILING, says)


def leader(is_ours: bool, leaderless: timedelta) -> Finding:
    """Whether some replica leads; `leaderless`: for how long none has. Pure."""
    if is_ours:
        return Finding("leader", State.OK, "This replica leads.")
    if leaderless <= LED_WITHIN:
        return Finding("leader", State.OK, "Another replica leads, or is about to.")
    if leaderless >= queries.NEVER_LED:
        return Finding("leader", State.FAILING, "No replica has led yet: one does within seconds of its start.")
    says = f"No replica has led for {leaderless.total_seconds():.0f} s: nothing is placed or delivered."
    return Finding("leader", State.FAILING, says)


def memory(deaf_s: float) -> Finding:
    """Whether what other replicas change is heard. Pure."""
    if deaf_s <= DEAF_FOR_S:
        return Finding("memory", State.OK, "What other replicas change is heard.")
    says = f"What other replicas change has not been heard for {deaf_s:.0f} s, so polls may be answered with the past."
    return Finding("memory", State.FAILING, says, vital=True)
