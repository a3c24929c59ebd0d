"""Owns what names of layers look like in trees of others; it must not look at a tree."""

from __future__ import annotations

import re
from typing import Final

DIGEST_LIKE: Final = "digest"
INIT: Final = "init"
BUILDKIT: Final = "buildkit"

_SHAPES: Final = {
    DIGEST_LIKE: re.compile(r"[0-9a-f]{64}"),
    INIT: re.compile(r"[0-9a-f]{64}-init"),
    # BuildKit draws 25 characters of base 36, and its mounts add an ending.
    BUILDKIT: re.compile(r"[0-9a-z]{25}(-[0-9a-z]+)?"),
}


def shape_of(name: str) -> str | None:
    """Which program's layer this could be, by its name alone; None: nobody's that is known."""
    return next((shape for shape, form in _SHAPES.items() if form.fullmatch(name)), None)
