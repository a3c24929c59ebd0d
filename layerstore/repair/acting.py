"""Owns carrying out a plan of repairs; it must not decide what is to be repaired.

A change of the tree is an operation of its own: its intent looks once more at what the plan saw. A
change of records alone is one transaction. What fails stays with its act.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from layerstore import burial, comparison, decide, rows
from layerstore import events as e
from layerstore import model as m
from layerstore.db import statements as sql
from layerstore.errors import LayerstoreError, Refused, WritesRefused
from layerstore.fs import layout, mountinfo
from layerstore.fs.durable import SyncFailed
from layerstore.repair import refolding
from layerstore.repair.case import seen_at
from layerstore.repair.forms import Act, Change, Done

if TYPE_CHECKING:
    from layerstore.journal import Transaction
    from layerstore.recovery import Decision, Hands


@attrs.frozen
class Worker:
    """What it takes to carry out acts: an open store's hands, its way to run an operation, and to
    settle what dead owners left.
    """

    hands: Hands
    operate: Callable[[Decision], e.Intent | None]
    recover: Callable[[], tuple[m.Settled, ...]]


def carry_out(worker: Worker, acts: Iterator[Act]) -> Iterator[Done]:
    """Do each act in its order; tells of each when it is done."""
    taken: dict[str, m.Settled] | None = None
    for act in acts:
        try:
            if act.repair in ("adopt", "reopen"):
                if taken is None:
                    taken = {s.layer: s for s in comparison.take_in(worker.hands) if s.layer}
                yield _taken(worker, act, taken)
            else:
                taken = None  # the tree changes, so that it has to be looked at again
                yield _do(worker, act)
        except (SyncFailed, WritesRefused):
            raise  # nothing can be written any more
        except (LayerstoreError, OSError) as error:
            yield Done(act, "failed", str(error))


def _taken(worker: Worker, act: Act, taken: dict[str, m.Settled]) -> Done:
    assert act.layer is not None
    found = taken.get(act.layer)
    if found is None:
        return Done(act, "skipped", "it is as it was")
    if found.what not in ("adopted", "restored"):
        return Done(act, "skipped", found.message)
    event = _last_event(worker, act.layer, f"layer.{found.what}")
    return Done(act, "done", found.message, event=event)


def _last_event(worker: Worker, layer: str, kind: str) -> int | None:
    """The number of the last event of this kind, whatever its version, about a layer."""
    query = "SELECT max(seq) FROM events WHERE layer = :layer AND kind LIKE :kind"
    ((event,),) = worker.hands.journal.database.read(query, {"layer": layer, "kind": f"{kind}.%"})
    return event  # type: ignore[no-any-return]  # a number, or None


def _do(worker: Worker, act: Act) -> Done:
    if act.change is not None:
        return change(worker, act, act.change)
    return _RECORDS[act.repair](worker, act)


def change(worker: Worker, act: Act, wanted: Change, *, undoes: str = "") -> Done:
    """One operation on the tree."""
    hands = worker.hands
    assert act.path is not None
    path = act.path
    named: list[str] = []

    def decision(tx: Transaction, operation: str) -> e.Intent | None:
        layer = act.layer or path or "."
        named[:] = []
        tx.require_idle(layer)
        if not still(tx, hands.home, act, wanted):
            return None
        named[:] = [operation]
        return e.RepairIntended(
            layer=layer,
            act=act.repair,
            code=act.code,
            reason=act.reason,
            at=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            path=path,
            aside=bool(wanted.seen) and wanted.put not in NEVER_ASIDE,
            put=wanted.put,
            content=wanted.content,
            mode=wanted.mode,
            uid=wanted.uid,
            gid=wanted.gid,
            old_mode=wanted.old_mode,
            old_uid=wanted.old_uid,
            project=tx.project(layer)[0] if act.repair == "make-work" else 0,
            probe=wanted.probe,
            undoes=undoes,
            durable=hands.full,
        )

    worker.operate(decision)
    if not named:
        return Done(act, "skipped", "it has changed since it was looked at")
    return Done(act, "done", operation=named[0])


NEVER_ASIDE: Final = frozenset({"mode", "trash", "unmount"})


def still(tx: Transaction, home: str, act: Act, wanted: Change) -> bool:
    """Whether what the plan saw is so still. Raises Refused where the act would move what is in use."""
    assert act.path is not None
    if wanted.put != "unmount" and seen_at(home, act.path) != wanted.seen:
        return False
    if wanted.put == "unmount":
        return mountinfo.is_mount_root(f"{home}/{act.path}")
    if wanted.put == "moved" and not os.path.lexists(f"{home}/{wanted.content}"):
        return False
    if act.layer is not None and (tx.layer(act.layer) is not None) != wanted.indexed:
        return False
    if wanted.put != "mode" and act.moves:
        _refuse_in_use(tx, home, act)
        return not _is_being_worked_on(tx, act.path)
    return True


def _is_being_worked_on(tx: Transaction, path: str) -> bool:
    """Whether what lies in staging, trash or quarantine is of an operation that is in flight."""
    place, _, name = path.rpartition("/")
    own = place in (layout.STAGING, layout.TRASH, layout.QUARANTINE)
    return own and tx.operation(name.partition("-")[0]) is not None


def _refuse_in_use(tx: Transaction, home: str, act: Act) -> None:
    path = act.path or ""
    mounted = mountinfo.mounts_below(f"{home}/{path}") if os.path.isdir(f"{home}/{path}") else []
    if mounted:
        raise Refused(f"{path} is not moved: {mounted[0].mount_point} is mounted there.")
    if act.repair == "drop-merged" and tx.one(sql.SELECT_MOUNT, layer=act.layer) is not None:
        raise Refused(f"{path} is not moved: {act.layer} is mounted.")
    if tx.layer(path) is not None:
        raise Refused(
            f"{path} is not moved: it is a layer of the index.", hint="See 'layerstore rm'."
        )
    link = path.removeprefix(f"{layout.LINKS}/")
    if act.repair == "drop-link" and tx.one(sql.SELECT_LAYER_BY_LINK, link=link) is not None:
        by = rows.layer(tx.all(sql.SELECT_LAYER_BY_LINK, link=link)[0]).link
        reads = tx.layer(act.layer) if act.layer is not None else None
        if reads is None or reads.link == by:
            raise Refused(f"{path} is not moved: a layer of the index has it.")


# --- records alone --------------------------------------------------------------------------------


def _settle(worker: Worker, act: Act) -> Done:
    settled = worker.recover()
    failed = [item for item in settled if item.what == "failed"]
    if failed:
        return Done(act, "failed", failed[0].message)
    return Done(act, "done", "; ".join(item.message for item in settled[:3]))


def _upgrade(worker: Worker, act: Act) -> Done:
    del worker
    return Done(act, "done", "opening the store did it")


def _refold(worker: Worker, act: Act) -> Done:
    count, event = refolding.refold(worker.hands)
    if not count:
        return Done(act, "skipped", "it is what the journal says")
    return Done(act, "done", f"{count} rows were not as the journal has them", event=event)


def _append(worker: Worker, act: Act, choose: Callable[[Transaction], list[Any]]) -> Done:
    """Append events in one transaction; whatever is in flight comes first."""
    last: int | None = None

    def decision(tx: Transaction, _: str) -> e.Intent | None:
        nonlocal last
        last = None
        for event in choose(tx):
            last = tx.append(event)
        return None

    worker.operate(decision)
    if last is None:
        return Done(act, "skipped", "it is not needed any more")
    return Done(act, "done", event=last)


def _found_mount(worker: Worker, act: Act) -> Done:
    assert act.layer is not None
    layer = act.layer

    def choose(tx: Transaction) -> list[Any]:
        found = decide.found_mount(worker.hands.home, tx, layer)
        return [] if found is None else [found]

    return _append(worker, act, choose)


def _release(worker: Worker, act: Act) -> Done:
    """The holds of names outside on a layer that has a parent and is mounted nowhere."""
    assert act.layer is not None
    layer, home = act.layer, worker.hands.home

    def choose(tx: Transaction) -> list[Any]:
        tx.require_idle(layer)
        mounted = mountinfo.is_mount_root(f"{home}/{layout.merged(layer)}")
        if mounted or tx.one(sql.SELECT_MOUNT, layer=layer) is not None:
            return []
        outside = (h for h in decide.holders(tx, layer) if not h.startswith(m.OWNER_PREFIX))
        return [e.HoldsEnded(layer, holder, "it was not mounted") for holder in outside]

    return _append(worker, act, choose)


def _forget(worker: Worker, act: Act) -> Done:
    assert act.layer is not None
    layer, home = act.layer, worker.hands.home

    def choose(tx: Transaction) -> list[Any]:
        tx.require_idle(layer)
        if os.path.lexists(f"{home}/{layer}") or tx.one(sql.COUNT_CHILDREN, id=layer) != (0,):
            return []
        if tx.one(sql.SUM_HOLDS, layer=layer) != (0,):
            raise Refused(f"{layer} is held: 'layerstore release HOLDER' ends that.")
        if tx.layer(layer) is None and tx.project(layer) == (0, 0):
            return []
        return [e.LayerForgotten(layer, act.reason)]

    return _append(worker, act, choose)


def _end_mount(worker: Worker, act: Act) -> Done:
    """A mount of the journal that the kernel may not have."""
    found = [
        mount
        for mount in map(rows.mount, worker.hands.journal.database.read(sql.SELECT_MOUNTS))
        if mount.layer == act.layer
    ]
    if not found or mountinfo.is_mount_root(f"{worker.hands.home}/{layout.merged(found[0].layer)}"):
        return Done(act, "skipped", "it is not needed any more")
    for settled in burial.end_mount(worker.hands, found[0], reason="lost"):
        ok = settled.what == "unmounted"
        event = _last_event(worker, found[0].layer, "layer.unmounted") if ok else None
        return Done(act, "done" if ok else "failed", settled.message, event=event)
    return Done(act, "skipped", "somebody else is at it")


_RECORDS: Final[dict[str, Callable[[Worker, Act], Done]]] = {
    "settle": _settle,
    "upgrade": _upgrade,
    "refold": _refold,
    "record-mount": _found_mount,
    "release": _release,
    "forget": _forget,
    "end-mount": _end_mount,
}
