"""Owns what dead owners leave beside their operations: rows, locks, holds, mounts; no operation of theirs.

It must not decide that an owner is dead. A mount is ended like any other: by an operation.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from layerstore import decide, rows
from layerstore import events as e
from layerstore import model as m
from layerstore.db import statements as sql
from layerstore.errors import LayerstoreError, UpperBusy
from layerstore.fs import layout, locks, mountinfo
from layerstore.fs.trace import trace
from layerstore.journal import InFlight, Transaction
from layerstore.recovery import Hands, in_short, run


def bury(hands: Hands, owner: m.Owner) -> m.Settled:
    """End the holds of a dead owner. Its operations are settled already."""

    def say_so() -> None:
        with hands.journal.transaction(full=False) as transaction:
            found = transaction.one(sql.SELECT_OWNER, id=owner.id)
            if found is not None and rows.owner(found).closed_at is None:
                transaction.append(e.OwnerDied(owner.id, owner.pid, owner.command))

    hands.with_room(say_so)
    trace("settle:bury:after")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{hands.home}/{layout.owner_lock(owner.id)}")
    return m.Settled("released", None, f"process {owner.pid} ({owner.command}) is dead")


def remove_locks(hands: Hands) -> None:
    """Remove the lock files of dead processes that no row calls open."""

    def open_still(owner: str) -> bool:
        found = hands.journal.database.read(sql.SELECT_OWNER, {"id": owner})
        return bool(found) and rows.owner(found[0]).closed_at is None

    locks.remove_dead(f"{hands.home}/{layout.OWNERS}", keep=open_still)


def unmount_unheld(hands: Hands) -> Iterator[m.Settled]:
    """Unmount what the journal mounted and nobody holds any more."""
    for row in hands.journal.database.read(sql.SELECT_UNHELD_MOUNTS):
        yield from end_mount(hands, rows.mount(row), reason="no holder")


def forget_lost(hands: Hands) -> Iterator[m.Settled]:
    """End the mounts of another boot that this kernel does not have."""
    boot = hands.journal.author.boot_id
    for row in hands.journal.database.read(sql.SELECT_MOUNTS):
        mount = rows.mount(row)
        if mount.boot_id == boot:
            continue
        if not mountinfo.is_mount_root(f"{hands.home}/{layout.merged(mount.layer)}"):
            yield from end_mount(hands, mount, reason="lost")


def _refuse_if_seen_elsewhere(hands: Hands, tx: Transaction, layer: str) -> None:
    """Of a mount without an upper the kernel tells nothing: a living process may see what we do not."""
    for row in tx.all(sql.SELECT_HOLDS_ON, layer=layer):
        taker = rows.hold(row).taken_by
        if taker is None or not hands.is_alive(taker.id):
            continue
        if not mountinfo.shares_mounts(taker.pid, taker.started):
            raise UpperBusy(
                layer, f"process {taker.pid} ({taker.command}) has it in another mount namespace"
            )


def end_mount(hands: Hands, mount: m.Mount, *, reason: str) -> Iterator[m.Settled]:
    """Unmount a layer for `no holder`, or forget a `lost` mount, if that still holds."""

    def decision(tx: Transaction, _: str) -> e.Intent | None:
        intent = decide.unmount(tx, mount.layer, reason=reason)
        if intent is not None and reason == "lost" and intent.read_only:
            _refuse_if_seen_elsewhere(hands, tx, mount.layer)
        return intent

    try:
        if run(hands, decision) is not None:
            yield m.Settled("unmounted", mount.layer, f"{mount.layer} was unmounted ({reason})")
    except InFlight:
        pass  # whoever is at it ends it
    except UpperBusy as busy:
        yield m.Settled("failed", mount.layer, busy.message)
    except (LayerstoreError, OSError) as error:
        yield m.Settled("failed", mount.layer, in_short(error))
