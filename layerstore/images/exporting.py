"""Owns making an image of a layer and what is below it; it must not name or place a file.

The config is that of the image which was imported as this layer. A layer that was built upon one
has the same settings (Cmd, Env and so on), and a config of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Final

import attrs

from layerstore.errors import InvalidArgument, UnknownLayer
from layerstore.images import documents, model, records
from layerstore.images.writing import ImageWriter, document
from layerstore.model import Layer
from layerstore.reader import Reader

Progress = Callable[[int, int], None]
"""Told how many bytes of how many files were packed."""

_NO_TIME: Final = "1970-01-01T00:00:00Z"


@attrs.frozen
class Exported:
    """What an export wrote: the image's digests, names, and the DiffIDs of its layers."""

    layer: str
    manifest_digest: str
    config_digest: str
    diff_ids: tuple[str, ...]
    names: tuple[str, ...]
    same_config: bool
    """The config is that of the import, byte for byte."""


def export_image(
    reader: Reader,
    id: str,  # noqa: A002 - the field's name for it
    file: IO[bytes],
    *,
    names: Sequence[str] | None = None,
    image: str | None = None,
    compress: bool = False,
    note: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a layer and everything below it as an image: an OCI layout that `docker load` takes too.

    `file`: empty, binary, and one that can be sought. The same chain gives the same bytes. `names`
    (`name:tag`): by default those of the import. `image`: which one, by name or the beginning of its
    config's digest, where several were imported as this layer. `note` is told of what is left out,
    `progress` how many bytes and files were packed. Raises what Reader.diff raises, and InvalidArgument.
    """
    layer = reader.layer(id)
    chain = [*reversed(reader.ancestors(id)), layer]
    if len(chain) != layer.depth + 1:
        raise UnknownLayer(id)  # something of it was removed this moment
    record = _record(reader, chain, image)
    if names is not None:
        for name in names:
            if not model.TAGGED.fullmatch(name):
                raise InvalidArgument(
                    f"{name!r} is no name of an image.", hint="A name is written as shop/web:1.2."
                )
    elif record is not None and record.layer == id:
        names = record.names
    writer = ImageWriter(file, compress=compress)
    follow = _Following(progress)
    for one in chain:
        follow.layer()
        pieces = reader.diff(one.id, note=note, progress=follow.files)
        writer.add_layer(pieces if progress is None else follow.bytes(pieces))
    diff_ids = [written.diff_id for written in writer.layers]
    config = _config(record, diff_ids)
    fields = documents.parse(config, "the config")
    manifest = writer.finish(config, documents.platform_of(fields, "the config"), names or ())
    digest = records.Record(id, config, ()).digest
    same = record is not None and record.digest == digest
    return Exported(
        id, manifest.digest, digest, tuple(diff_ids), tuple(names or ()), same_config=same
    )


class _Following:
    """Counts what goes into an image, over all of its layers."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bytes = self._before = self._now = 0

    def layer(self) -> None:
        """The next one begins."""
        self._before = self._now

    def files(self, count: int) -> None:
        self._now = self._before + count

    def bytes(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._bytes += len(piece)
            if self._progress is not None:
                self._progress(self._bytes, self._now)
            yield piece


def _record(reader: Reader, chain: list[Layer], wanted: str | None) -> records.Record | None:
    """The image that the nearest layer of the chain was imported as."""
    found = list(records.listed(reader))
    for layer in reversed(chain):
        fitting = [record for record in found if record.layer == layer.id]
        if wanted is not None:
            fitting = [record for record in fitting if _is_called(record, wanted)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            called = "; ".join(", ".join(x.names) or x.digest[:19] for x in fitting)
            raise InvalidArgument(
                f"{len(fitting)} images were imported as layer {layer.id}: {called}.",
                hint="--image says by name or digest which one's config is meant.",
            )
    if wanted is not None:
        raise InvalidArgument(f"No image that is called {wanted} was imported as this layer.")
    return None


def _is_called(record: records.Record, name: str) -> bool:
    encoded = name.removeprefix("sha256:")
    by_digest = len(encoded) >= 6 and record.digest.partition(":")[2].startswith(encoded)
    return by_digest or not {name, f"{name}:latest"}.isdisjoint(record.names)


def _config(record: records.Record | None, diff_ids: list[str]) -> bytes:
    """The config of the import where its layers are these; else one of these layers."""
    if record is None:
        fields = _plain()
    else:
        fields = documents.parse(record.config, "the config")
        if documents.rootfs(fields, "the config") == diff_ids:
            return record.config
    fields["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    fields["history"] = _history(fields.get("history"), len(diff_ids))
    return document(fields)


def _plain() -> dict[str, Any]:
    machine = model.this_machine(os.uname().machine)
    variant = {"variant": machine.variant} if machine.variant else {}
    return {
        "created": _NO_TIME,
        "architecture": machine.architecture,
        **variant,
        "os": machine.os,
        "config": {},
    }


def _history(history: Any, layers: int) -> list[Any]:
    """As many entries as there are layers, besides those that made none."""
    listed = history if isinstance(history, list) else []
    entries = [entry for entry in listed if isinstance(entry, dict)]
    with_layer = [entry for entry in entries if not entry.get("empty_layer")]
    if len(with_layer) > layers:
        entries, with_layer = [], []
    more = layers - len(with_layer)
    return entries + [{"created": _NO_TIME, "created_by": "layerstore export"}] * more


def settings(config: bytes) -> dict[str, Any]:
    """What a config says a container runs: Cmd, Entrypoint, Env, WorkingDir, User."""
    found = json.loads(config).get("config")
    return found if isinstance(found, dict) else {}
