"""Owns that a Get or a Put counts once, however often a server dies over it; it must not know HTTP.

Those of one layer come one after the other, as in Docker's own driver. So the number of docker's holds
before one of them, which its record has, and the number that a successor finds tell whether it was
counted.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs

from layerstore.docker import protocol
from layerstore.errors import Busy, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.docker.pending import Lost, Pending

ADDS: Final = {"Get": 1, "Put": -1}
"""What each does to the number of holds."""


@attrs.define(eq=False)
class _Turn:
    lock: threading.Lock = attrs.Factory(threading.Lock)
    waiting: int = 0


class Turns:
    """One turn for each layer. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, _Turn] = {}

    @contextlib.contextmanager
    def of(self, layer: str, timeout: float) -> Iterator[None]:
        """Be alone with a layer; Busy after `timeout` seconds."""
        with self._lock:
            turn = self._turns.setdefault(layer, _Turn())
            turn.waiting += 1
        try:
            if not turn.lock.acquire(timeout=timeout):
                raise Busy(f"Another request for layer {layer} is at work.")
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            with self._lock:
                turn.waiting -= 1
                if not turn.waiting:
                    del self._turns[layer]


def settle(pending: Pending, held: Callable[[str], int]) -> None:
    """Find out which of the requests that a dead server left were counted, before anything else is
    asked for; `held`: how often docker holds a layer.
    """
    for method, more in ADDS.items():
        for lost in pending.lost(method):
            layer = layer_of(lost)
            if layer is None:
                continue
            # A Put that found no hold changes nothing when it is done again.
            if not lost.done and lost.before is not None and held(layer) == lost.before + more:
                pending.did(lost)


def layer_of(lost: Lost) -> str | None:
    """The layer that it is about."""
    try:
        return protocol.about(protocol.fields(lost.body)).id
    except InvalidArgument:
        return None  # it was refused, and will be again
