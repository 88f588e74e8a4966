"""0004, pre: parts of split tasks; when tasks ended, what is kept of runs, and where workspaces are kept."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ENDS = """
CREATE FUNCTION scaleodm_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state IN ('completed', 'failed', 'canceled') AND (TG_OP = 'INSERT' OR OLD.state <> NEW.state) THEN
        NEW.ended_at = clock_timestamp();
    END IF;
    RETURN NEW;
END $$
"""
_ENDED = """
CREATE TRIGGER task_ends BEFORE INSERT OR UPDATE OF state ON tasks
FOR EACH ROW EXECUTE FUNCTION scaleodm_note_end()
"""


def _moment(name: str, now: bool) -> "sa.Column[object]":
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def _housekeeping() -> None:
    """What `router.housekeeping` needs. What has ended already counts as ended now: nothing goes before its time."""
    op.add_column("tasks", _moment("opened_at", now=True))
    op.add_column("tasks", _moment("ended_at", now=False))
    op.add_column("tasks", sa.Column("leaving", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("staged_files", _moment("taken_at", now=True))
    op.add_column("nodes", sa.Column("workspaces", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")))
    op.execute("UPDATE tasks SET ended_at = now() WHERE state IN ('completed', 'failed', 'canceled')")
    op.create_index("tasks_by_end", "tasks", ["ended_at"])
    op.create_index("tasks_leaving", "tasks", ["uuid"], postgresql_where=sa.text("leaving"))
    op.create_table(
        "past_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("task_uuid", "tenant", "node_id", "state", "options")
        ),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("images_count", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        _moment("began_at", now=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("past_runs_by_end", "past_runs", ["ended_at"])
    for statement in (_ENDS, _ENDED):
        op.execute(statement)


def _no_housekeeping() -> None:
    op.execute("DROP TRIGGER task_ends ON tasks")
    op.execute("DROP FUNCTION scaleodm_note_end()")
    op.drop_table("past_runs")
    op.drop_column("nodes", "workspaces")
    op.drop_column("staged_files", "taken_at")
    for index in ("tasks_by_end", "tasks_leaving"):
        op.drop_index(index, "tasks")
    for column in ("opened_at", "ended_at", "leaving"):
        op.drop_column("tasks", column)


def upgrade() -> None:
    """Add columns with defaults: the previous release goes on beside this one."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.add_column("tasks", sa.Column("family", sa.Text(), nullable=False, server_default=sa.text("''")))
    _housekeeping()
    # For `router.browsing`, which shows the newest first.
    op.create_index("tasks_by_commit", "tasks", ["committed_at", "uuid"])


def downgrade() -> None:
    """Drop it all."""
    op.drop_index("tasks_by_commit", "tasks")
    _no_housekeeping()
    op.drop_column("tasks", "family")
