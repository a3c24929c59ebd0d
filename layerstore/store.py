"""Owns the public verbs: decide, journal, perform, journal. It must not know how a step is done.

Every verb is one operation: an intent transaction that checks the preconditions, the effects, an
outcome transaction. An operation that is in flight on the layer is waited for, or settled if its
owner is dead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self, overload

from layerstore import decide, description, opening, recovery, waiting
from layerstore import events as e
from layerstore import model as m
from layerstore.applying import Applying
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import (
    Busy,
    ForkedStore,
    InvalidArgument,
    LayerHeld,
    LayerstoreError,
    UnknownHolder,
)
from layerstore.fs import layout
from layerstore.journal import Transaction
from layerstore.reader import Reader, check_not_newer, revision


class Store(Reader, Applying):
    """A store, opened to work with it; also everything that a Reader answers.

    Safe to use from many threads; not in a forked child, which opens it anew.
    """

    def __init__(self, home: Path, opened: opening.Opened, *, timeout: float) -> None:
        super().__init__(home, opened.about, opened.database)
        self._opened = opened
        self._hands = opened.hands
        self._timeout = timeout
        self._me = m.OWNER_PREFIX + opened.hands.journal.author.owner
        self._closed = False

    # --- making and opening -------------------------------------------------------------------

    @classmethod
    def initialize(cls, home: str | os.PathLike[str], *, max_depth: int = m.DEFAULT_DEPTH) -> None:
        """Make `home` a store: an empty directory, or one that is made; its parent must exist.

        `max_depth`: how many lower layers a layer may have, 1 to 499. Raises StoreExists,
        NotAStoresPlace, CannotCarryOverlay, InvalidArgument.
        """
        from layerstore import making

        making.initialize(_absolute(home), max_depth=max_depth)

    @overload
    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str],
        *,
        read_only: Literal[False] = False,
        timeout: float = 30,
        durability: str = "full",
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
    ) -> Reader: ...

    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str],
        *,
        read_only: bool = False,
        timeout: float = 30,
        durability: str = "full",
    ) -> Self | Reader:
        """Open a store and settle what dead owners left in it; `settled` says what that was.

        `timeout`: seconds that a verb waits for another before it raises Busy. `durability`:
        `full`, or `process` where a power cut may take acknowledged work. `read_only` gives a
        Reader, which settles nothing. Raises NoStore, StoreDamaged, SchemaTooNew, Busy.
        """
        path = _absolute(home)
        if read_only:
            return Reader.open(path)
        if durability not in set(m.Durability):
            raise InvalidArgument(f"The durability is 'full' or 'process', not {durability!r}.")
        opened = opening.open_store(path, timeout=timeout, durability=m.Durability(durability))
        return cls(path, opened, timeout=timeout)

    @classmethod
    def rebuild(cls, home: str | os.PathLike[str], *, timeout: float = 30) -> tuple[m.Settled, ...]:
        """Begin a new journal from the tree; the old database goes to quarantine."""
        from layerstore import making

        return tuple(making.rebuild(_absolute(home), timeout=timeout))

    @classmethod
    def revision(cls, home: str | os.PathLike[str]) -> tuple[str, str]:
        """The schema revision of the database, and the packaged one."""
        path = _absolute(home)
        description.read(path)
        database = engine.ReadDatabase(os.fspath(path / layout.DATABASE), timeout=30)
        try:
            return revision(database), sql.REVISION
        finally:
            database.close()

    @classmethod
    def upgrade(cls, home: str | os.PathLike[str], *, timeout: float = 30) -> tuple[str, str]:
        """Bring the schema up to date, after a copy; the revision before and after."""
        before, after = cls.revision(home)
        check_not_newer(os.fspath(_absolute(home) / layout.DATABASE), before)
        if before < after:
            opening.upgrade(_absolute(home), timeout=timeout)
        return before, cls.revision(home)[0]

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
        """Settle now what dead owners left; an open does the same by itself."""
        self._check_usable()
        return tuple(opening.settle(self._hands))

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
        """The same for a layer that a container will write to."""
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
        wanted = decide.Wanted(
            id=m.check_layer_id(layer),
            link=recovery.new_link(),
            parent=None if parent is None else m.check_layer_id(parent),
            read_write=read_write,
            labels=decide.checked_labels(labels),
            storage_options=decide.checked_options(storage_options),
            mount_label=decide.checked_mount_label(mount_label),
        )

        def decision(tx: Transaction, _: str) -> e.Intent:
            return decide.create(
                tx,
                wanted,
                home=self._home,
                max_depth=self._about.max_depth,
                durable=self._hands.full,
            )

        while True:
            try:
                self._operate(decision)
            except LayerHeld as held:
                # The parent is mounted read-write: in the way only if somebody living holds it.
                ended = self._end_dead_holds(held.layer)
                if not self._unmount(held.layer, "no holder") and not ended:
                    raise held from None
            else:
                return self.layer(layer)

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
        mounted read-only. Raises UnknownLayer, LayerDamaged, UpperBusy.
        """
        holder = self._me if holder is None else m.check_holder(holder)
        decide.checked_mount_label(mount_label)
        place = decide.Place()

        def decision(tx: Transaction, _: str) -> e.Intent | None:
            return decide.get(tx, id, holder, home=self._home, mount_label=mount_label, place=place)

        self._operate(decision)
        while place.lost is not None:
            # The journal says it is mounted and the kernel does not: end that mount, then mount.
            for settled in recovery.end_mount(self._hands, place.lost, reason="lost"):
                if settled.what == "failed":
                    raise Busy(settled.message, hint="It is mounted in another mount namespace.")
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

    def remove(self, id: str) -> None:  # noqa: A002
        """Remove a layer with its content. This open store's own holds of it end with it.

        Raises HasChildren, LayerHeld while others hold it, UpperBusy, UnknownLayer.
        """
        full = self._hands.full
        while True:
            try:
                self._operate(lambda tx, _: decide.remove(tx, id, self._me, durable=full))
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
            with self._hands.journal.transaction(full=False) as tx:
                ended |= decide.end_holds(tx, layer, hold.holder, reason="its process died")
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

    def _operate(self, decision: recovery.Decision) -> e.Intent | None:
        """Run one operation, after whatever is in flight on its layers."""
        self._check_usable()
        try:
            return waiting.operate(
                self._hands, decision, timeout=self._timeout, name_of=self._name_of
            )
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{error.object!r} is not a text in UTF-8.") from error

    def _name_of(self, owner: str) -> str:
        found = self.owner(owner)
        return owner if found is None else f"{found.command}, process {found.pid}"

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedStore(self._pid, os.getpid())

    def _durability(self) -> str:
        return "full" if self._hands.full else "process"

    def _leak(self) -> None:
        self._opened.leak()


def _absolute(home: str | os.PathLike[str]) -> Path:
    """Symbolic links resolved: the kernel and the mount table speak of the real path."""
    return Path(home).resolve()
