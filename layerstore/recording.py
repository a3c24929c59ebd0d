"""Owns the verbs of a Store about manifests; it must not know what a manifest looks like.

`Recording` is a part of Store, in a module of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore import decide, manifests
from layerstore import model as m
from layerstore.journal import InFlight

if TYPE_CHECKING:
    from layerstore import events as e
    from layerstore.recovery import Decision, Hands


class Recording:
    """What a Store does about what layers hold."""

    if TYPE_CHECKING:  # a Store has these
        _hands: Hands

        def layer(self, layer: str) -> m.Layer: ...
        def manifest(self, layer: str) -> m.Manifest | None: ...
        def _operate(self, decision: Decision) -> e.Intent | None: ...

    def record_manifest(self, id: str) -> m.Manifest:  # noqa: A002 - the field's name for it
        """Write down what a layer holds, so that `audit` can say later what differs from it.

        All of the layer is read, and meanwhile it cannot be mounted or built upon. It must be one
        that will not change: built upon, or applied to and held by nobody. Where it has a manifest
        already, that stands. A layer that is mounted read-write later loses it. Raises UnknownLayer,
        LayerDamaged, LayerHeld, UpperBusy, InvalidArgument; OSError where it cannot be read.
        """
        full = self._hands.full
        self._operate(lambda tx, _: decide.record(tx, id, durable=full))
        found = self.manifest(id)
        if found is None:  # somebody mounted the layer in this moment
            return self.record_manifest(id)
        return found

    def drop_manifest(self, id: str) -> bool:  # noqa: A002
        """Forget what a layer held; whether there was a manifest. Raises UnknownLayer."""
        self.layer(id)
        while True:
            self._operate(lambda tx, _: tx.require_idle(id))
            try:
                return manifests.drop(self._hands, id, "asked for")
            except InFlight:
                continue
