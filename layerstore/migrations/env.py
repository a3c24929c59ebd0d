"""Runs migrations on the connection that the caller hands in; it must not open one, nor commit.

`db.migrate` begins and commits the one transaction in which schema and revision change together.
"""

from alembic import context

from layerstore.db.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
