"""What layers held when they were recorded: of each the digest of the file that says so.

A frozen copy: what the table was at this revision, whatever `db.schema` says today.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table. No layer had a manifest before it."""
    op.create_table(
        "manifests",
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("since_at", sa.Integer, nullable=False),
        sa.Column("since_seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("layer", name="pk_manifests"),
        sa.ForeignKeyConstraint(["layer"], ["layers.id"], name="fk_manifests_layer"),
    )
