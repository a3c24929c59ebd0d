"""Owns reading the small files of the layout; it must not write, nor trust what it reads."""

from __future__ import annotations

import errno
import os

from layerstore.errors import LayerDamaged
from layerstore.fs import layout


def read_symlink(path: str) -> str:
    """What a symbolic link reads; empty if it is none, or cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def uses_user_xattrs(home: str) -> bool:
    """Whether the layers of this store are marked by `user.overlay.*` and not `trusted.overlay.*`."""
    return os.path.lexists(f"{home}/{layout.USER_XATTRS}")


NOT_A_FILE = "<not a regular file>"
NOT_A_LINK = "<not a symbolic link>"


def _read_small(path: str) -> str | None:
    """The text of a small file of the layout; None if it is absent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return NOT_A_FILE
        raise
    try:
        return os.read(descriptor, 1 << 16).decode(errors="replace")
    except IsADirectoryError:
        return NOT_A_FILE
    finally:
        os.close(descriptor)


def read_link(home: str, layer: str) -> str | None:
    """The text of `<layer>/link`, unchecked; None if it is absent."""
    return _read_small(f"{home}/{layout.link_file(layer)}")


def read_lower(home: str, layer: str) -> str | None:
    """The text of `<layer>/lower`, unchecked; None if it is absent."""
    return _read_small(f"{home}/{layout.lower_file(layer)}")


def verify(home: str, layer: str, link: str, lower: str) -> None:
    """Raise LayerDamaged, saying which file and how, unless `link` and `lower` read as expected."""
    found = read_link(home, layer)
    if found != link:
        raise LayerDamaged(layer, difference("link", found, link))
    text = read_lower(home, layer)
    if (text or "") != lower or (text is not None) != bool(lower):
        raise LayerDamaged(layer, difference("lower", text, lower))


def difference(name: str, found: str | None, wanted: str) -> str:
    if found is None:
        return f"its {name} file is missing"
    if not found:
        return f"its {name} file is empty"
    if not wanted:
        return f"it has a {name} file, and the index knows no parent"
    return f"its {name} file reads {found[:60]!r} instead of {wanted[:60]!r}"
