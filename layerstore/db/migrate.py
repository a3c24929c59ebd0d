"""Owns schema upgrades: a copy first, then one transaction. The caller has the store to itself.

alembic runs on a SQLAlchemy connection over the driver that `engine` chose, with BEGIN IMMEDIATE
emitted explicitly: left to itself the driver would not begin before DDL, and a kill would leave
half a schema.
"""

from __future__ import annotations

import os
from typing import Any, Final

import alembic.command
import alembic.config
import alembic.script
import alembic.util
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from layerstore.db import engine
from layerstore.errors import StoreDamaged
from layerstore.fs import durable

SCRIPTS: Final = "layerstore:migrations"


def _sqlalchemy(path: str) -> sa.Engine:
    made = sa.create_engine(f"sqlite:///{path}", module=engine.driver, poolclass=NullPool)

    @sa.event.listens_for(made, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(made, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return made


def copy(path: str, target: str) -> None:
    """A copy of the database with everything that its WAL holds, synced; it appears whole."""
    temporary = f"{target}.tmp"
    if os.path.exists(temporary):
        os.unlink(temporary)
    connection = engine.connect(path, read_only=False, timeout=30)
    try:
        connection.execute("VACUUM INTO ?", (temporary,))
    finally:
        connection.close()
    os.chmod(temporary, 0o600)
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        durable.sync(descriptor, temporary)
    finally:
        os.close(descriptor)
    os.rename(temporary, target)
    durable.sync_directory(os.path.dirname(target))


def knows(revision: str) -> bool:
    """Whether there is a way from this revision to the packaged one."""
    config = alembic.config.Config()
    config.set_main_option("script_location", SCRIPTS)
    scripts = alembic.script.ScriptDirectory.from_config(config)
    return any(script.revision == revision for script in scripts.walk_revisions())


def upgrade(path: str, *, revision: str = "head") -> str:
    """Copy the database beside itself, then bring it to `revision`; the path of the copy."""
    database = _sqlalchemy(path)
    with database.connect() as connection:
        before = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    saved = f"{path}.before-{before}"
    copy(path, saved)
    run(database, revision)
    return saved


def run(database: sa.Engine, revision: str) -> None:
    """Bring a database to a revision, in one transaction."""
    with database.begin() as connection:
        config = alembic.config.Config()
        config.set_main_option("script_location", SCRIPTS)
        config.attributes["connection"] = connection
        try:
            alembic.command.upgrade(config, revision)
        except alembic.util.CommandError as error:
            raise StoreDamaged(
                f"The schema of {database.url.database} is not known: {error}.",
                hint="'layerstore db rebuild' sets it aside and makes it anew from the tree.",
            ) from error
