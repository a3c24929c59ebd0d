"""Owns the examination of a machine and of a place for a store; it must not change either, or repair.

What is tried out is tried in a directory of its own, which goes again: in the staging directory of
a store, else in the directory that is asked about.
"""

from __future__ import annotations

from pathlib import Path

from layerstore.doctor import machine, place, stored
from layerstore.doctor.checks import Health

__all__ = ["examine"]


def examine(home: Path, *, durability: str = "full", uid: int = 0) -> Health:
    """Everything that was looked at, with what it means and what to do.

    `home`: a store, a directory that could become one, or one that is missing, whose parent is
    then looked at. `uid`: the user's outside of the user namespace, 0 for root itself. OSError if
    nothing could be tried there.
    """
    checks = [*machine.examine(uid)]
    is_store = stored.is_store(home)
    checks += place.examine(home, is_store=is_store)
    if is_store:
        checks += stored.examine(home, durability=durability)
    return Health(home=str(home), is_store=is_store, checks=tuple(checks))
