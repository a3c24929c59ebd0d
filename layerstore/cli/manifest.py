"""Owns the command `manifest`: recording what layers hold, and forgetting it."""

from __future__ import annotations

import click

from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.output import many, size


@click.command("manifest", cls=Command)
@click.argument("ids", nargs=-1, required=True, metavar="ID...", **LAYER)
@click.option("--drop", is_flag=True, help="Forget what was recorded.")
@pass_app
def manifest_command(app: App, ids: tuple[str, ...], drop: bool) -> None:
    """Record what layers hold, so that 'audit --content' can say what differs from it later.

    Of every file: path, kind, mode, owner, size, time, xattrs and the sha256 of its content. The
    layer has to be one that will not change: an archive was applied to it and nobody holds it, or
    something is built upon it. What was recorded stands until the layer is mounted read-write or
    removed, and recording it again changes nothing.
    """
    with app.store() as store:
        layers = [resolve(store, layer) for layer in ids]
        if drop:
            dropped = [layer for layer in layers if store.drop_manifest(layer)]
            if app.out.json:
                app.out.document(dropped=dropped)
            return
        made = []
        for layer in layers:
            made.append(found := store.record_manifest(layer))
            if not app.out.json and not app.out.quiet:
                held = many(found.files, "entry", "entries")
                app.out.line(f"{layer} {found.digest} {held}, {size(found.bytes)}")
        if app.out.json:
            app.out.document(manifests=made)
