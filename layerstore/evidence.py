"""Owns what the disk says about an operation that was left open; it must not conclude anything."""

from __future__ import annotations

from layerstore import events as e
from layerstore import repair_steps, state
from layerstore.fs import files, layout


def gather(home: str, operation: str, intent: e.Intent) -> state.Evidence:
    """What the disk says about an operation."""
    return state.Evidence(
        present=files.is_there(f"{home}/{intent.layer}"),
        trashed=files.is_there(f"{home}/{layout.trash(operation)}"),
        applied=isinstance(intent, e.LayerApplyIntended)
        and files.is_applied(home, operation, intent.layer),
        moved=isinstance(intent, e.RepairIntended) and _is_moved(home, operation, intent),
    )


def _is_moved(home: str, operation: str, intent: e.RepairIntended) -> bool:
    there = files.is_there(f"{home}/{intent.path}")
    if intent.put in ("mode", "unmount"):
        return False  # nothing is lost by it, and nothing won by insisting
    if intent.put == "trash":
        return not there
    if intent.aside:
        return files.is_there(f"{home}/{repair_steps.set_aside_at(operation, intent.path)}")
    return there
