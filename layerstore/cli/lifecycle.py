"""Owns `init`, `create` and `rm`: how a store and its layers come to be, and how they go."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from layerstore.cli import exits
from layerstore.cli.app import LAYER, App, Command, key_values, pass_app, resolve
from layerstore.errors import LayerstoreError, UnknownLayer
from layerstore.model import DEFAULT_DEPTH, MAX_DEPTH, LayerId, check_layer_id

if TYPE_CHECKING:
    from layerstore.store import Store


@click.command("init", cls=Command)
@click.option(
    "--max-depth",
    type=click.IntRange(1, MAX_DEPTH),
    default=DEFAULT_DEPTH,
    show_default=True,
    metavar="N",
    help=f"How many layers may lie below one; at most {MAX_DEPTH}.",
)
@pass_app
def init_command(app: App, max_depth: int) -> None:
    """Make an empty store.

    The directory is made where it is missing. Before anything is written to it, the file system is
    asked whether it can carry overlay mounts.
    """
    from layerstore.store import Store

    app.prepare_to_write()
    home = app.settings.home
    if "home" not in app.settings.origins:
        with contextlib.suppress(OSError):  # then the library says what is wrong
            home.parent.mkdir(parents=True, exist_ok=True)  # ~/.local/share of a new user
    Store.initialize(home, max_depth=max_depth)
    if app.out.json:
        app.out.document(home=home, max_depth=max_depth)
    else:
        app.out.note(f"Made an empty store at {home}.")


@click.command("create", cls=Command)
@click.argument("id")
@click.option("--parent", metavar="ID", **LAYER, help="The layer to stack it on.")
@click.option("--read-write", is_flag=True, help="It is for a container rather than for an image.")
@click.option(
    "--label",
    "labels",
    metavar="K=V",
    multiple=True,
    callback=key_values,
    help="A label; may be given several times.",
)
@click.option(
    "--storage-opt",
    "options",
    metavar="K=V",
    multiple=True,
    callback=key_values,
    help="A storage option of a read-write layer: size=10G.",
)
@pass_app
def create_command(
    app: App,
    id: str,  # noqa: A002 - click calls it by the word that the help shows
    parent: str | None,
    read_write: bool,
    labels: dict[str, str],
    options: dict[str, str],
) -> None:
    """Create a layer and print its id.

    It is there when the command has ended, and not a moment earlier. An id that is taken is
    refused. ID is 1 to 128 of A-Z a-z 0-9 _ . - and starts with a letter or digit.
    """
    wanted = check_layer_id(id)
    with app.store() as store:
        create = store.create_read_write if read_write else store.create
        layer = create(
            wanted,
            parent=None if parent is None else resolve(store, parent),
            labels=labels or None,
            storage_options=options or None,
        )
    if app.out.json:
        app.out.document(layer=layer)
    elif not app.out.quiet:
        app.out.line(layer.id)


@click.command("rm", cls=Command)
@click.argument("ids", nargs=-1, required=True, metavar="ID...", **LAYER)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="A layer that is not there is removed already. Takes whole ids only, no beginnings.",
)
@pass_app
@click.pass_context
def rm_command(ctx: click.Context, app: App, ids: tuple[str, ...], force: bool) -> None:
    """Remove layers and print their ids.

    A layer with children or holders is refused, also with --force. Of several layers the highest
    go first, and one that fails does not stop the others: exit code 3 says that some failed, and
    if all failed for one reason the code is that reason's.
    """
    removed: list[str] = []
    failures: list[tuple[str, LayerstoreError]] = []
    with app.store() as store:
        for text, target in _targets(store, ids, force=force):
            try:
                if isinstance(target, LayerstoreError):
                    raise target
                store.remove(target)
            except UnknownLayer as error:
                if not force:
                    failures.append((text, error))
            except LayerstoreError as error:
                failures.append((text, error))
            else:
                removed.append(target)
                if not app.out.json and not app.out.quiet:
                    app.out.line(target)
    for _, failure in failures:
        app.fail(failure)
    if app.out.json:
        failed = [{"id": text, "code": failure.code} for text, failure in failures]
        app.out.document(removed=removed, failed=failed)
    if failures:
        codes = {failure.exit_code for _, failure in failures}
        some = bool(removed) or len(failures) < len(set(ids))
        ctx.exit(exits.SOME_FAILED if some else codes.pop() if len(codes) == 1 else exits.FAILED)


def _targets(
    store: Store, ids: Sequence[str], *, force: bool
) -> list[tuple[str, LayerId | LayerstoreError]]:
    """What each word means, before the first removal changes it; children before parents.

    With --force a word has to be the whole id: a script that repeats `rm -f base` after it
    succeeded must not hit `base2`, of which `base` has become a unique beginning.
    """
    found: dict[LayerId, tuple[str, int]] = {}
    failed: list[tuple[str, LayerId | LayerstoreError]] = []
    for text in dict.fromkeys(ids):
        try:
            layer = store.layer(check_layer_id(text) if force else resolve(store, text))
        except LayerstoreError as error:
            failed.append((text, error))
        else:
            found.setdefault(layer.id, (text, layer.depth))
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    return [*((text, layer) for layer, (text, _) in ordered), *failed]
