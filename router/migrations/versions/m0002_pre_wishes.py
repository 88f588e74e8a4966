"""0002, pre: what a task asks beyond NodeODM, and what its run waits for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; the previous release leaves them at their defaults."""
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.add_column("tasks", sa.Column("wishes", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")))
    op.add_column("tasks", sa.Column("waiting", sa.String(), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("tasks", "waiting")
    op.drop_column("tasks", "wishes")
