"""Owns the commands that ask the index: `ls`, `tree`, `inspect`, `lowers`, `holders`, `whose`.

None of them writes, settles, or imports anything heavy.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.output import age, many, pairs, size, when
from layerstore.fs import layout
from layerstore.model import Hold, Layer, LayerState, Manifest, Mount

if TYPE_CHECKING:
    from layerstore.answers import Quota
    from layerstore.reader import Reader


def _label_filters(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, str]:
    """`label=K` or `label=K=V`; an empty value means that the key is there."""
    wanted: dict[str, str] = {}
    for item in value:
        kind, _, rest = item.partition("=")
        key, _, text = rest.partition("=")
        if kind != "label" or not key:
            raise click.BadParameter(f"{item!r} is not label=KEY or label=KEY=VALUE.", ctx, param)
        wanted[key] = text
    return wanted


@click.command("ls", cls=Command)
@click.option(
    "--filter",
    "filters",
    metavar="label=K[=V]",
    multiple=True,
    callback=_label_filters,
    help="Only layers with this label; several have to hold at once.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@pass_app
def ls_command(app: App, filters: dict[str, str], quiet: bool) -> None:
    """List the layers."""
    with app.reader() as reader:
        layers = reader.layers(labels=filters or None)
        if app.out.json:
            app.out.document(layers=list(layers))
        elif quiet or app.out.quiet:
            for layer in layers:
                app.out.line(layer.id)
        else:
            holds = _counts(reader.holders())
            mounted = {mount.layer for mount in reader.mounts()}
            app.out.table(
                ("ID", "PARENT", "DEPTH", "STATE", "HOLDS", "CREATED", "LABELS"),
                (
                    (
                        layer.id,
                        layer.parent or "-",
                        str(layer.depth),
                        _state(layer, layer.id in mounted),
                        str(holds.get(layer.id, 0)),
                        age(layer.created_at),
                        pairs(layer.labels),
                    )
                    for layer in layers
                ),
            )


def _state(layer: Layer, mounted: bool) -> str:
    """One word for what a layer is now."""
    if layer.damage:
        return "damaged"
    if layer.draining:
        return "draining"
    if layer.state is LayerState.READY and mounted:
        return "mounted"
    return layer.state.value


def _counts(holds: Iterable[Hold]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for hold in holds:
        counts[hold.layer] = counts.get(hold.layer, 0) + hold.count
    return counts


@click.command("tree", cls=Command)
@pass_app
def tree_command(app: App) -> None:
    """Show the layers as a tree, each below its parent."""
    with app.reader() as reader:
        layers = {layer.id: layer for layer in reader.layers()}
        holds = _counts(reader.holders())
        mounted = {mount.layer for mount in reader.mounts()}
    if app.out.json:
        app.out.document(layers=[{"id": x.id, "parent": x.parent} for x in layers.values()])
        return
    children: dict[str | None, list[Layer]] = {}
    for layer in layers.values():
        # A parent that the index lost must not hide its children.
        parent = layer.parent if layer.parent in layers else None
        children.setdefault(parent, []).append(layer)
    # Without recursion: a chain may be 499 layers deep.
    pending = [("", "", layer) for layer in reversed(children.get(None, []))]
    while pending:
        stem, indent, layer = pending.pop()
        words = []
        if (state := _state(layer, layer.id in mounted)) != "ready":
            words.append(state)
        if count := holds.get(layer.id, 0):
            words.append(many(count, "hold"))
        if layer.labels:
            words.append(pairs(layer.labels))
        about = app.out.style(f"  ({'; '.join(words)})", dim=True) if words else ""
        app.out.line(f"{app.out.style(stem, dim=True)}{layer.id}{about}")
        below = children.get(layer.id, [])
        for number, child in reversed(list(enumerate(below, 1))):
            last = number == len(below)
            branch, rest = ("└── ", "    ") if last else ("├── ", "│   ")
            pending.append((indent + branch, indent + rest, child))


@click.command("inspect", cls=Command)
@click.argument("id", **LAYER)
@pass_app
def inspect_command(app: App, id: str) -> None:  # noqa: A002
    """Tell everything about a layer: what it is, its directories, its relatives, its holders."""
    with app.reader() as reader:
        layer = reader.layer(resolve(reader, id))
        ancestors = [above.id for above in reader.ancestors(layer.id)]
        children = [child.id for child in reader.children(layer.id)]
        paths = reader.metadata(layer.id)
        mount = reader.mount(layer.id)
        holds = reader.holders(layer.id)
        removal = reader.removal_effect(layer.id)
        quota = _quota(reader, layer.id)
        images = _images(reader, layer.id)
        manifest = reader.manifest(layer.id)
    if app.out.json:
        app.out.document(
            layer=layer,
            ancestors=ancestors,
            children=children,
            metadata=paths,
            mount=mount,
            holders=holds,
            removal=removal,
            quota=quota,
            images=[{"config_digest": digest, "names": names} for digest, names in images],
            manifest=manifest,
        )
        return
    blocked = "\n".join(removal.blocked_by)
    frees = f"yes; then {removal.frees_parent} could go" if removal.frees_parent else "yes"
    rows = [
        ("ID", layer.id),
        ("Link", layer.link),
        ("State", _state(layer, mount is not None)),
        ("Damage", layer.damage or ""),
        ("Parents", "\n".join(ancestors)),
        ("Depth", str(layer.depth)),
        ("Children", "\n".join(children)),
        ("Created", f"{when(layer.created_at)}, event {layer.created_seq}"),
        ("For", "a container" if layer.read_write else "an image"),
        ("Labels", pairs(layer.labels)),
        ("Options", pairs(layer.storage_options)),
        ("Quota", _limit(quota)),
        ("Content", "on disk" if layer.durable else "not known to be on disk"),
        ("Archive", _archive(layer)),
        ("Manifest", _manifest(manifest)),
        ("Image", "\n".join(f"{', '.join(names)} {digest}".strip() for digest, names in images)),
        *((key, value.replace(":", "\n")) for key, value in paths.items()),
        ("Mounted", _mounted(mount)),
        ("Holders", "\n".join(map(_hold, holds))),
        ("Removable", f"no: {blocked}" if blocked else frees),
    ]
    app.out.fields(row for row in rows if row[1])


def _images(reader: Reader, layer: str) -> list[tuple[str, tuple[str, ...]]]:
    """The config's digest and the names of each image that was imported as this layer."""
    if not (reader.home / layout.IMAGES).is_dir():
        return []
    from layerstore.images import records  # few stores have any

    return [(record.digest, record.names) for record in records.of_layer(reader, layer)]


def _quota(reader: Reader, layer: str) -> Quota | None:
    """What the kernel tells of a layer's limit; None also where it tells nothing."""
    try:
        return reader.quota(layer)
    except OSError:
        return None


def _limit(quota: Quota | None) -> str:
    if quota is None:
        return ""
    held = "" if quota.limit else ", which nothing enforces now"
    used = f"{quota.used} of {quota.size} bytes in {many(quota.inodes, 'inode')}"
    return f"{used}, project {quota.project}{held}"


def _mounted(mount: Mount | None) -> str:
    if mount is None:
        return ""
    return f"{'read-only' if mount.read_only else 'read-write'} since {when(mount.since)}"


def _hold(hold: Hold) -> str:
    by = f", by {_process(hold)}" if hold.taken_by else ""
    times = f" {hold.count} times" if hold.count > 1 else ""
    return f"{hold.holder}{times} since {when(hold.since)}{by}"


def _process(hold: Hold) -> str:
    owner = hold.taken_by
    return f"process {owner.pid} ({owner.command})" if owner else "-"


def _archive(layer: Layer) -> str:
    """What was applied to it."""
    if layer.diff_id is not None:
        return f"{layer.diff_id} ({size(layer.size or 0)})"
    return "one whose digest is not known, or one that broke off" if layer.applied else ""


def _manifest(manifest: Manifest | None) -> str:
    """What is recorded of its content."""
    if manifest is None:
        return ""
    return f"{many(manifest.files, 'entry', 'entries')}, recorded {when(manifest.since)}"


@click.command("lowers", cls=Command)
@click.argument("id", **LAYER)
@pass_app
def lowers_command(app: App, id: str) -> None:  # noqa: A002
    """List the directories below a layer, nearest first, as a mount takes them."""
    with app.reader() as reader:
        layer = resolve(reader, id)
        lowers = [os.fspath(path) for path in reader.lower_dirs(layer)]
    if app.out.json:
        app.out.document(id=layer, lowers=lowers)
        return
    for path in lowers:
        app.out.line(path)


@click.command("holders", cls=Command)
@click.argument("id", required=False, **LAYER)
@pass_app
def holders_command(app: App, id: str | None) -> None:  # noqa: A002
    """List who holds which layer, since when, and which process took the hold.

    A holder whose name starts with 'owner:' is a process that has the store open; its holds end
    with it. Other names outlive the process that took the hold.
    """
    with app.reader() as reader:
        holds = reader.holders(None if id is None else resolve(reader, id))
    if app.out.json:
        app.out.document(holders=list(holds))
        return
    app.out.table(
        ("LAYER", "HOLDER", "COUNT", "SINCE", "TAKEN BY"),
        (
            (hold.layer, hold.holder, str(hold.count), when(hold.since), _process(hold))
            for hold in holds
        ),
    )


@click.command("whose", cls=Command)
@click.argument("path", type=click.Path())
@pass_app
def whose_command(app: App, path: str) -> None:
    """Say which layer a path belongs to, with its chain, labels and holders.

    For a path below a mountpoint it also says from which layer of the chain the file comes.
    """
    absolute = os.path.abspath(path)
    with app.reader() as reader:
        layer = reader.layer(reader.resolve(absolute))
        chain = (layer, *reader.ancestors(layer.id))
        holds = reader.holders(layer.id)
        source = _source(reader, chain, absolute)
    if app.out.json:
        app.out.document(
            path=absolute,
            layer=layer,
            chain=[member.id for member in chain],
            labels=layer.labels,
            holders=holds,
            source=source,
        )
        return
    rows = [
        ("Path", absolute),
        ("Layer", layer.id),
        ("Comes from", source or ""),
        ("Chain", "\n".join(member.id for member in chain)),
        ("Labels", pairs(layer.labels)),
        ("Holders", "\n".join(map(_hold, holds))),
    ]
    app.out.fields(row for row in rows if row[1])


def _source(reader: Reader, chain: tuple[Layer, ...], path: str) -> str | None:
    """The layer whose file shows at `path` below the mountpoint of chain[0], None elsewhere.

    What the merged view shows is the nearest layer's; whiteouts and opaque directories hide files
    from it, and then there is nothing at `path`.
    """
    merged = reader.tree / chain[0].id / "merged"
    if not Path(path).is_relative_to(merged) or not os.path.lexists(path):
        return None
    inner = Path(path).relative_to(merged)
    if inner == Path():
        return None
    for layer in chain:
        try:
            found = os.lstat(reader.tree / layer.id / "diff" / inner)
        except (FileNotFoundError, NotADirectoryError):
            continue
        whiteout = stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
        return None if whiteout else layer.id
    return None
