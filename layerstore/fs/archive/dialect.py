"""Owns the ways in which writers of layers tell the same entries; it must not write any.

A digest is one of bytes. Docker's own overlay2 driver tells a container's files as its pkg/archive and
Go's archive/tar do, not the same in all versions: whoever wants the same digest has to tell them so.
"""

from __future__ import annotations

import functools
from typing import Final

import attrs


@attrs.frozen
class Dialect:
    """What the writers of archives do not agree on."""

    type_bits: bool = False
    """The type of a file stands within its mode too, as before Go 1.9."""
    owner_names: bool = False
    """Beside the numbers of owners stand the names that this machine has for them."""
    splits_names: bool = False
    """A long name that ustar can hold in two fields needs no record."""
    marks_charset: bool = True
    """A name that is not UTF-8 is announced: bsdtar refuses it without that."""
    only_xattrs: frozenset[str] | None = None
    """The xattrs that are told; None: all that a layer can keep."""
    links_repeat: bool = False
    """A further name of a file has its xattrs once more, and a whiteout the name of one before it that
    is the same inode."""


OWN: Final = Dialect()
"""The same on every machine, and nothing left out."""
_DOCKER: Final = Dialect(
    splits_names=True,
    marks_charset=False,
    only_xattrs=frozenset({"security.capability"}),
    links_repeat=True,
)
DIALECTS: Final = {
    "own": OWN,
    # https://github.com/moby/moby/pull/44083 took the type bits out
    "docker-24": _DOCKER,
    "docker-23": attrs.evolve(_DOCKER, type_bits=True),
    "docker-20.10": attrs.evolve(_DOCKER, type_bits=True, owner_names=True),
}
"""By the first version of Docker whose overlay2 tells entries so."""


@functools.lru_cache(maxsize=4096)
def owner_names(uid: int, gid: int) -> tuple[bytes, bytes]:
    """What this machine calls a user and a group; empty where it has no name for them."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(uid).pw_name.encode()
    except (KeyError, OverflowError):
        user = b""
    try:
        group = grp.getgrgid(gid).gr_name.encode()
    except (KeyError, OverflowError):
        group = b""
    return user, group
