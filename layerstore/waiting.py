"""Owns waiting for what is in flight on a layer, or settling it if nobody is at it; no verb."""

from __future__ import annotations

import time
from collections.abc import Callable

from layerstore import combining, manifests, recovery
from layerstore import events as e
from layerstore import model as m
from layerstore.errors import Busy, LayerstoreError
from layerstore.journal import InFlight, ManifestStands
from layerstore.recovery import Hands

_LONGEST_PAUSE = 0.05
"""Between processes there is nothing to wake on: the pause doubles from 1 ms up to this."""


def operate(
    hands: Hands,
    decision: recovery.Decision,
    *,
    timeout: float,
    name_of: Callable[[str], str],
    last: recovery.Last | None = None,
    together: bool = False,
) -> e.Intent | None:
    """Run one operation, after whatever is in flight on its layers; Busy after `timeout` seconds.

    A thread that is inside an operation must not wait for another: two of them could wait for each
    other. `together`: with other threads that do the same.
    """
    if getattr(hands.thread, "inside", False):
        raise LayerstoreError("A verb was called while its thread was inside another one.")
    deadline = time.monotonic() + timeout
    pause = 0.001
    run = combining.run if together else recovery.run
    hands.thread.inside = True
    try:
        while True:
            try:
                return run(hands, decision, last=last)
            except ManifestStands as met:
                manifests.drop(hands, met.layer, met.reason)
            except InFlight as blocked:
                if _settle_if_left(hands, blocked.operation):
                    continue
                if time.monotonic() >= deadline:
                    raise _busy(blocked.operation, name_of(blocked.operation.owner)) from None
                pause = _wait(hands, blocked.operation, deadline, pause)
    finally:
        hands.thread.inside = False


def _settle_if_left(hands: Hands, operation: m.Operation) -> bool:
    """Settle an operation that nobody is at; False if somebody is."""
    ours = operation.owner == hands.journal.author.owner
    with hands.changed:
        if operation.id in hands.active:
            return False
    if not ours and not operation.abandoned and hands.is_alive(operation.owner):
        return False
    settled = recovery.settle(hands, operation)
    if settled is not None and settled.what == "failed":
        raise Busy(
            f"Layer {operation.layer} has an unfinished {operation.verb} that cannot be settled "
            f"({settled.message.rstrip('.')}).",
            hint="'layerstore audit' says more; every other layer is usable.",
        )
    return settled is not None


def _busy(operation: m.Operation, owner: str) -> Busy:
    return Busy(
        f"Layer {operation.layer} has a {operation.verb} in flight (operation {operation.id}, "
        f"owner {owner}).",
        hint="Try again; 'layerstore status' lists what is in flight.",
    )


def _wait(hands: Hands, operation: m.Operation, deadline: float, pause: float) -> float:
    """Wait for a thread of this process to finish, or a moment; the next pause."""
    with hands.changed:
        if operation.id in hands.active:
            hands.changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            return pause
    time.sleep(pause)
    return min(pause * 2, _LONGEST_PAUSE)
