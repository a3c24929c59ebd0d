"""Owns tar, in and out, for layers: `unpack` makes a directory of a stream, `pack` a stream of a
directory; it must not know what a store is.

    member    what one entry is; limits
    source    the bytes: gzip, zstd, sha256, ratio
    pax       extended headers and sparse maps
    reader    headers, one entry at a time
    place     where an entry goes
    unpack    entries become files below a directory
    dialect   what writers of archives do not agree on
    header    entries become headers
    pack      files below a directory become entries
"""

from layerstore.fs.archive.dialect import DIALECTS
from layerstore.fs.archive.member import Limits, MapIds
from layerstore.fs.archive.pack import Selection, pack
from layerstore.fs.archive.source import Readable
from layerstore.fs.archive.unpack import Unpacked, unpack

__all__ = ["DIALECTS", "Limits", "MapIds", "Readable", "Selection", "Unpacked", "pack", "unpack"]
