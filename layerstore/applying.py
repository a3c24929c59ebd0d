"""Owns the verb `apply_diff` of a Store; it must not know how an archive is read.

`Applying` is a part of Store, in a module of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from layerstore import decide, log, options
from layerstore import events as e
from layerstore import model as m
from layerstore.errors import InvalidArgument, LayerstoreError
from layerstore.journal import Transaction

if TYPE_CHECKING:
    from layerstore.fs.archive import Limits, Readable
    from layerstore.recovery import Decision, Hands

_DIFF_ID: Final = r"sha256:[0-9a-f]{64}"


class Applying:
    """What a Store does with archives."""

    record_applied: bool = False
    """After an apply, record what the layer holds by then. Where that fails, a warning is logged: the
    apply is done, and cannot be repeated."""

    if TYPE_CHECKING:  # a Store has these
        _hands: Hands
        _home: str
        _options: options.Options

        def layer(self, layer: str) -> m.Layer: ...
        def record_manifest(self, id: str) -> m.Manifest: ...  # noqa: A002
        def _operate(self, decision: Decision) -> e.Intent | None: ...

    def apply_diff(
        self,
        id: str,  # noqa: A002 - the field's name for it
        stream: Readable,
        *,
        parent: str | None = None,
        limits: Limits | None = None,
        diff_id: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> m.Layer:
        """Make an archive the content of an empty layer: a tar, plain or compressed with gzip or zstd.

        `stream` is read to its end, by `read(size)`. The layer has all of it or nothing; its `size`
        (bytes of files, hard links once) and `diff_id` (sha256 of the uncompressed stream) are in the
        answer. `parent`: the layer that the archive is meant for, which has to be this one's parent;
        empty for none. `diff_id`: what it has to be (`sha256:<hex>`), known when all of it was read:
        WrongDiffId. `progress` is told how many of its entries were unpacked, whenever more is read. A
        layer takes one apply in its life, also if that breaks off. Raises InvalidArchive, AlreadyApplied,
        LayerNotEmpty, HasChildren, LayerHeld, UpperBusy, UnknownLayer, InvalidArgument.
        """
        from layerstore.fs.applying import Feed

        if diff_id is not None and not re.fullmatch(_DIFF_ID, diff_id):
            raise InvalidArgument(
                f"{diff_id!r} is no DiffID.",
                hint="One is written as sha256: and 64 digits from 0 to f.",
            )
        feeds, full = self._hands.performer.feeds, self._hands.full
        named: list[str] = []

        def decision(tx: Transaction, operation: str) -> e.Intent:
            intent = decide.apply(tx, id, parent=parent, home=self._home, durable=full)
            feeds[operation] = Feed(
                stream, limits, options.to_host(self._options), diff_id, progress
            )
            named.append(operation)
            return intent

        try:
            self._operate(decision)
        finally:
            for operation in named:
                feeds.pop(operation, None)
        if self.record_applied:
            self._record_applied(id)
        return self.layer(id)

    def _record_applied(self, layer: str) -> None:
        """The files were written a moment ago: reading them again hardly asks the disk."""
        try:
            self.record_manifest(layer)
        except (LayerstoreError, OSError) as error:
            log.warning("what %s holds was not recorded: %s", layer, error)
