"""Owns how an adopt and the end of one are told: `adopt` without --plan, `release-tree`; no rule of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.audit import Bar
from layerstore.cli.output import clean, many

if TYPE_CHECKING:
    from layerstore.indexing import Adopted

_SHOWN: Final = 10


def adopt(app: App, path: str, *, journal: str | None, take_over: bool, **wanted: Any) -> None:
    """Adopt a tree, and say what the index has now."""
    from layerstore import adopting
    from layerstore.legacy import containers_storage

    app.prepare_to_write()
    with Bar(app) as bar:
        done = adopting.adopt(
            path,
            kind=wanted["kind"],
            driver=wanted["driver"],
            journal=journal,
            run_root=wanted["run_root"] or containers_storage.RUN_ROOT,
            take_over=take_over,
            timeout=app.settings.timeout,
            progress=bar.told,
        )
    if app.out.json:
        app.out.document(adopted=done, taken_over=take_over)
        return
    _tell(app, done, take_over=take_over)


def _tell(app: App, done: Adopted, *, take_over: bool) -> None:
    app.out.note(f"{done.tree}: {_count(done)}.")
    for layer, why in list(done.left.items())[: None if app.out.verbose else _SHOWN]:
        app.out.note(clean(f"Left alone, {layer}: {why}."))
    if len(done.left) > _SHOWN and not app.out.verbose:
        app.out.note(f"… and {len(done.left) - _SHOWN} more (-v lists them).")
    app.tell(done.settled)
    if take_over:
        app.out.note(f"It is a store now: 'layerstore --home {done.home} status'.")
    elif not done.again:
        app.out.note(f"Ask it with 'layerstore --home {done.home} ls'. Nothing in it is changed.")


def _count(done: Adopted) -> str:
    bad = f", {done.damaged} of them damaged" if done.damaged else ""
    if not done.again:
        return f"{many(done.layers, 'layer')} adopted{bad}"
    found, vanished = done.found, done.vanished
    return f"{many(done.layers, 'layer')}{bad}; {found} new or changed, {vanished} gone"


@click.command("release-tree", cls=Command)
@click.argument("path", required=False, type=click.Path(path_type=str))
@click.option("--journal", metavar="DIR", help="Where the index is, as 'adopt' was told.")
@click.option(
    "--keep-journal", metavar="FILE", help="Write a copy of the journal there before it goes."
)
@pass_app
def release_tree_command(
    app: App, /, path: str | None, journal: str | None, keep_journal: str | None
) -> None:
    """End the index of an adopted tree, which is its program's as before.

    PATH is what was adopted, or the index itself [default: the store's directory]. The index and its
    journal are removed; nothing of the tree is.
    """
    from layerstore import releasing

    app.prepare_to_write()
    home = releasing.indexed_at(journal or path or str(app.settings.home))
    was = releasing.release(
        home,
        keep_journal=None if keep_journal is None else Path(keep_journal).absolute(),
        timeout=app.settings.timeout,
    )
    if app.out.json:
        app.out.document(home=home, tree=None if was is None else was.tree)
    else:
        whose = "another program's" if was is None else f"{was.owner}'s"
        app.out.note(f"{home if was is None else was.tree} is {whose} alone, as before.")
