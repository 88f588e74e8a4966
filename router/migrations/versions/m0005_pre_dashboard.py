"""0005, pre: who did what when, samples over time, what overview and tenants' use need of runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ATTEMPTS = """
UPDATE attempts SET queued_at = tasks.committed_at FROM tasks
WHERE tasks.uuid = attempts.task_uuid AND tasks.first_attempt = attempts.number
"""
_OUTCOMES = """
UPDATE past_runs SET outcome = state
WHERE id IN (SELECT DISTINCT ON (task_uuid) id FROM past_runs ORDER BY task_uuid, number DESC, id DESC)
"""


def _text(name: str, default: str | None = None) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False, server_default=None if default is None else sa.text(default))


def _moment(name: str) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        *(_text(name) for name in ("actor_kind", "actor_name", "tenant", "action")),
        *(_text(name) for name in ("subject_kind", "subject_id", "subject_name", "text")),
        sa.Column("details", JSONB(), nullable=False),
    )
    op.create_index("events_by_action", "events", ["action", "id"])
    op.create_index("events_by_subject", "events", ["subject_id", "id"])
    op.create_index("events_by_name", "events", ["subject_name", "id"])
    op.create_index("events_by_time", "events", ["at"])


def _samples() -> None:
    op.create_table(
        "samples",
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("nodes", "usable_nodes", "slots", "used", "free", "queued", "running")
        ),
        sa.Column("longest_wait_s", sa.Double(), nullable=False),
    )


def _runs() -> None:
    """What is already there is told as far as it is known."""
    op.add_column("attempts", _moment("queued_at"))
    op.add_column("past_runs", _moment("queued_at"))
    op.add_column("past_runs", _moment("placed_at"))
    op.add_column("past_runs", _text("token", "''"))
    op.add_column("past_runs", sa.Column("outcome", sa.Text(), nullable=True))
    for statement in (_ATTEMPTS, _OUTCOMES):
        op.execute(statement)


def _indices() -> None:
    """What is drawn of a month is read from indices; and a task that has not ended is in fewer of them than it was."""
    op.drop_index("tasks_by_end", "tasks")
    op.create_index(
        "tasks_by_end",
        "tasks",
        ["ended_at"],
        postgresql_include=["state"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "tasks_not_started",
        "tasks",
        ["ended_at"],
        postgresql_where=sa.text("state = 'failed' AND attempt < first_attempt"),
    )
    op.create_index(
        "attempts_failed",
        "attempts",
        ["ended_at"],
        postgresql_include=["cause"],
        postgresql_where=sa.text("state = 'failed'"),
    )


def upgrade() -> None:
    """Add tables of their own and columns with defaults: the previous release goes on beside this one."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    _events()
    _samples()
    _runs()
    _indices()
    op.add_column("nodes", _text("health", "'healthy'"))
    op.add_column("nodes", _moment("health_since"))


def downgrade() -> None:
    """Drop it all."""
    op.drop_index("attempts_failed", "attempts")
    for index in ("tasks_not_started", "tasks_by_end"):
        op.drop_index(index, "tasks")
    op.create_index("tasks_by_end", "tasks", ["ended_at"])
    for table, columns in (
        ("nodes", ("health", "health_since")),
        ("attempts", ("queued_at",)),
        ("past_runs", ("queued_at", "placed_at", "token", "outcome")),
    ):
        for column in columns:
            op.drop_column(table, column)
    op.drop_table("samples")
    op.drop_table("events")
