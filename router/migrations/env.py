"""Alembic's entry: runs on the connection that `router.database.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

import router.tables

connection = context.config.attributes["connection"]
assert router.tables.TaskRow.metadata is SQLModel.metadata
context.configure(connection=connection, target_metadata=SQLModel.metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
