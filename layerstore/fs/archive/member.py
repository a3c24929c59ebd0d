"""Owns what one entry of an archive is, and the limits of an archive; it must not read or write one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from layerstore.errors import InvalidArchive

BLOCK: Final = 512
LONGEST_NAME: Final = 4095
"""What the kernel takes as a path, without its NUL (PATH_MAX)."""
LARGEST_EXTENDED: Final = 1 << 20
"""Bytes of one extended header, long name or sparse map: as in Go's archive/tar."""

MapIds = Callable[[int, int], tuple[int, int]]
"""Maps a pair of owner and group; raises LookupError for one that has no image."""


@attrs.frozen
class Limits:
    """What an archive may grow to. 0: no limit.

    `bytes`: the apparent sizes of all files together, holes counted. `entries`: headers, extended
    ones too. `ratio`: bytes of the uncompressed stream per compressed byte, once there are
    `ratio_from` of them; gzip itself reaches 1,032.
    """

    bytes: int = 1 << 40
    entries: int = 10_000_000
    ratio: int = 2_000
    ratio_from: int = 1 << 28


@attrs.define
class Member:
    """One entry. `name` and `link` are as the archive has them; `kind` is the type flag.

    `size`: bytes of data in the archive; `real_size`: of the file, which differs for a sparse one,
    whose data lie at the (offset, length) of `sparse`.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] | None = None
    sparse: list[tuple[int, int]] | None = None
    real_size: int = 0


def shown(name: bytes) -> str:
    """A name for a message: printable, and not longer than a line or two."""
    text = name[:200].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"{text}…" if len(name) > 200 else text


def beyond(limit: str, name: bytes | None, why: str) -> InvalidArchive:
    """The error for an archive that is larger than it may be; `limit` is a field of Limits."""
    setting = "size" if limit == "bytes" else limit
    return InvalidArchive(
        why,
        member=None if name is None else shown(name),
        hint=f"If it is to be trusted, raise the limit max_{setting} (0: none): --max-{setting}, "
        f"LAYERSTORE_MAX_{setting.upper()}, or Limits({limit}=…) in the library.",
    )


def bad(name: bytes | None, why: str) -> InvalidArchive:
    """The error that says what is wrong with an entry, or with the archive."""
    return InvalidArchive(why, member=None if name is None else shown(name))
