"""0003, pre: leases, causes, fair queue, tokens' limits, nodes' standing, webhooks."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOTIFY = """
CREATE FUNCTION scaleodm_notify_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('scaleodm_access', TG_TABLE_NAME);
    RETURN NULL;
END $$
"""
# Not of heartbeats, which change heard_at and capacity every few seconds.
_NODES = """
CREATE TRIGGER nodes_changed AFTER INSERT OR DELETE OR UPDATE OF
    name, url, engine, engine_version, max_images, max_images_at, labels, options, draining, locked,
    quarantined_until, removed_at, kind, token, capabilities
ON nodes FOR EACH STATEMENT EXECUTE FUNCTION scaleodm_notify_access()
"""
_TOKENS = """
CREATE TRIGGER tokens_changed AFTER INSERT OR UPDATE OR DELETE ON tokens
FOR EACH STATEMENT EXECUTE FUNCTION scaleodm_notify_access()
"""


def _json(name: str) -> "sa.Column[Any]":
    return sa.Column(name, JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb"))


def _moment(name: str, now: bool = False) -> "sa.Column[Any]":
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def _number(name: str, default: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text(default))


def upgrade() -> None:
    """Add columns with defaults and tables of their own: the previous release goes on beside this one."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    for column in (
        sa.Column("locked", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        _json("max_images_at"),
        sa.Column("holding", JSONB(), nullable=False, server_default=sa.text("'[]'::jsonb")),
        _moment("quarantined_until"),
        _number("quarantines", "0"),
        _moment("removed_at"),
        sa.Column("kind", sa.Text(), nullable=False, server_default=sa.text("'member'")),
        sa.Column("token", sa.Text(), nullable=True),
    ):
        op.add_column("nodes", column)
    for column in (
        sa.Column("token", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("memory_factor", sa.Double(), nullable=False, server_default=sa.text("1")),
        _number("first_attempt", "1"),
        sa.Column("child", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    ):
        op.add_column("tasks", column)
    for column in (sa.Column("cause", sa.Text(), nullable=True), _moment("began_at")):
        op.add_column("attempts", column)
    op.create_index("attempts_by_end", "attempts", ["ended_at"])
    op.add_column("tokens", _json("limits"))
    op.create_table(
        "leader",
        sa.Column("epoch", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
    )
    op.execute("INSERT INTO leader (epoch, holder, until) VALUES (0, '', '-infinity')")
    op.create_table(
        "webhooks",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        sa.Column("task_uuid", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("payload", JSONB(), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        _number("tries", "0"),
        _moment("created_at", now=True),
        _moment("due_at", now=True),
        _moment("delivered_at"),
        _moment("given_up_at"),
        sa.Column("error", sa.Text(), nullable=True),
    )
    op.create_index("webhooks_by_task", "webhooks", ["task_uuid"])
    op.create_index(
        "webhooks_due",
        "webhooks",
        ["due_at"],
        postgresql_where=sa.text("delivered_at IS NULL AND given_up_at IS NULL"),
    )
    for statement in (_NOTIFY, _NODES, _TOKENS):
        op.execute(statement)


def downgrade() -> None:
    """Drop it all."""
    for table in ("nodes", "tokens"):
        op.execute(f"DROP TRIGGER {table}_changed ON {table}")
    op.execute("DROP FUNCTION scaleodm_notify_access()")
    op.drop_table("webhooks")
    op.drop_table("leader")
    op.drop_column("tokens", "limits")
    op.drop_index("attempts_by_end", "attempts")
    for table, columns in (
        ("attempts", ("cause", "began_at")),
        ("tasks", ("token", "memory_factor", "first_attempt", "child")),
        (
            "nodes",
            ("locked", "max_images_at", "holding", "quarantined_until", "quarantines", "removed_at", "kind", "token"),
        ),
    ):
        for column in columns:
            op.drop_column(table, column)
