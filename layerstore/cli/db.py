"""Owns `db`: the revision of the database, its upgrade, and making it anew from the tree."""

from __future__ import annotations

import click

from layerstore.cli.app import App, Command, pass_app


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
    from layerstore.cli.upkeep import settled_line
    from layerstore.store import Store

    app.prepare_to_write()
    settled = Store.rebuild(app.settings.home)
    if app.out.json:
        app.out.document(settled=settled)
        return
    for item in settled:
        app.out.line(settled_line(item))
    app.out.note("The database was made anew.")
