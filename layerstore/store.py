"""Owns the public verbs: decide, journal, perform, journal. It must not know how a step is done.

Every verb is one operation: an intent transaction that checks the preconditions, the effects, an
outcome transaction. An operation that is in flight on the layer is waited for, or settled if its
owner is dead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, overload

from layerstore import burial, compaction, decide, opening, recovery, room, waiting
from layerstore import events as e
from layerstore import model as m
from layerstore import options as o
from layerstore.applying import Applying
from layerstore.db import statements as sql
from layerstore.errors import (
    ForkedStore,
    InvalidArgument,
    LayerHeld,
    LayerstoreError,
    LostMountStays,
    UnknownHolder,
)
from layerstore.journal import Transaction
from layerstore.keeping import Keeping
from layerstore.outside import Outside
from layerstore.reader import Reader
from layerstore.recording import Recording
from layerstore.repair.verb import Repairing


class Store(compaction.Compacting, Keeping, Applying, Recording, Outside, Repairing):
    """A store, opened to work with it; also everything that a Reader answers.

    Safe to use from many threads; not in a forked child, which opens it anew.
    """

    def __init__(
        self, home: Path, opened: opening.Opened, *, timeout: float, options: o.Options
    ) -> None:
        super().__init__(home, opened.about, opened.database)
        self._opened = opened
        self._hands = opened.hands
        self._timeout = timeout
        self._options = options
        self._me = m.OWNER_PREFIX + opened.hands.journal.author.owner
        self._closed = False

    # --- making and opening -------------------------------------------------------------------

    @overload
    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str],
        *,
        read_only: Literal[False] = False,
        timeout: float = 30,
        durability: str = "full",
        compact_above: int = 100_000,
        keep_archives: int | None = None,
        options: o.OptionTexts | None = None,
        uid_maps: Iterable[o.MapEntry] | None = None,
        gid_maps: Iterable[o.MapEntry] | None = None,
        this_is: str | None = None,
    ) -> Self: ...

    @overload
    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str],
        *,
        read_only: Literal[True],
        timeout: float = 30,
        durability: str = "full",
        this_is: str | None = None,
    ) -> Reader: ...

    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str],
        *,
        read_only: bool = False,
        timeout: float = 30,
        durability: str = "full",
        compact_above: int = 100_000,
        keep_archives: int | None = None,
        options: o.OptionTexts | None = None,
        uid_maps: Iterable[o.MapEntry] | None = None,
        gid_maps: Iterable[o.MapEntry] | None = None,
        this_is: str | None = None,
    ) -> Self | Reader:
        """Open a store and settle what dead owners left in it; `settled` says what that was.

        `timeout`: seconds that a verb waits for another before it raises Busy. `durability`:
        `full`, or `process` where a power cut may take acknowledged work. `read_only` gives a
        Reader, which settles nothing. `this_is`: what to do where the home is a copy of a store
        that is still there; `copy` makes it a store of its own, `move` says that this is the store
        now. Raises NoStore, StoreDamaged, StoreCopied, SchemaTooNew, Busy; InvalidArgument for what no
        argument can be, before anything is touched.

        `compact_above`: where the journal has more events (0: any number), old ones go to an
        archive between two verbs, of which `keep_archives` are kept. `options`, `uid_maps`,
        `gid_maps` are what Docker's Init gives; `layerstore.options` has their forms. New
        directories belong to what stands for id 0. Raises InvalidOption.
        """
        opening.check(timeout, durability, this_is)
        compaction.check_limits(compact_above, keep_archives)
        wanted = o.parse(options, uid_maps, gid_maps)
        path = Path(home).resolve()  # the kernel and the mount table speak of the real path
        if read_only:
            return Reader.open(path)
        told = cls._adopt_if_copy(path, this_is, timeout) if this_is is not None else ()
        with room.explained(path):
            opened = opening.open_store(
                path, timeout=timeout, durability=m.Durability(durability), options=wanted
            )
        opened.settled[:0] = told
        store = cls(path, opened, timeout=timeout, options=wanted)
        store.keep_compact(opened.hands, above=compact_above, keep_archives=keep_archives)
        return store

    def close(self) -> None:
        """Give back this owner's holds, unmount what nobody else holds, and close."""
        if self._closed or os.getpid() != self._pid:
            return
        try:
            for layer, count in self._read(sql.SELECT_HELD_BY, holder=self._me):
                for _ in range(count):
                    self.put(layer)
        finally:
            self._closed = True
            self._opened.close()

    @property
    def settled(self) -> tuple[m.Settled, ...]:
        """What opening the store did about dead owners."""
        return tuple(self._opened.settled)

    def recover(self) -> tuple[m.Settled, ...]:
        """Settle now what dead owners left; an open does the same by itself.

        But an open leaves alone for up to an hour what was tried in vain several times; this tries.
        """
        self._check_usable()
        return tuple(opening.settle(self._hands, insist=True))

    # --- create -------------------------------------------------------------------------------

    def create(
        self,
        id: str,  # noqa: A002 - the field's name for it
        *,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        mount_label: str = "",
        storage_options: Mapping[str, str] | None = None,
    ) -> m.Layer:
        """Create an empty layer, upon a parent or as a base.

        Raises LayerExists, UnknownLayer for the parent, LayerHeld while the parent is mounted
        read-write, TooDeep, LayerDamaged if the parent's files are not what they should be.
        """
        return self._create(id, parent, labels, mount_label, storage_options, read_write=False)

    def create_read_write(
        self,
        id: str,  # noqa: A002
        *,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        mount_label: str = "",
        storage_options: Mapping[str, str] | None = None,
    ) -> m.Layer:
        """The same for a layer that a container will write to.

        `storage_options`: `size`, such as "10G", limits what it can hold (project quotas).
        """
        return self._create(id, parent, labels, mount_label, storage_options, read_write=True)

    def _create(
        self,
        layer: str,
        parent: str | None,
        labels: Mapping[str, str] | None,
        mount_label: str,
        storage_options: Mapping[str, str] | None,
        *,
        read_write: bool,
    ) -> m.Layer:
        texts, size = o.storage_options(storage_options, read_write, defaults=self._options)
        wanted = decide.Wanted(
            id=m.check_layer_id(layer),
            link=recovery.new_link(),
            parent=None if parent is None else m.check_layer_id(parent),
            read_write=read_write,
            labels=decide.checked_labels(labels),
            storage_options=texts,
            mount_label=decide.checked_mount_label(mount_label),
            uid=self._options.uid,
            gid=self._options.gid,
            size=size,
        )

        def decision(tx: Transaction, _: str) -> e.Intent:
            full = self._hands.full
            return decide.create(tx, wanted, home=self._home, about=self._about, durable=full)

        made: list[m.Layer | None] = []

        def look(tx: Transaction) -> None:
            made[:] = [tx.layer(wanted.id)]

        while True:
            try:
                self._operate(decision, last=look, together=True)
            except LayerHeld as held:
                # The parent is mounted read-write: in the way only if somebody living holds it.
                ended = self._end_dead_holds(held.layer)
                if not self._unmount(held.layer, "no holder") and not ended:
                    raise held from None
            else:
                assert made[0] is not None
                return made[0]

    # --- get and put --------------------------------------------------------------------------

    def get(
        self,
        id: str,  # noqa: A002
        *,
        holder: str | None = None,
        mount_label: str = "",
    ) -> Path:
        """Hold a layer, mounting it if nobody holds it yet; the path of its content.

        `holder=None`: this open store, whose death or close ends the hold. A name outlives the
        process. A base layer is not mounted: the path is its `diff`. A layer that has children is
        mounted read-only. `mount_label` wins over the layer's own. Raises UnknownLayer,
        LayerDamaged, UpperBusy; LayerstoreError for a label where the kernel has no SELinux.
        """
        wanted = decide.Mounting(
            holder=self._me if holder is None else m.check_holder(holder),
            mount_label=decide.checked_mount_label(mount_label),
            uid=self._options.uid,
            gid=self._options.gid,
        )
        place = decide.Place()

        def decision(tx: Transaction, _: str) -> e.Intent | None:
            return decide.get(tx, id, wanted, home=self._home, place=place)

        self._operate(decision)
        while place.lost is not None:
            # The journal says it is mounted and the kernel does not: end that mount, then mount.
            for settled in burial.end_mount(self._hands, place.lost, reason="lost"):
                if settled.what == "failed":
                    raise LostMountStays(id, settled.message)
            self._operate(decision)
        return Path(f"{self._home}/{place.path}")

    def put(self, id: str, *, holder: str | None = None) -> bool:  # noqa: A002
        """Give one hold back; True if it was the last one and the layer was unmounted.

        Raises NotHeld if `holder` (by default this open store) does not hold it.
        """
        holder = self._me if holder is None else m.check_holder(holder)

        return self._operate(lambda tx, _: decide.put(tx, id, holder)) is not None

    @contextlib.contextmanager
    def mounted(self, id: str, *, holder: str | None = None) -> Iterator[Path]:  # noqa: A002
        """Hold a layer for the length of a `with` block."""
        path = self.get(id, holder=holder)
        try:
            yield path
        finally:
            self.put(id, holder=holder)

    # --- remove -------------------------------------------------------------------------------

    def remove(self, id: str, *, holder: str | None = None) -> None:  # noqa: A002
        """Remove a layer with its content. The holds of `holder` end with it; None: this open store.

        Raises HasChildren, LayerHeld while others hold it, UpperBusy, UnknownLayer.
        """
        full = self._hands.full
        holder = self._me if holder is None else m.check_holder(holder)
        while True:
            try:
                self._operate(lambda tx, _: decide.remove(tx, id, holder, durable=full))
            except LayerHeld as held:
                if not self._end_dead_holds(id):
                    raise held from None
            else:
                return

    def _end_dead_holds(self, layer: str) -> bool:
        """End the holds of owners that died while this store was open."""
        ended = False
        for hold in self.holders(layer):
            owner = hold.holder.removeprefix(m.OWNER_PREFIX)
            if owner == hold.holder or self._hands.is_alive(owner):
                continue

            def end(holder: str = hold.holder) -> bool:
                with self._hands.journal.transaction(full=False) as tx:
                    return decide.end_holds(tx, layer, holder, reason="its process died")

            ended |= self._hands.with_room(end)
        return ended

    # --- cleanup and release ------------------------------------------------------------------

    def cleanup(self) -> tuple[str, ...]:
        """Unmount everything that the journal mounted, whoever holds it; never the home.

        Docker's Cleanup: for the end of a daemon. The ids that were unmounted. A layer that cannot
        be unmounted does not keep the others mounted; its error is raised at the end.
        """
        self._check_usable()
        unmounted: list[str] = []
        failures: list[Exception] = []
        for mount in self.mounts():
            try:
                if self._unmount(mount.layer, "cleanup"):
                    unmounted.append(mount.layer)
            except (LayerstoreError, OSError) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return tuple(unmounted)

    def release(self, holder: str) -> tuple[str, ...]:
        """End every hold of a name that never returns; the layers that it held."""
        m.check_holder(holder)
        held = [row[0] for row in self._read(sql.SELECT_HELD_BY, holder=holder)]
        if not held:
            raise UnknownHolder(holder)
        for layer in held:

            def decision(tx: Transaction, _: str, layer: str = layer) -> e.Intent | None:
                tx.require_idle(layer)
                decide.end_holds(tx, layer, holder, reason="released by name")
                return None

            self._operate(decision)
            self._unmount(layer, "no holder")
        return tuple(held)

    def _unmount(self, layer: str, reason: str) -> bool:
        return self._operate(lambda tx, _: decide.unmount(tx, layer, reason=reason)) is not None

    # --- the rest -----------------------------------------------------------------------------

    def _operate(self, decision: recovery.Decision, **how: Any) -> e.Intent | None:
        """Run one operation, after whatever is in flight on its layers."""
        self._check_usable()
        try:
            intent = waiting.operate(
                self._hands, decision, timeout=self._timeout, name_of=self._name_of, **how
            )
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{error.object!r} is not a text in UTF-8.") from error
        except OSError:
            with room.explained(self.home):
                raise
        self._compactor.tend()
        return intent

    def _name_of(self, owner: str) -> str:
        found = self.owner(owner)
        return owner if found is None else f"{found.command}, process {found.pid}"

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedStore(self._pid, os.getpid())

    def _durability(self) -> str:
        return "full" if self._hands.full else "process"

    def _map_ids(self) -> Callable[[int, int], tuple[int, int]] | None:
        return o.to_container(self._options)

    def _own_warnings(self) -> tuple[str, ...]:
        return tuple(self._options.warnings())

    def _leak(self) -> None:
        self._opened.leak()
