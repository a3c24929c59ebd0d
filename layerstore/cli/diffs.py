"""Owns `apply`, `diff`, `changes` and `du`: archives in and out, and what layers hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Final

import click

from layerstore.cli import limits, progress
from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.appearing import appearing
from layerstore.cli.output import size
from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    from layerstore.fs.archive import Readable
    from layerstore.model import Layer
    from layerstore.reader import Reader

_LETTERS = {"add": "A", "modify": "C", "delete": "D"}
"""As `docker diff` has them."""
_OTHER: Final[dict[str, Any]] = {
    "metavar": "ID",
    "help": "Compare with this layer instead of its parent.",
    **LAYER,
}


@click.command("apply", cls=Command)
@click.argument("id", **LAYER)
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("--parent", metavar="ID", help="Refuse unless this is the layer's parent.")
@limits.flags
@pass_app
def apply_command(
    app: App,
    /,
    id: str,  # noqa: A002 - click calls it by the word that the help shows
    file: str,
    parent: str | None,
    **most: str | None,
) -> None:
    """Make an archive the content of an empty layer.

    FILE is a tar, plain or compressed with gzip or zstd; '-', the default, is standard input. The
    layer gets all of it or nothing, and takes one archive in its life, also if that breaks off.
    Prints the DiffID: the sha256 of the uncompressed tar.
    """
    bounds = limits.of(app, **most)
    with app.store() as store, _source(file) as stream:
        above = resolve(store, parent) if parent else parent
        layer_id = resolve(store, id)
        total = None if file == "-" else progress.size_of(file)
        with progress.counted(app.out, f"applying to {layer_id}", total) as counted:
            watched = progress.Watched(stream, counted)
            layer = store.apply_diff(
                layer_id, watched, parent=above, limits=bounds, progress=counted.files
            )
    if app.out.json:
        app.out.document(layer=layer)
    elif not app.out.quiet:
        app.out.line(layer.diff_id or "")


@contextlib.contextmanager
def _source(file: str) -> Iterator[Readable]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb", buffering=0) as opened:
        yield opened


def _target(path: str | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    if path is None:
        return contextlib.nullcontext(sys.stdout.buffer)
    return appearing(path, synced=False)


@click.command("diff", cls=Command)
@click.argument("id", **LAYER)
@click.option(
    "-o", "--output", metavar="FILE|-", help="Write there; a file appears when it is whole."
)
@click.option("--parent", **_OTHER)
@pass_app
def diff_command(
    app: App,
    id: str,  # noqa: A002
    output: str | None,
    parent: str | None,
) -> None:
    """Write the archive of what a layer has above its parent.

    The same layer gives the same bytes. An archive that breaks off has no end, and no reader of
    archives takes it for whole; the exit code says so too.
    """
    to_stdout = output in (None, "-")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("A tar is nothing for a terminal; give -o FILE, or a pipe.")
    with app.reader() as reader:
        other = None if parent is None else resolve(reader, parent)
        layer = resolve(reader, id)
        with contextlib.ExitStack() as stack:
            counted = stack.enter_context(progress.counted(app.out, "packing", None))
            pieces = reader.diff(layer, parent=other, note=app.out.note, progress=counted.files)
            stack.callback(pieces.close)  # type: ignore[attr-defined]  # it is a generator
            with _target(None if to_stdout else output) as file:
                for piece in pieces:
                    file.write(piece)
                    counted.bytes(len(piece))


@click.command("changes", cls=Command)
@click.argument("id", **LAYER)
@click.option("--parent", **_OTHER)
@pass_app
def changes_command(app: App, id: str, parent: str | None) -> None:  # noqa: A002
    """List what a layer changed: A added, C changed, D deleted.

    A directory in which something changed is changed itself; of what was deleted only the top is
    listed.
    """
    with app.reader() as reader:
        other = None if parent is None else resolve(reader, parent)
        found = reader.changes(resolve(reader, id), parent=other)
    if app.out.json:
        app.out.document(changes=found)
        return
    for change in found:
        app.out.line(f"{_LETTERS[change.kind]} {change.path}")


@click.command("du", cls=Command)
@click.argument("ids", nargs=-1, metavar="[ID...]", **LAYER)
@pass_app
def du_command(app: App, ids: tuple[str, ...]) -> None:
    """Say how large layers are.

    OWN is what a layer holds itself, SHARED what its parents hold below it, FREES what removing it
    would give back: nothing while it has children. Bytes are the sizes of files, hard links once.
    Without an ID, all layers. What was applied and not mounted to be written to since is not looked
    at: its size is known.
    """
    with app.reader() as reader:
        rows = list(_rows(reader, [resolve(reader, id) for id in ids]))  # noqa: A001
    if app.out.json:
        names = ("id", "own", "inodes", "shared", "frees")
        app.out.document(layers=[dict(zip(names, row, strict=True)) for row in rows])
        return
    app.out.table(
        ("ID", "OWN", "INODES", "SHARED", "FREES"),
        (
            (layer, size(held), str(inodes), size(shared), size(frees))
            for layer, held, inodes, shared, frees in rows
        ),
    )


def _rows(reader: Reader, wanted: list[str]) -> Iterator[tuple[str, int, int, int, int]]:
    """A line for each of these layers; for none of them: for all there are."""
    if wanted:
        found = [(reader.layer(id), bool(reader.children(id))) for id in wanted]  # noqa: A001
        below = {x.id: x for id in wanted for x in reader.ancestors(id)}  # noqa: A001
    else:  # every row once, and no question for each
        below = {layer.id: layer for layer in reader.layers()}
        parents = {layer.parent for layer in below.values()}
        found = [(layer, layer.id in parents) for layer in below.values()]
    own: dict[str, tuple[int, int]] = {}
    for layer, is_parent in found:
        held, inodes = _usage(reader, layer, own)
        shared, parent = 0, layer.parent
        while parent is not None:
            under = below.get(parent) or reader.layer(parent)  # it may be younger than the list
            below[parent] = under
            shared += _usage(reader, under, own)[0]
            parent = under.parent
        yield layer.id, held, inodes, shared, 0 if is_parent else held


def _usage(reader: Reader, layer: Layer, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if layer.id not in known:
        try:
            found = reader.usage_of(layer)
            known[layer.id] = (found.bytes, found.inodes)
        except LayerstoreError:
            if reader.layer(layer.id).damage is None:
                raise
            known[layer.id] = (0, 0)
    return known[layer.id]
