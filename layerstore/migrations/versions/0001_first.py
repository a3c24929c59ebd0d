"""The first schema.

A frozen copy: what the tables were at this revision, whatever `db.schema` says today.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("operation", sa.Text),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("at", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("layer", sa.Text),
        sa.Column("data", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_layer", "events", ["layer", "seq"])
    op.create_table(
        "owners",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Integer, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("mount_id", sa.Integer, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("durability", sa.Text, nullable=False),
        sa.Column("opened_at", sa.Integer, nullable=False),
        sa.Column("closed_at", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_owners"),
    )
    op.create_index(
        "ix_owners_open", "owners", ["opened_at"], sqlite_where=sa.text("closed_at IS NULL")
    )
    _index_tables()


def _index_tables() -> None:
    op.create_table(
        "layers",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("link", sa.Text, nullable=False),
        sa.Column("parent", sa.Text),
        sa.Column("lower", sa.Text, nullable=False),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("read_write", sa.Integer, nullable=False),
        sa.Column("committed", sa.Integer, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("storage_options", sa.Text, nullable=False),
        sa.Column("mount_label", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("created_seq", sa.Integer, nullable=False),
        sa.Column("durable", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("draining", sa.Integer, nullable=False),
        sa.Column("damage", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_layers"),
        sa.UniqueConstraint("link", name="uq_layers_link"),
        sa.ForeignKeyConstraint(["parent"], ["layers.id"], name="fk_layers_parent"),
    )
    op.create_index("ix_layers_parent", "layers", ["parent", "id"])
    op.create_table(
        "operations",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("intent_seq", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Integer, nullable=False),
        sa.Column("abandoned", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
        sa.UniqueConstraint("layer", name="uq_operations_layer"),
    )
    op.create_table(
        "holds",
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("since_at", sa.Integer, nullable=False),
        sa.Column("since_seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("layer", "holder", name="pk_holds"),
        sa.ForeignKeyConstraint(["layer"], ["layers.id"], name="fk_holds_layer"),
    )
    op.create_index("ix_holds_holder", "holds", ["holder"])
    op.create_table(
        "mounts",
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("read_only", sa.Integer, nullable=False),
        sa.Column("mount_id", sa.Integer, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("since_at", sa.Integer, nullable=False),
        sa.Column("since_seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("layer", name="pk_mounts"),
        sa.ForeignKeyConstraint(["layer"], ["layers.id"], name="fk_mounts_layer"),
    )
