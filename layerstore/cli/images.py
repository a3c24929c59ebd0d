"""Owns `import` and `export`: images from archives, and archives of images."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import attrs
import click

from layerstore.cli import limits, progress
from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.appearing import appearing
from layerstore.cli.output import clean, many

if TYPE_CHECKING:
    from layerstore.reader import Reader


@click.command("import", cls=Command)
@click.argument("archive", metavar="ARCHIVE|-")
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Of an image for several platforms, take this one.  [default: this machine's]",
)
@click.option("--image", metavar="NAME", help="Of several images, the one of this name or digest.")
@limits.flags
@pass_app
def import_command(
    app: App,
    /,
    archive: str,
    platform: str | None,
    image: str | None,
    **most: str | None,
) -> None:
    """Make layers of an image.

    ARCHIVE is what 'docker save' or 'skopeo copy' write: a docker-archive or an OCI layout, as a tar
    or a directory; '-' is standard input. Every digest is verified. Layers are named by their chain
    ids, so that images share what they have in common, and an import that was interrupted goes on
    when it is repeated. The limits hold for each layer. Prints the id of the top layer.
    """
    from layerstore.images import import_image

    bounds = limits.of(app, **most)
    with app.store() as store, progress.bar(app.out, "importing") as advance:
        done = import_image(
            store,
            sys.stdin.buffer if archive == "-" else archive,
            platform=platform,
            name=image,
            limits=bounds,
            progress=advance,
        )
    if app.out.json:
        app.out.document(**attrs.asdict(done, recurse=False))
        return
    app.out.line(done.layer)
    new = sum(layer.new for layer in done.chain)
    named = clean(", ".join(done.names)) or "without a name"
    app.out.note(f"{many(len(done.chain), 'layer')}, {new} new; {named}")


@click.command("export", cls=Command)
@click.argument("id", **LAYER)
@click.option(
    "-o", "--output", metavar="FILE|-", help="Write there; a file appears when it is whole."
)
@click.option("--tag", "tags", metavar="NAME:TAG", multiple=True, help="Name the image so.")
@click.option("--image", metavar="NAME", help="Of several images of this layer, take this config.")
@click.option("--compress", is_flag=True, help="Compress the layers with gzip.")
@pass_app
def export_command(
    app: App,
    id: str,  # noqa: A002 - click calls it by the word that the help shows
    output: str | None,
    tags: tuple[str, ...],
    image: str | None,
    compress: bool,
) -> None:
    """Write a layer and all below it as an image.

    It is an OCI layout in a tar, which 'docker load' takes as well. The same layers give the same
    bytes. The config (command, environment) is that of the image which was imported as this layer,
    or as the nearest one below it. With -o FILE, --json tells the digests.
    """
    from layerstore.images import export_image

    to_stdout = output in (None, "-")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("A tar is nothing for a terminal; give -o FILE, or a pipe.")
    if to_stdout and app.out.json:
        raise click.UsageError("The tar takes standard output; --json needs -o FILE.")
    with _asked(app) as reader, progress.bar(app.out, "exporting") as advance:
        layer = resolve(reader, id)
        with _target(None if to_stdout else output) as file:
            done = export_image(
                reader,
                layer,
                file,
                names=tags or None,
                image=image,
                compress=compress,
                note=app.out.note,
                progress=lambda done, files: advance(done, None, files),
            )
    if app.out.json:
        app.out.document(**attrs.asdict(done, recurse=False))


@contextlib.contextmanager
def _asked(app: App) -> Iterator[Reader]:
    """The store, to be asked; where ids are mapped, one that knows the maps."""
    maps = app.settings.uid_map or app.settings.gid_map
    with app.store() if maps else app.reader() as reader:
        yield reader


@contextlib.contextmanager
def _target(path: str | None) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole and synced; without a path, standard output.

    What goes to standard output is written to an unnamed temporary file first: that can be sought.
    """
    if path is None:
        with tempfile.TemporaryFile(prefix="layerstore-") as file:
            yield file
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        return
    with appearing(path, synced=True) as file:
        yield file
