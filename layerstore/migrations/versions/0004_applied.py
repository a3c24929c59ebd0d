"""What was applied to a layer: whether, its digest, its size.

Only columns are added, so that what an older program wrote stays as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Three columns more."""
    op.add_column(
        "layers", sa.Column("applied", sa.Integer, nullable=False, server_default=sa.text("0"))
    )
    op.add_column("layers", sa.Column("diff_id", sa.Text))
    op.add_column("layers", sa.Column("size", sa.Integer))
