"""A store of the packaged schema, and a package that is one revision ahead of it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerstore.migrations
from layerstore import Store
from layerstore.db import migrate
from layerstore.db import statements as sql

OLD = sql.REVISION
NEW = f"{int(OLD) + 1:04}"

NEXT = f'''
"""A second revision, which only these tests have."""

import sqlalchemy as sa
from alembic import op

revision = "{NEW}"
down_revision = "{OLD}"


def upgrade():
    op.create_table("notes", sa.Column("seq", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    op.create_index("ix_notes_text", "notes", ["text"])
    op.execute("INSERT INTO notes SELECT seq, kind FROM events")
    op.add_column("owners", sa.Column("host", sa.Text))
    with op.batch_alter_table("meta", recreate="always") as batch:
        batch.add_column(sa.Column("since", sa.Integer, nullable=False, server_default="0"))
'''


@pytest.fixture
def old_home(home: Path) -> Path:
    """A store of the packaged schema with a chain of two layers, closed."""
    with Store.open(home) as store:
        store.create("base", labels={"k": "v"})
        store.create("child", parent="base")
    return home


@pytest.fixture
def newer_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """From here on the package has one migration more, and its code expects that revision."""
    scripts = tmp_path / "migrations"
    packaged = Path(layerstore.migrations.__file__).parent
    shutil.copytree(packaged, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / f"{NEW}_next.py").write_text(textwrap.dedent(NEXT))
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "SCRIPTS", str(scripts))
        patch.setattr(sql, "REVISION", NEW)
        yield NEW
