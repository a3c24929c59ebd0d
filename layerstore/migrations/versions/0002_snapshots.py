"""The table of snapshots, from which a journal goes on whose older events are in archives."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make it, empty: nothing was archived yet."""
    op.create_table(
        "snapshots",
        sa.Column("part", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("of_table", sa.Text, nullable=False),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("part", name="pk_snapshots"),
    )
