"""Owns the public verbs: decide, journal, perform, journal. It must not know how a step is done.

Every verb is one operation: an intent transaction that checks the preconditions, the effects, an
outcome transaction. An operation that is in flight on the layer is waited for, or settled if its
owner is dead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Self, overload

from layerstore import comparison, description, opening, recovery, rows
from layerstore import events as e
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import (
    Busy,
    ForkedStore,
    HasChildren,
    InvalidOption,
    LayerDamaged,
    LayerExists,
    LayerHeld,
    LayerstoreError,
    NotHeld,
    TooDeep,
    UnknownHolder,
    UnknownLayer,
)
from layerstore.fs import layout, mountinfo
from layerstore.journal import InFlight, Transaction
from layerstore.reader import Reader, revision

_OPEN: weakref.WeakSet[Store]


class Store(Reader):
    """A store, opened to work with it; also everything that a Reader answers.

    Safe to use from many threads; not in a forked child, which opens it anew.
    """

    def __init__(self, home: Path, opened: opening.Opened, *, timeout: float) -> None:
        super().__init__(home, opened.about, opened.database)
        self._opened = opened
        self._hands = opened.hands
        self._timeout = timeout
        self._me = m.OWNER_PREFIX + opened.hands.journal.author.owner
        self._working = threading.local()
        self._closed = False
        _OPEN.add(self)

    # --- making and opening -------------------------------------------------------------------

    @classmethod
    def initialize(cls, home: str | os.PathLike[str], *, max_depth: int = m.DEFAULT_DEPTH) -> None:
        """Make `home` a store; its last directory is made if it is missing.

        `max_depth`: how many lower layers a layer may have, 1 to 499. Raises StoreExists,
        CannotCarryOverlay, InvalidArgument.
        """
        opening.initialize(_absolute(home), max_depth=max_depth)

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
        opened = opening.open_store(path, timeout=timeout, durability=m.Durability(durability))
        return cls(path, opened, timeout=timeout)

    @classmethod
    def rebuild(cls, home: str | os.PathLike[str], *, timeout: float = 30) -> tuple[m.Settled, ...]:
        """Begin a new journal from the tree; the old database goes to quarantine."""
        return tuple(opening.rebuild(_absolute(home), timeout=timeout))

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
            _OPEN.discard(self)
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
        m.check_layer_id(layer)
        if parent is not None:
            m.check_layer_id(parent)
        wanted = m.Layer(
            id=m.LayerId(layer),
            link=_new_link(),
            parent=None if parent is None else m.LayerId(parent),
            lower="",
            depth=0,
            state=m.LayerState.READY,
            read_write=read_write,
            committed=False,
            created_at=m.from_micros(0),
            created_seq=0,
            labels=dict(labels or {}),
            storage_options=_checked_options(storage_options),
            mount_label=mount_label,
        )
        self._operate(lambda tx, _: self._decide_create(tx, wanted))
        return self.layer(layer)

    def _decide_create(self, tx: Transaction, wanted: m.Layer) -> e.Intent:
        tx.require_idle(wanted.id)
        existing = tx.layer(wanted.id)
        if existing is not None:
            raise LayerExists(wanted.id, same_and_unused=_same_and_unused(existing, wanted))
        if os.path.lexists(f"{self._home}/{wanted.id}"):
            raise LayerExists(wanted.id, where="tree")
        parent = None if wanted.parent is None else self._usable_parent(tx, wanted.parent)
        lower = "" if parent is None else layout.child_lower(parent.link, parent.lower)
        depth = 0 if parent is None else parent.depth + 1
        if depth > self._about.max_depth:
            raise TooDeep(wanted.id, depth, self._about.max_depth)
        return e.LayerCreateIntended(
            layer=wanted.id,
            link=wanted.link,
            parent=wanted.parent,
            parent_link="" if parent is None else parent.link,
            lower=lower,
            depth=depth,
            read_write=wanted.read_write,
            labels=wanted.labels,
            storage_options=wanted.storage_options,
            mount_label=wanted.mount_label,
            durable=self._hands.full,
            sync_parent=parent is not None and not parent.durable,
            probe_parent=parent is not None and parent.draining,
        )

    def _usable_parent(self, tx: Transaction, parent: str) -> m.Layer:
        """A child would see what is written to a parent that is mounted read-write."""
        tx.require_idle(parent)
        found = _usable(tx, parent)
        mount = tx.one(sql.SELECT_MOUNT, layer=parent)
        if mount is not None and not rows.mount(mount).read_only:
            raise LayerHeld(parent, self._holders_in(tx, parent))
        return found

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
        gone: list[m.Mount] = []

        def decide(tx: Transaction, _: str) -> e.Intent | None:
            gone.clear()
            return self._decide_get(tx, id, holder, mount_label, gone)

        self._operate(decide)
        while gone:
            # The journal says it is mounted and the kernel does not: end that mount, then mount.
            for settled in recovery.end_mount(self._hands, gone[0], reason="lost"):
                if settled.what == "failed":
                    raise Busy(settled.message, hint="It is mounted in another mount namespace.")
            self._operate(decide)
        found = self.layer(id)
        place = layout.diff(id) if found.parent is None else layout.merged(id)
        return Path(f"{self._home}/{place}")

    def _decide_get(
        self, tx: Transaction, layer: str, holder: str, mount_label: str, gone: list[m.Mount]
    ) -> e.Intent | None:
        tx.require_idle(layer)
        found = _usable(tx, layer)
        if found.parent is None:
            tx.append(e.HoldTaken(layer, holder))
            return None
        mounted = mountinfo.is_mount_root(f"{self._home}/{layout.merged(layer)}")
        row = tx.one(sql.SELECT_MOUNT, layer=layer)
        if row is not None and not mounted:
            gone.append(rows.mount(row))
            return None
        if row is None and mounted:
            event = comparison.found_mount(self._home, tx, layer)
            if event is not None:
                tx.append(event)
        if mounted:
            tx.append(e.HoldTaken(layer, holder))
            return None
        children = tx.one(sql.COUNT_CHILDREN, id=layer)
        return e.LayerMountIntended(
            layer=layer,
            link=found.link,
            lower=found.lower,
            chain=tuple(row[0] for row in tx.all(sql.SELECT_CHAIN_IDS, id=layer)),
            holder=holder,
            read_only=found.committed or children != (0,),
            mount_label=mount_label or found.mount_label,
        )

    def put(self, id: str, *, holder: str | None = None) -> bool:  # noqa: A002
        """Give one hold back; True if it was the last one and the layer was unmounted.

        Raises NotHeld if `holder` (by default this open store) does not hold it.
        """
        holder = self._me if holder is None else m.check_holder(holder)

        def decide(tx: Transaction, _: str) -> e.Intent | None:
            tx.require_idle(id)
            found = tx.layer(id)
            if found is None:
                raise UnknownLayer(id)
            if tx.one(sql.SELECT_HOLD, layer=id, holder=holder) is None:
                raise NotHeld(id, holder)
            row = tx.one(sql.SELECT_MOUNT, layer=id)
            if row is None or tx.one(sql.SUM_HOLDS, layer=id) != (1,):
                tx.append(e.HoldReleased(id, holder))
                return None
            return e.LayerUnmountIntended(id, holder, "put", rows.mount(row).read_only)

        return self._operate(decide) is not None

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
        while True:
            try:
                self._operate(lambda tx, _: self._decide_remove(tx, id))
            except LayerHeld as held:
                if not self._end_dead_holds(id):
                    raise held from None
            else:
                return

    def _decide_remove(self, tx: Transaction, layer: str) -> e.Intent:
        tx.require_idle(layer)
        found = tx.layer(layer)
        if found is None:
            raise UnknownLayer(layer)
        count = tx.one(sql.COUNT_CHILDREN, id=layer)
        if count is not None and count[0]:
            children = tuple(row[0] for row in tx.all(sql.SELECT_CHILDREN, id=layer, page=5))
            raise HasChildren(layer, children, count[0])
        others = tuple(h for h in self._holders_in(tx, layer) if h != self._me)
        if others:
            raise LayerHeld(layer, others)
        return e.LayerRemoveIntended(
            layer=layer,
            link=found.link,
            holder=self._me,
            mounted=tx.one(sql.SELECT_MOUNT, layer=layer) is not None,
            probe=found.parent is not None,
            durable=self._hands.full,
        )

    def _holders_in(self, tx: Transaction, layer: str) -> tuple[str, ...]:
        return tuple(rows.hold(r).holder for r in tx.all(sql.SELECT_HOLDS_ON, layer=layer))

    def _end_dead_holds(self, layer: str) -> bool:
        """End the holds of owners that died while this store was open."""
        ended = False
        for hold in self.holders(layer):
            owner = hold.holder.removeprefix(m.OWNER_PREFIX)
            if owner == hold.holder or self._hands.is_alive(owner):
                continue
            with self._hands.journal.transaction(full=False) as tx:
                if tx.one(sql.SELECT_HOLD, layer=layer, holder=hold.holder) is not None:
                    tx.append(e.HoldsEnded(layer, hold.holder, "its process died"))
                    ended = True
        return ended

    # --- cleanup and release ------------------------------------------------------------------

    def cleanup(self) -> tuple[str, ...]:
        """Unmount everything that the journal mounted, whoever holds it; never the home.

        Docker's Cleanup: for the end of a daemon. The ids that were unmounted.
        """
        self._check_usable()
        return tuple(
            mount.layer for mount in self.mounts() if self._unmount(mount.layer, "cleanup")
        )

    def release(self, holder: str) -> tuple[str, ...]:
        """End every hold of a name that never returns; the layers that it held."""
        m.check_holder(holder)
        held = [row[0] for row in self._read(sql.SELECT_HELD_BY, holder=holder)]
        if not held:
            raise UnknownHolder(holder)
        for layer in held:

            def decide(tx: Transaction, _: str, layer: str = layer) -> e.Intent | None:
                tx.require_idle(layer)
                if tx.one(sql.SELECT_HOLD, layer=layer, holder=holder) is not None:
                    tx.append(e.HoldsEnded(layer, holder, "released by name"))
                return None

            self._operate(decide)
            self._unmount(layer, "no holder")
        return tuple(held)

    def _unmount(self, layer: str, reason: str) -> bool:
        def decide(tx: Transaction, _: str) -> e.Intent | None:
            tx.require_idle(layer)
            row = tx.one(sql.SELECT_MOUNT, layer=layer)
            held = tx.one(sql.SUM_HOLDS, layer=layer) != (0,)
            if row is None or (reason == "no holder" and held):
                return None
            return e.LayerUnmountIntended(layer, None, reason, rows.mount(row).read_only)

        return self._operate(decide) is not None

    # --- waiting ------------------------------------------------------------------------------

    def _operate(self, decide: Callable[[Transaction, str], e.Intent | None]) -> e.Intent | None:
        """Run one operation, after whatever is in flight on its layers."""
        self._check_usable()
        if getattr(self._working, "now", False):
            raise LayerstoreError("A verb was called while its thread was inside another one.")
        deadline = time.monotonic() + self._timeout
        pause = 0.001
        self._working.now = True
        try:
            while True:
                try:
                    return recovery.run(self._hands, decide)
                except InFlight as blocked:
                    pause = self._wait(blocked.operation, deadline, pause)
        finally:
            self._working.now = False

    def _wait(self, operation: m.Operation, deadline: float, pause: float) -> float:
        """Settle an operation that nobody is at, or wait a moment; Busy after the deadline."""
        hands = self._hands
        ours = operation.owner == hands.journal.author.owner
        with hands.changed:
            active = operation.id in hands.active
        if not active and (ours or operation.abandoned or not hands.is_alive(operation.owner)):
            settled = recovery.settle(hands, operation)
            if settled is not None and settled.what == "failed":
                raise Busy(
                    f"Layer {operation.layer} has an unfinished {operation.verb} that cannot be "
                    f"settled: {settled.message}.",
                    hint="'layerstore audit' says more; every other layer is usable.",
                )
            if settled is not None:
                return pause
        if time.monotonic() >= deadline:
            raise Busy(
                f"Layer {operation.layer} has a {operation.verb} in flight (operation "
                f"{operation.id}, owner {self._name_of(operation.owner)}).",
                hint="Try again; 'layerstore status' lists what is in flight.",
            )
        with hands.changed:
            if operation.id in hands.active:
                hands.changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
                return pause
        time.sleep(pause)
        return min(pause * 2, 0.05)

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


_OPEN = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A child neither keeps its parent's owner alive nor closes its parent's database."""
    for store in list(_OPEN):
        store._leak()
    _OPEN.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _absolute(home: str | os.PathLike[str]) -> Path:
    """Symbolic links resolved: the kernel and the mount table speak of the real path."""
    return Path(home).resolve()


def _new_link() -> m.LinkId:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    return m.LinkId("".join(secrets.choice(alphabet) for _ in range(26)))


def _usable(tx: Transaction, layer: str) -> m.Layer:
    found = tx.layer(layer)
    if found is None:
        raise UnknownLayer(layer)
    if found.damage:
        raise LayerDamaged(layer, found.damage)
    return found


def _same_and_unused(existing: m.Layer, wanted: m.Layer) -> bool:
    """Whether a create can be answered as if it were the first one: a client that asks again."""
    return not existing.used and (
        existing.parent,
        existing.read_write,
        existing.labels,
        existing.storage_options,
        existing.mount_label,
    ) == (
        wanted.parent,
        wanted.read_write,
        wanted.labels,
        wanted.storage_options,
        wanted.mount_label,
    )


def _checked_options(options: Mapping[str, str] | None) -> dict[str, str]:
    """Keys trimmed and case-folded. This version has no option: `size` needs project quotas."""
    for key in options or {}:
        name = key.strip().lower()
        if name == "size":
            raise InvalidOption(
                "The storage option 'size' needs project quotas, which this version does not set.",
                hint="Leave it out; the layer may use the whole file system.",
            )
        raise InvalidOption(f"There is no storage option {key!r}.")
    return {}
