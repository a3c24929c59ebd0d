"""Inodes of a layer whose content is what was applied to it.

Only a column is added. Where it is empty, as in every row so far, the content may be another by now,
and whoever wants its size measures it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """One column more."""
    op.add_column("layers", sa.Column("inodes", sa.Integer))
