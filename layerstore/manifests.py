"""Owns the end of a manifest: what it says is not so any more, or nobody wants it; no verb.

The event comes first, under `full` synced, and before anything can be written to the layer: a row that
came back after a power cut would call damage what somebody wrote. The file counts for nothing then.
"""

from __future__ import annotations

import contextlib
import os

from layerstore import events as e
from layerstore.db import statements as sql
from layerstore.fs import layout
from layerstore.fs.trace import trace
from layerstore.recovery import Hands


def drop(hands: Hands, layer: str, reason: str) -> bool:
    """Have a manifest count no more; whether there was one. Raises InFlight."""

    def say_so() -> bool:
        with hands.journal.transaction(full=hands.full) as tx:
            tx.require_idle(layer)
            there = tx.one(sql.SELECT_MANIFEST, layer=layer) is not None
            if there:
                tx.append(e.ManifestDropped(layer, reason))
            return there

    trace("manifest:drop:before")
    there = hands.with_room(say_so)
    trace("manifest:drop:after")
    if there:
        hands.with_room(lambda: _remove_file(hands, layer))
        trace("manifest:file:after")
    return there


def _remove_file(hands: Hands, layer: str) -> None:
    """In a transaction, so that nobody records the layer anew meanwhile."""
    with hands.journal.transaction(full=False) as tx:
        recorded = tx.one(sql.SELECT_MANIFEST, layer=layer) is not None
        if recorded or tx.operation_on(layer) is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{hands.home}/{layout.manifest(layer)}")
