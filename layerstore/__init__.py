"""layerstore: an overlay2 layer store that cannot be caught half-done. The public names, and only those.

They are resolved when they are asked for: a command that only reads does not pay for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerstore.answers import Compaction, Entry, Removal, State, Status
    from layerstore.errors import LayerstoreError
    from layerstore.model import Hold, Layer, Mount, Owner
    from layerstore.reader import Reader
    from layerstore.store import Store

_HOMES = {
    "Store": "store",
    "Reader": "reader",
    "LayerstoreError": "errors",
    "Compaction": "answers",
    "Entry": "answers",
    "Hold": "model",
    "Layer": "model",
    "Mount": "model",
    "Owner": "model",
    "Removal": "answers",
    "State": "answers",
    "Status": "answers",
}

__all__ = [
    "Compaction",
    "Entry",
    "Hold",
    "Layer",
    "LayerstoreError",
    "Mount",
    "Owner",
    "Reader",
    "Removal",
    "State",
    "Status",
    "Store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
