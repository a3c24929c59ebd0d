"""Owns the tables, as SQLAlchemy Core has them; it must not be imported where speed matters.

`statements` holds the SQL that these tables compile to, and `migrations` the way from one revision
to the next; tests hold all three equal. Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

REVISION: Final = "0006"
"""The revision of these tables: the head of `migrations`."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True, nullable=False),
    Column("value", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("epoch", Text, nullable=False),
    Column("operation", Text),
    Column("owner", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("at", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("layer", Text),
    Column("data", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_events_layer", events.c.layer, events.c.seq)

owners = Table(
    "owners",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Integer, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("mount_id", Integer, nullable=False),
    Column("command", Text, nullable=False),
    Column("durability", Text, nullable=False),
    Column("opened_at", Integer, nullable=False),
    Column("closed_at", Integer),
)
Index("ix_owners_open", owners.c.opened_at, sqlite_where=text("closed_at IS NULL"))

layers = Table(
    "layers",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("link", Text, nullable=False, unique=True),
    Column("parent", Text, ForeignKey("layers.id")),
    Column("lower", Text, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("read_write", Integer, nullable=False),
    Column("committed", Integer, nullable=False),
    Column("labels", Text, nullable=False),
    Column("storage_options", Text, nullable=False),
    Column("mount_label", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("created_seq", Integer, nullable=False),
    Column("durable", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("draining", Integer, nullable=False),
    Column("damage", Text),
    Column("applied", Integer, nullable=False, server_default=text("0")),
    Column("diff_id", Text),
    Column("size", Integer),
    Column("inodes", Integer),
)
Index("ix_layers_parent", layers.c.parent, layers.c.id)

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("verb", Text, nullable=False),
    Column("layer", Text, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("intent_seq", Integer, nullable=False),
    Column("started_at", Integer, nullable=False),
    Column("abandoned", Integer, nullable=False),
)

holds = Table(
    "holds",
    metadata,
    Column("layer", Text, ForeignKey("layers.id"), primary_key=True, nullable=False),
    Column("holder", Text, primary_key=True, nullable=False),
    Column("count", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("since_at", Integer, nullable=False),
    Column("since_seq", Integer, nullable=False),
)
Index("ix_holds_holder", holds.c.holder)

mounts = Table(
    "mounts",
    metadata,
    Column("layer", Text, ForeignKey("layers.id"), primary_key=True, nullable=False),
    Column("read_only", Integer, nullable=False),
    Column("mount_id", Integer, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("since_at", Integer, nullable=False),
    Column("since_seq", Integer, nullable=False),
)

snapshots = Table(
    # The folded tables as they were after event `seq`, when the events up to it were archived.
    "snapshots",
    metadata,
    Column("part", Integer, primary_key=True, nullable=False, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("of_table", Text, nullable=False),
    Column("fields", Text, nullable=False),
    Column("content", Text, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, nullable=False),
    # Not a foreign key: it stays until the files are gone, by the name that they have in the trash.
    Column("layer", Text, nullable=False, unique=True),
    Column("size", Integer, nullable=False),
    Column("since_seq", Integer, nullable=False),
)

manifests = Table(
    # What a layer held is in a file; here is what that file has to be.
    "manifests",
    metadata,
    Column("layer", Text, ForeignKey("layers.id"), primary_key=True, nullable=False),
    Column("digest", Text, nullable=False),
    Column("files", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("since_at", Integer, nullable=False),
    Column("since_seq", Integer, nullable=False),
)
