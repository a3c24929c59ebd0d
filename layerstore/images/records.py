"""Owns what a store remembers of an image besides its layers: its config and its names; it must not
know where they came from.

A record is a file of its own, named by the digest of the config, which it holds byte for byte. Two
images can have the same layers and two configs, so this cannot be a part of a layer. A record whose
layer is gone counts no more, and the next import deletes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.errors import Busy
from layerstore.fs import durable, layout
from layerstore.reader import Reader

_FORMAT: Final = 1
_PATIENCE: Final = 30.0
"""Seconds to wait for another import's record, which takes some milliseconds."""


@attrs.frozen
class Record:
    """An image that was imported: `layer` is its top."""

    layer: str
    config: bytes
    names: tuple[str, ...]

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.config).hexdigest()}"


def write(home: Path, record: Record) -> None:
    """Put a record in place, synced; one of the same image keeps its names, too."""
    directory = home / layout.IMAGES
    if not directory.exists():
        directory.mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
        durable.sync_directory(os.fspath(home / layout.OWN))
    with _alone(home) as had:
        if not had:
            raise Busy(f"Another import has the records in {directory}.", hint="Try again.")
        _write(home, record)


def _write(home: Path, record: Record) -> None:
    before = _read(_path(home, record.digest))
    names = list(dict.fromkeys((*(before.names if before else ()), *record.names)))
    fields = {
        "format": _FORMAT,
        "layer": record.layer,
        "names": names,
        "config": record.config.decode(),
    }
    # An open sweeps what a kill leaves there.
    own = os.fspath(home / layout.OWN)
    path = os.fspath(_path(home, record.digest))
    durable.replace_file(path, json.dumps(fields), mode=0o600, beside=own)


def _alone(home: Path) -> AbstractContextManager[bool]:
    """One at a time writes: a record that is being swept may be written anew this moment."""
    from layerstore.fs import locks

    return locks.alone(os.fspath(home / layout.IMAGES / "lock"), timeout=_PATIENCE)


def listed(reader: Reader) -> Iterator[Record]:
    """The records whose layer is there, in the order of their configs' digests."""
    for path in _paths(reader.home):
        record = _read(path)
        if record is not None and reader.exists(record.layer):
            yield record


def of_layer(reader: Reader, layer: str) -> list[Record]:
    """The images that a layer is the top of."""
    return [record for record in listed(reader) if record.layer == layer]


def sweep(reader: Reader) -> None:
    """Delete the records of layers that are gone. A record is written after its layers."""
    if all(_is_current(reader, path) for path in _paths(reader.home)):
        return
    with _alone(reader.home) as had:
        for path in _paths(reader.home) if had else ():
            if not _is_current(reader, path):
                path.unlink(missing_ok=True)


def _is_current(reader: Reader, path: Path) -> bool:
    record = _read(path)
    return record is None or reader.exists(record.layer)


def _paths(home: Path) -> list[Path]:
    return sorted((home / layout.IMAGES).glob("*.json"))


def _path(home: Path, digest: str) -> Path:
    return home / layout.IMAGES / f"{digest.partition(':')[2]}.json"


def _read(path: Path) -> Record | None:
    """A record; None where there is none, or what is there is none: an import writes it anew."""
    try:
        fields: Any = json.loads(path.read_bytes())
        record = Record(fields["layer"], fields["config"].encode(), tuple(fields["names"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    texts = all(isinstance(x, str) for x in (record.layer, *record.names))
    return record if texts and path.stem == record.digest.partition(":")[2] else None
