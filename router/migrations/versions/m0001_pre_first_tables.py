"""0001, pre: the first tables, and the notice that every change of a task sends."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NOTICE = """
CREATE FUNCTION scaleodm_notify_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('scaleodm_tasks', COALESCE(NEW.uuid, OLD.uuid));
    RETURN NULL;
END $$
"""
_TRIGGER = """
CREATE TRIGGER tasks_changed AFTER INSERT OR UPDATE OR DELETE ON tasks
FOR EACH ROW EXECUTE FUNCTION scaleodm_notify_task()
"""


def _moment(name: str, now: bool = True) -> "sa.Column[object]":
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def _task_uuid() -> "sa.Column[object]":
    return sa.Column("task_uuid", sa.Text(), sa.ForeignKey("tasks.uuid", ondelete="CASCADE"), primary_key=True)


def upgrade() -> None:
    """Make the tables."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False, unique=True),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("engine_version", sa.String(), nullable=False),
        sa.Column("capacity", JSONB(), nullable=False),
        sa.Column("max_images", sa.Integer(), nullable=True),
        sa.Column("labels", JSONB(), nullable=False),
        sa.Column("capabilities", JSONB(), nullable=False),
        sa.Column("options", JSONB(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        _moment("joined_at"),
        _moment("heard_at"),
    )
    op.create_table(
        "tasks",
        sa.Column("uuid", sa.Text(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("input", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("staged", sa.Boolean(), nullable=False),
        sa.Column("options", JSONB(), nullable=False),
        sa.Column("outputs", JSONB(), nullable=False),
        sa.Column("webhook", sa.String(), nullable=True),
        sa.Column("skip_post_processing", sa.Boolean(), nullable=False),
        sa.Column("images_count", sa.Integer(), nullable=False),
        sa.Column("input_bytes", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("begun", sa.Boolean(), nullable=False),
        sa.Column("began_ms", sa.BigInteger(), nullable=True),
        sa.Column("processing_ms", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("console_lines", sa.Integer(), nullable=False),
        _moment("committed_at", now=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )
    op.create_index("tasks_by_state", "tasks", ["state", "committed_at"])
    op.create_index("tasks_by_tenant", "tasks", ["tenant"])
    op.create_table(
        "attempts",
        _task_uuid(),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("node_id", sa.Text(), sa.ForeignKey("nodes.id"), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("reasons", JSONB(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("next_line", sa.Integer(), nullable=False),
        _moment("placed_at"),
        _moment("ended_at", now=False),
    )
    op.create_index("attempts_by_node", "attempts", ["node_id", "state"])
    op.create_table(
        "console",
        _task_uuid(),
        sa.Column("attempt", sa.Integer(), primary_key=True),
        sa.Column("first_line", sa.Integer(), primary_key=True),
        sa.Column("lines", JSONB(), nullable=False),
    )
    op.create_table(
        "staged_files",
        _task_uuid(),
        sa.Column("name", sa.String(), primary_key=True),
    )
    op.create_table(
        "tokens",
        sa.Column("hash", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False, unique=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("prefixes", JSONB(), nullable=False),
        _moment("created_at"),
    )
    op.execute(_NOTICE)
    op.execute(_TRIGGER)
