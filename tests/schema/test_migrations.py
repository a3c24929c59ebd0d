"""The way from nothing to the newest schema is the newest schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from layerstore.db import engine, migrate, schema
from layerstore.db import statements as sql
from layerstore.fs import layout
from tests.schema.databases import look, schema_of


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """A database made by the migrations alone, from an empty file."""
    path = tmp_path / "migrated.db"
    migrate.run(migrate._sqlalchemy(str(path)), "head")
    return path


@pytest.fixture
def scratch() -> Iterator[Any]:
    """A database made by the packaged statements, in memory."""
    connection = engine.scratch()
    yield connection
    connection.close()


def scripts() -> ScriptDirectory:
    """The packaged migrations."""
    config = Config()
    config.set_main_option("script_location", migrate.SCRIPTS)
    return ScriptDirectory.from_config(config)


def test_migrations_give_the_packaged_schema(migrated: Path, scratch: Any) -> None:
    """Text, columns, indexes and foreign keys agree, table by table."""
    found, _ = look(migrated)
    own = {name: value for name, value in found.items() if "alembic_version" not in name}
    assert schema_of(scratch) == own


@pytest.mark.root
def test_a_new_store_is_what_the_migrations_make(migrated: Path, home: Path) -> None:
    """The schema of an initialized store and one that was migrated cannot be told apart."""
    schema, rows = look(home / layout.DATABASE)
    assert look(migrated)[0] == schema
    assert [(sql.REVISION,)] == rows["alembic_version"]


def test_autogenerate_finds_nothing_to_do(migrated: Path) -> None:
    """alembic compares the migrated database with the Core tables and sees no difference."""
    database = migrate._sqlalchemy(str(migrated))
    with database.connect() as connection:
        options = {"compare_type": True, "render_as_batch": True}
        context = MigrationContext.configure(connection, opts=options)
        assert [] == compare_metadata(context, schema.metadata)


def test_the_head_is_the_revision_that_the_code_expects() -> None:
    """One head, named alike by the scripts, the tables and the statements."""
    assert ([schema.REVISION], schema.REVISION) == (scripts().get_heads(), sql.REVISION)


def test_revisions_sort_as_they_follow() -> None:
    """A later revision has a greater name: older and newer are told by comparing them."""
    names = [script.revision for script in scripts().walk_revisions("base", "head")]
    assert sorted(names, reverse=True) == names


def test_a_migration_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that fails at its last statement leaves no table behind."""
    path = tmp_path / "failed.db"

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the last statement")

    monkeypatch.setattr("alembic.runtime.migration.HeadMaintainer.update_to_step", fail)
    with pytest.raises(RuntimeError):
        migrate.run(migrate._sqlalchemy(str(path)), "head")
    assert ({}, {}) == look(path)


def test_layers_of_the_first_schema_were_applied_nothing(tmp_path: Path) -> None:
    """What an older program wrote is kept; of archives it knew nothing."""
    path = tmp_path / "old.db"
    database = migrate._sqlalchemy(str(path))
    migrate.run(database, "0001")
    row = ("a", "L" * 26, None, "", 0, 0, 0, "{}", "{}", "", 1, 2, 1, 0, 0, None)
    with database.begin() as connection:
        marks = ",".join("?" * len(row))
        connection.exec_driver_sql(f"INSERT INTO layers VALUES ({marks})", row)
    migrate.run(database, "head")
    with database.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT id, durable, applied, diff_id, size FROM layers"
        ).fetchall()
    assert [("a", 1, 0, None, None)] == [tuple(row) for row in found]
