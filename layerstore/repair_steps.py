"""Owns the steps of a repair, forwards and backwards; it must not touch disk or database.

Every repair of the tree is one movement: what lies at a path goes to the quarantine, with a note,
and something comes in its place; either half can be missing. What is in the quarantine already is
never replaced, so that all of it can be repeated.
"""

from __future__ import annotations

from typing import Final

from layerstore.fs import layout
from layerstore.fs import steps as s
from layerstore.repair_events import RepairIntended

Steps = tuple[s.Step, ...]

PUTS: Final = ("", "file", "link", "directory", "moved", "mode", "trash", "unmount")
"""Nothing; a file with a text; a symbolic link; a new directory; what lies elsewhere. Then three that
set nothing aside: another mode and owner; into the trash and away; the end of a mount."""
NOTE: Final = "NOTE"


def set_aside_at(operation: str, path: str) -> str:
    """Where a repair sets aside what lies at a path."""
    name = path.rpartition("/")[2]
    return f"{layout.quarantine(operation)}/{name + '.aside' if name == NOTE else name}"


def note(operation: str, intent: RepairIntended) -> str:
    """What stands beside it."""
    return (
        f"What:      {set_aside_at(operation, intent.path)}\n"
        f"From:      {intent.path}\n"
        f"Why:       {intent.code}: {intent.reason}\n"
        f"When:      {intent.at}\n"
        f"Operation: {operation}\n\n"
        f"'layerstore repair --undo {operation}' puts it back.\n"
        "'layerstore repair --empty-quarantine' removes it for good.\n"
    )


def forward(operation: str, intent: RepairIntended) -> Steps:
    match intent.put:
        case "mode":
            return (s.SetMode(intent.path, intent.mode, intent.uid),)
        case "unmount":
            return (s.Unmount(intent.path),)
        case "trash":
            away = layout.trash(operation)
            return (s.MoveAside(intent.path, away), s.RemoveTree(away))
    steps: list[s.Step] = []
    if intent.probe:
        steps.append(s.ProbeUpper(intent.layer, f"{layout.staging(operation)}-probe"))
    if intent.aside:
        steps += _set_aside(operation, intent)
    steps += _put(operation, intent)
    if intent.durable:
        steps.append(s.SyncDirectory(intent.path.rpartition("/")[0]))
    return tuple(steps)


def _set_aside(operation: str, intent: RepairIntended) -> list[s.Step]:
    """It is never without its note, and its new name is on disk before the old one is taken."""
    place = layout.quarantine(operation)
    text = note(operation, intent)
    steps: list[s.Step] = [
        s.MakeDirectory(place, layout.PRIVATE_MODE),
        s.WriteFile(f"{place}/{NOTE}", text, layout.FILE_MODE, intent.durable),
    ]
    if intent.durable:
        steps.append(s.SyncDirectory(layout.QUARANTINE))
    steps.append(s.SetAside(intent.path, set_aside_at(operation, intent.path)))
    if intent.durable:
        steps.append(s.SyncDirectory(place))
    return steps


def _put(operation: str, intent: RepairIntended) -> list[s.Step]:
    stage = layout.staging(operation)
    match intent.put:
        case "file":
            return [
                s.WriteFile(stage, intent.content, intent.mode, intent.durable),
                s.PutInPlace(stage, intent.path),
            ]
        case "link":
            return [s.MakeSymlink(intent.path, intent.content)]
        case "directory":
            made = s.MakeDirectory(intent.path, intent.mode, uid=intent.uid, gid=intent.gid)
            project = [s.SetProject(intent.path, intent.project)] if intent.project else []
            return [made, *project]
        case "moved":
            place = intent.content.rpartition("/")[0]
            steps: list[s.Step] = [s.PutInPlace(intent.content, intent.path)]
            if intent.durable:
                steps.append(s.SyncDirectory(place.rpartition("/")[0]))
            if place.startswith(f"{layout.QUARANTINE}/"):
                steps += _end_of(place)
            return steps
    return []


def _end_of(place: str) -> list[s.Step]:
    """The note goes, and the directory, if nothing else is in it."""
    return [s.RemoveFile(f"{place}/{NOTE}"), s.RemoveDirectory(place, full_is_fine=True)]


def backward(operation: str, intent: RepairIntended) -> Steps:
    """Only where nothing was set aside or put in place yet: its preparations go."""
    steps: list[s.Step] = []
    if intent.probe:
        steps.append(s.RemoveTree(f"{layout.staging(operation)}-probe"))
    if intent.put == "file":
        steps.append(s.RemoveFile(layout.staging(operation)))
    if intent.aside:
        steps += _end_of(layout.quarantine(operation))
    return tuple(steps)
