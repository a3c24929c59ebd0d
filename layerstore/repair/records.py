"""Owns taking back what a repair did to records alone; it must not touch the tree.

Such an act is one event without an operation, and is named by the number of that event. It is taken
back by another event where the state before is one that a store may be in. Where it is not, because
tree, kernel or journal decided and still do, that is refused with the reason, and with the way there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from layerstore import events as e
from layerstore.db import statements as sql
from layerstore.errors import InvalidArgument, Refused
from layerstore.repair.forms import Act, Done

if TYPE_CHECKING:
    from layerstore import answers
    from layerstore.journal import Transaction
    from layerstore.repair.acting import Worker

_LAST: Final = "SELECT max(seq) FROM events WHERE layer = :layer"

STAYS: Final[dict[type[Any], tuple[str, str]]] = {
    e.LayerForgotten: (
        "a row of a layer that has no directory is the damage that was mended",
        "put the directory back, and 'layerstore repair' takes the layer in again.",
    ),
    e.MountFound: (
        "the layer is mounted, whatever the journal says",
        "'layerstore release unknown' ends the hold.",
    ),
    e.LayerUnmounted: ("the kernel has no such mount", "the next get mounts the layer."),
    e.HoldsEnded: (
        "the layer was not mounted, and a hold without a mount is the damage that was mended",
        "a get by that name holds the layer, and mounts it.",
    ),
    e.IndexRefolded: (
        "the journal decides what the index has, and an index that differs is the damage",
        "the event has the rows that differed: 'layerstore log --kind index.'.",
    ),
    e.OwnerDied: ("the process is dead", ""),
}
"""Acts on records whose undo would be the damage again: why, and what there is instead."""


def is_event(name: str) -> bool:
    """Whether something is named by the number of an event. An operation has 32 characters."""
    return name.isdecimal() and len(name) < 32


def undo(worker: Worker, history: Callable[..., Iterable[answers.Entry]], number: int) -> Done:
    """Take back the act whose event has this number, if nothing was done with its layer since.

    `history`: the events, by `layer` and `after_seq`. Raises InvalidArgument for what is no such act,
    Refused with the reason for what stays.
    """
    entry = next(iter(history(after_seq=number - 1)), None)
    event = None if entry is None or entry.seq != number else entry.event
    if type(event) in STAYS:
        why, instead = STAYS[type(event)]
        raise Refused(f"Event {number} is not taken back: {why}.", hint=instead)
    if not isinstance(event, e.LayerAdopted | e.LayerRestored):
        raise InvalidArgument(
            f"Event {number} is nothing that a repair did to records alone.",
            hint="'layerstore log' lists events with their numbers, and operations where they have one.",
        )
    back = _back(event, list(history(layer=event.layer)), number)
    taken = 0

    def decision(tx: Transaction, _: str) -> None:
        nonlocal taken
        tx.require_idle(event.layer)
        if tx.one(_LAST, layer=event.layer) != (number,):
            raise Refused(f"Event {number} is not taken back: {event.layer} was changed since.")
        if isinstance(event, e.LayerAdopted):
            _refuse_if_used(tx, event)
        taken = tx.append(back)

    worker.operate(decision)
    act = Act("undo", f"take back event {number} of {event.layer}", event.layer)
    return Done(act, "done", event=taken)


def _back(
    event: e.LayerAdopted | e.LayerRestored, past: list[answers.Entry], number: int
) -> e.LayerForgotten | e.LayerIsolated:
    if isinstance(event, e.LayerAdopted):
        return e.LayerForgotten(event.layer, f"event {number} was taken back")
    damages = [
        entry.event.damage
        for entry in past
        if entry.seq < number and isinstance(entry.event, e.LayerIsolated)
    ]
    if not damages:
        raise Refused(
            f"Event {number} is not taken back: why {event.layer} was set apart is in no event."
        )
    return e.LayerIsolated(event.layer, damages[-1])


def _refuse_if_used(tx: Transaction, event: e.LayerAdopted) -> None:
    layer = event.layer
    if tx.one(sql.COUNT_CHILDREN, id=layer) != (0,):
        raise Refused(f"The adoption of {layer} is not taken back: it has children.")
    if event.commits_parent:
        raise Refused(
            f"The adoption of {layer} is not taken back: without it {event.parent} could be written to "
            "below it.",
            hint=f"'layerstore rm {layer}' removes it.",
        )
