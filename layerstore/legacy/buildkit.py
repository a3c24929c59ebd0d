"""Owns what BuildKit's database of snapshots says within a Docker; it must not write, nor judge.

`snapshots.db` has a bucket for each snapshot. Its key is the name of the layer's directory, unless
it has a `committed`, which then is; keys that are digests are chain ids of Docker's layerdb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from layerstore.legacy import bbolt
from layerstore.legacy.manifest import Record, Role, Source
from layerstore.legacy.quietly import Unreadable

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


class Damaged(Exception):
    """The database cannot be read, so that nothing is known about its layers."""


def read(path: str, chains: Mapping[str, str]) -> Iterator[Record]:
    """A record for each snapshot. `chains`: the directory of each chain id. Raises Damaged."""
    try:
        snapshots = {
            key.decode(errors="replace"): {
                name.decode(errors="replace"): value.decode(errors="replace")
                for name, value in bucket.values().items()
            }
            for key, bucket in bbolt.read(path).buckets()
        }
    except (bbolt.Damaged, Unreadable) as error:
        raise Damaged(str(error)) from error
    for key, fields in snapshots.items():
        layer = _directory(key, fields, chains)
        if layer is None:
            continue
        parent = fields.get("parent", "")
        yield Record(
            layer=layer,
            source=Source.BUILDKIT,
            name=key,
            path=path,
            role=Role.CACHE,
            parent=_directory(parent, snapshots.get(parent, {}), chains) if parent else None,
        )


def _directory(key: str, fields: Mapping[str, str], chains: Mapping[str, str]) -> str | None:
    for name in (fields.get("chainid", ""), key, fields.get("committed", "")):
        if name in chains:
            return chains[name]
    layer = fields.get("committed") or key
    return layer if _NAME.fullmatch(layer) and not _DIGEST.fullmatch(layer) else None
