"""Owns what a Store does for a holder outside, who may be a daemon that starts anew; no verb on a layer.

`Outside` is a part of Store, in a module of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore import decide
from layerstore import events as e
from layerstore import model as m
from layerstore.db import statements as sql
from layerstore.errors import LayerstoreError
from layerstore.fs import layout, locks, mountinfo
from layerstore.journal import Transaction

if TYPE_CHECKING:
    from layerstore.db import engine
    from layerstore.recovery import Decision


class Outside:
    """What a Store does for those whose holds outlive it."""

    if TYPE_CHECKING:  # a Store has these
        _home: str

        def _read(self, statement: str, **parameters: object) -> engine.Rows: ...
        def _operate(self, decision: Decision) -> e.Intent | None: ...
        def _unmount(self, layer: str, reason: str) -> bool: ...

    def act_for(self, holder: str, *, timeout: float = 1) -> locks.HolderLock:
        """Be the only one who acts in this name, until it is released; Busy if somebody else does."""
        path = f"{self._home}/{layout.holder_lock(m.check_holder(holder))}"
        return locks.HolderLock(path, holder, timeout=timeout)

    def start_anew(self, holder: str) -> tuple[str, ...]:
        """A daemon that was restarted knows nothing of its holds: Docker's rule for the counts.

        Each becomes one where the layer is mounted, and none elsewhere; so does what `unknown` holds
        of a mount that nobody was known to have. The layers that it holds now.
        """
        m.check_holder(holder)
        held = {
            row[0]
            for name in (holder, decide.UNKNOWN)
            for row in self._read(sql.SELECT_HELD_BY, holder=name)
        }
        kept = [layer for layer in sorted(held) if self._start_anew(layer, holder)]
        return tuple(kept)

    def _start_anew(self, layer: str, holder: str) -> bool:
        path = f"{self._home}/{layout.merged(layer)}"
        seen: list[bool] = []

        def decision(tx: Transaction, _: str) -> None:
            tx.require_idle(layer)
            mounted = tx.one(sql.SELECT_MOUNT, layer=layer) is not None
            seen[:] = [mounted and mountinfo.is_mount_root(path)]
            reason = "started anew"
            decide.end_holds(tx, layer, decide.UNKNOWN, reason=reason)
            had = tx.one(sql.SELECT_HOLD, layer=layer, holder=holder)
            if had == (1,) and seen[0]:
                return
            decide.end_holds(tx, layer, holder, reason=reason)
            if seen[0]:
                tx.append(e.HoldTaken(layer, holder))

        self._operate(decision)
        if not seen[0]:
            self._unmount(layer, "no holder")
        return seen[0]

    def held(self, layer: str, holder: str) -> int:
        """How often this name holds a layer; 0 also for a layer that is not there."""
        found = self._read(sql.SELECT_HOLD, layer=layer, holder=holder)
        return int(found[0][0]) if found else 0

    def end_outside(self, holder: str) -> tuple[str, ...]:
        """End every hold of a name and unmount what nobody else holds; one that fails stops no other.

        The layers that it held. The first error is raised at the end.
        """
        held = tuple(row[0] for row in self._read(sql.SELECT_HELD_BY, holder=holder))
        failures: list[Exception] = []
        for layer in held:

            def decision(tx: Transaction, _: str, layer: str = layer) -> None:
                tx.require_idle(layer)
                decide.end_holds(tx, layer, holder, reason="cleanup")

            try:
                self._operate(decision)
                self._unmount(layer, "no holder")
            except (LayerstoreError, OSError) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return held
