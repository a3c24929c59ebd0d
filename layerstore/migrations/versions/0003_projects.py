"""The project ids that layers have for their quotas.

A frozen copy: what the table was at this revision, whatever `db.schema` says today.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table. No layer had a quota before it."""
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("since_seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("layer", name="uq_projects_layer"),
    )
