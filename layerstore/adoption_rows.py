"""Owns the columns that an adopted layer has in the index; it must not read the tree, nor write a row."""

from __future__ import annotations

import json
from typing import Any

from layerstore import events as e


def columns(event: e.LayerFound) -> dict[str, Any]:
    """The columns of a layer that an adopted tree decides about."""
    said = {
        "origin": event.origin,
        "role": event.role,
        "record": event.record,
        "names": ",".join(event.names),
        "digests": ",".join(event.digests),
        "created": event.created,
    }
    return {
        "id": event.layer,
        "link": event.link,
        "parent": event.parent,
        "lower": event.lower,
        "depth": event.depth,
        "committed": int(event.committed),
        "read_write": int(event.role == "container"),
        "labels": json.dumps({key: text for key, text in said.items() if text}, sort_keys=True),
        "storage_options": json.dumps({"size": str(event.limit)} if event.limit else {}),
        "damage": event.damage,
        "diff_id": event.diff_id or None,
        "size": event.size,
    }
