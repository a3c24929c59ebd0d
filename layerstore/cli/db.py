"""Owns `db`: the revision of the database, its upgrade, copies of it, and making it anew from the tree."""

from __future__ import annotations

import os
from pathlib import Path

import click

from layerstore.cli.app import App, Command, pass_app
from layerstore.model import Settled


class DatabaseGroup(click.Group):
    """Commands about the database itself."""

    command_class = Command


@click.group("db", cls=DatabaseGroup)
def db_command() -> None:
    """See to the database that holds journal and index."""


@db_command.command("current")
@pass_app
def current(app: App) -> None:
    """Print the revision of the database, and that of this program."""
    from layerstore.store import Store

    stored, packaged = Store.revision(app.settings.home)
    if app.out.json:
        app.out.document(stored=stored, packaged=packaged)
    else:
        app.out.fields((("Database", stored), ("Program", packaged)))


@db_command.command("upgrade")
@pass_app
def upgrade(app: App) -> None:
    """Bring the database to the revision of this program.

    Opening the store does it too. A copy of the database is made first.
    """
    from layerstore.store import Store

    app.prepare_to_write()
    before, after = Store.upgrade(app.settings.home)
    if app.out.json:
        app.out.document(before=before, after=after)
    elif before == after:
        app.out.note(f"The database is at revision {after}; there was nothing to do.")
    else:
        app.out.note(f"The database went from revision {before} to {after}.")


@db_command.command("rebuild")
@pass_app
def rebuild(app: App) -> None:
    """Make the database anew from the tree.

    For a database that is lost, garbled, or belongs to another tree; the old one is set aside. The
    layers come from the tree; history, labels and holds that only the old one knew do not.
    """
    from layerstore.store import Store

    app.prepare_to_write()
    _say(app, Store.rebuild(app.settings.home), "The database was made anew.")


def _say(app: App, settled: tuple[Settled, ...], done: str) -> None:
    from layerstore.cli.upkeep import settled_line

    if app.out.json:
        app.out.document(settled=settled)
        return
    for item in settled:
        app.out.line(settled_line(item))
    app.out.note(done)


@db_command.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@pass_app
def backup(app: App, file: Path) -> None:
    """Write a copy of the database to FILE.

    The store may be in use; the copy is of one moment. A file that exists is never replaced. The
    layers are not in it: they are in the tree.
    """
    with app.reader() as reader:
        reader.backup(file)
    if app.out.json:
        app.out.document(file=os.path.abspath(file))
    else:
        app.out.note(f"The database was copied to {file}.")


@db_command.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@pass_app
def restore(app: App, file: Path) -> None:
    """Put a copy of the database in place, and compare it with the tree.

    FILE is what 'db backup' wrote, or journal.db.before-REVISION, which an upgrade leaves in
    .layerstore. It has to be of this store. The present database goes to quarantine. What was
    journaled since the copy is not known any more: layers made since are taken in from the tree,
    and layers removed since are dropped.
    """
    from layerstore.store import Store

    app.prepare_to_write()
    settings = app.settings
    settled = Store.restore(settings.home, file, timeout=settings.timeout)
    _say(app, settled, f"The database was restored from {file}.")


@db_command.command("adopt-copy")
@pass_app
def adopt_copy(app: App) -> None:
    """Make a home that was copied a store of its own, with a new id.

    Holds and operations that the copy knows belong to the original and end here, without anything
    being done there; then the tree is compared.
    """
    _adopt(app, "copy", "This home is a store of its own now.")


@db_command.command("adopt-move")
@pass_app
def adopt_move(app: App) -> None:
    """Say that a home that looks like a copy is the store, which has moved here.

    It keeps its id. What lies where the store was before must not be used any more.
    """
    _adopt(app, "move", "The store is here now; do not use what is left where it was.")


def _adopt(app: App, this_is: str, done: str) -> None:
    from layerstore.store import Store

    app.prepare_to_write()
    settings = app.settings
    _say(app, Store.adopt(settings.home, this_is=this_is, timeout=settings.timeout), done)
