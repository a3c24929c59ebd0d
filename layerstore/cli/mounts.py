"""Owns `mount` and `umount`: taking a hold on a layer under a name, and giving it back."""

from __future__ import annotations

import os

import click

from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.output import many

HOLDER = click.option(
    "--holder",
    metavar="NAME",
    help="Whose hold it is [LAYERSTORE_HOLDER; default: cli]. It outlives this command.",
)


@click.command("mount", cls=Command)
@click.argument("id", **LAYER)
@HOLDER
@click.option("--mount-label", default="", metavar="LABEL", help="The SELinux label of the mount.")
@click.option("--at", metavar="DIR", help="Show it there, read-only, without a hold.")
@pass_app
def mount_command(
    app: App,
    id: str,  # noqa: A002
    holder: str | None,
    mount_label: str,
    at: str | None,
) -> None:
    """Mount a layer and print the path where its files are.

    Each mount is a hold in the name of the holder: give it back with 'layerstore umount', as often
    as it was taken. A layer with children is mounted read-only. A layer without a parent needs no
    mount, and its path is its own directory.

    With --at the layer is shown in a directory of yours instead, also one of an adopted tree. The
    store does not remember that: 'umount DIR' ends it, and a reboot.
    """
    if at is not None:
        _show(app, id, at, mount_label)
        return
    name = holder if holder is not None else app.settings.holder
    with app.store() as store:
        layer = resolve(store, id)
        path = store.get(layer, holder=name, mount_label=mount_label)
    if app.out.json:
        app.out.document(id=layer, path=path, holder=name)
    else:
        app.out.line(os.fspath(path))


def _show(app: App, text: str, at: str, label: str) -> None:
    from layerstore import showing

    with app.reader() as reader:
        layer = resolve(reader, text)
        path = showing.show(reader, layer, at, mount_label=label)
    if app.out.json:
        app.out.document(id=layer, path=path, holder=None)
    else:
        app.out.line(path)


@click.command("umount", cls=Command)
@click.argument("id", **LAYER)
@HOLDER
@pass_app
def umount_command(app: App, id: str, holder: str | None) -> None:  # noqa: A002
    """Give one hold of a layer back; the last one unmounts it."""
    name = holder if holder is not None else app.settings.holder
    with app.store() as store:
        layer = resolve(store, id)
        unmounted = store.put(layer, holder=name)
        left = sum(hold.count for hold in store.holders(layer))
    if app.out.json:
        app.out.document(id=layer, holder=name, unmounted=unmounted, holds_left=left)
    elif left:
        app.out.note(f"{layer} keeps {many(left, 'hold')}.")
    else:
        app.out.note(f"{layer} is unmounted." if unmounted else f"{layer} is held by nobody.")
