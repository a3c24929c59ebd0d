"""Owns the steps that only repairs have, as values; it must not perform one. `steps` has all others.

Paths are relative to the home, and a step can be repeated. They are had from `steps`, too.
"""

from __future__ import annotations

import attrs

from layerstore.values import value


@value
@attrs.frozen(repr=False, eq=False)
class SetAside:
    """Rename onto a name that must not exist; done already if it does, nothing to do if `source` is gone."""

    source: str
    target: str

    def describe(self) -> str:
        return f"set {self.source} aside as {self.target}"


@value
@attrs.frozen(repr=False, eq=False)
class PutInPlace:
    """Rename onto a name that must not exist; done already if `source` is gone, or the two are alike."""

    source: str
    target: str

    def describe(self) -> str:
        return f"put {self.source} in place as {self.target}"


@value
@attrs.frozen(repr=False, eq=False)
class RemoveFile:
    """Unlink; an absent one is fine."""

    path: str

    def describe(self) -> str:
        return f"remove file {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class SetMode:
    """Change mode and owner of what is there, and never of what a link leads to."""

    path: str
    mode: int
    uid: int | None

    def describe(self) -> str:
        return f"give {self.path or 'home'} the mode {self.mode:04o}"
