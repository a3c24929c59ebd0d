"""Owns `journal`: keeping the journal short."""

from __future__ import annotations

import click

from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.output import many


class JournalGroup(click.Group):
    """Commands about the journal itself."""

    command_class = Command


@click.group("journal", cls=JournalGroup)
def journal_command() -> None:
    """See to the size of the journal."""


@journal_command.command("compact")
@click.option(
    "--keep",
    type=click.IntRange(0),
    default=1_000,
    show_default=True,
    metavar="EVENTS",
    help="How many of the newest events stay in the journal.",
)
@click.option(
    "--keep-archives",
    type=click.IntRange(0),
    metavar="N",
    help="Then delete the oldest archives but for N of them; the past ends there. By default the "
    "setting keep_archives says it, and that is to keep all.",
)
@pass_app
def compact(app: App, keep: int, keep_archives: int | None) -> None:
    """Move old events to an archive; 'log', 'history' and the rest read them there.

    Nothing is moved that an operation in flight needs. A store does the same by itself, past the
    setting compact_above.
    """
    with app.store() as store:
        done = store.compact(keep=keep, keep_archives=keep_archives)
    if app.out.json:
        app.out.document(compaction=done)
        return
    if done.archive is None:
        app.out.note("There was nothing to move.")
    else:
        app.out.note(
            f"Moved {many(done.events, 'event')} ({done.first} to {done.last}) to {done.archive}."
        )
    if done.deleted:
        app.out.note(f"Deleted {many(len(done.deleted), 'older archive')}.")
