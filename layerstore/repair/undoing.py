"""Owns taking a repair back, and emptying the quarantine; it must not plan repairs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs

from layerstore import events as e
from layerstore import repair_steps
from layerstore.audit.weight import usage
from layerstore.errors import InvalidArgument, LayerstoreError, Refused
from layerstore.fs import files, layout
from layerstore.repair.acting import Worker, change
from layerstore.repair.case import seen_at
from layerstore.repair.forms import Act, Change, Done, Emptied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore import answers


STAYS: Final = {
    "unmount": "what was mounted there was a layer that is gone, and nobody's",
    "bring-back": "the layer is one of the index, and in the trash it would be lost; "
    "'layerstore rm' removes it",
    "empty-quarantine": "what it removed is gone for good",
}
"""Acts on the tree whose undo would be the damage again."""


def undo(worker: Worker, history: Iterable[answers.Entry], operation: str) -> Done:
    """Take back one repair, as long as what it set aside stands and nobody changed what it made.

    `history`: the events of repairs. Raises InvalidArgument for what is no repair, Refused.
    """
    intent = _intent(history, operation)
    home = worker.hands.home
    why = STAYS.get(intent.act)
    if why is not None:
        raise Refused(f"Operation {operation} ({intent.act}) is not taken back: {why}.")
    _check_as_made(home, intent)
    back = _back(home, intent, operation)
    seen = seen_at(home, intent.path)
    if not seen and not back.put:
        raise Refused(f"Nothing of operation {operation} is left to be taken back.")
    layer = None if intent.layer in (intent.path, ".") else intent.layer
    act = Act(
        "undo",
        f"take back {intent.act} of {intent.path or 'the home'}",
        layer=layer,
        path=intent.path,
        moves=bool(seen) and back.put != "mode",
        code=intent.code,
        reason=f"operation {operation} is taken back",
    )
    indexed = bool(layer) and bool(
        worker.hands.journal.database.read("SELECT 1 FROM layers WHERE id = :id", {"id": layer})
    )
    return change(worker, act, attrs.evolve(back, seen=seen, indexed=indexed), undoes=operation)


def _intent(history: Iterable[answers.Entry], operation: str) -> e.RepairIntended:
    """The intent of a repair that was done, and not taken back since."""
    found: e.RepairIntended | None = None
    undoing: dict[str, str] = {}
    ended: str | None = None
    taken_back: set[str] = set()
    for entry in history:
        event = entry.event
        if isinstance(event, e.RepairIntended):
            if entry.operation == operation:
                found = event
            undoing[entry.operation or ""] = event.undoes
        elif isinstance(event, e.Repaired):
            if entry.operation == operation:
                ended = "done"
            taken_back.add(undoing.get(entry.operation or "", ""))
    if found is None or ended is None:
        raise InvalidArgument(
            f"There is no repair {operation!r} that was done.",
            hint="'layerstore log --kind repair.' lists them, each with its operation.",
        )
    if operation in taken_back:
        raise Refused(f"Operation {operation} was taken back already.")
    return found


def _check_as_made(home: str, intent: e.RepairIntended) -> None:
    """Refused unless what lies there now is what the repair put there, unused."""
    path = f"{home}/{intent.path}" if intent.path else home
    match intent.put:
        case "":
            same = not os.path.lexists(path)
        case "file":
            same = _text(path) == intent.content
        case "link":
            same = os.path.islink(path) and files.read_symlink(path) == intent.content
        case "directory":
            same = os.path.isdir(path) and not os.path.islink(path) and files.is_empty(path)
        case "mode":
            same = os.path.lexists(path) and _mode(path) == intent.mode
        case _:
            same = os.path.lexists(path)
    if not same:
        raise Refused(
            f"{intent.path or 'The home'} is not as that repair left it, and is not touched.",
            hint=f"What was set aside, if anything, is in {layout.QUARANTINE}/.",
        )


def _text(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.read(descriptor, 1 << 16).decode(errors="replace")
    finally:
        os.close(descriptor)


def _mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def _back(home: str, intent: e.RepairIntended, operation: str) -> Change:
    """What puts back what was there before."""
    if intent.put == "mode":
        status = os.lstat(f"{home}/{intent.path}" if intent.path else home)
        return Change(
            "mode",
            mode=intent.old_mode,
            uid=intent.old_uid if intent.uid is not None else None,
            old_mode=stat.S_IMODE(status.st_mode),
            old_uid=status.st_uid,
        )
    if not intent.aside:
        return Change()
    source = repair_steps.set_aside_at(operation, intent.path)
    if not os.path.lexists(f"{home}/{source}"):
        raise Refused(f"{source} is not in the quarantine any more.")
    return Change("moved", source)


def empty(worker: Worker) -> Iterator[Emptied]:
    """Remove what lies in the quarantine for good, one entry after the other."""
    home = worker.hands.home
    for name in sorted(os.listdir(f"{home}/{layout.QUARANTINE}")):
        path = f"{layout.QUARANTINE}/{name}"
        size = usage(f"{home}/{path}") or 0
        act = Act("empty-quarantine", f"remove {path} for good", path=path, moves=True)
        wanted = Change("trash", seen=seen_at(home, path))
        try:
            done = change(worker, act, wanted)
        except (LayerstoreError, OSError) as error:
            yield Emptied(name, 0, str(error))
        else:
            yield Emptied(name, size if done.outcome == "done" else 0, done.message)
