"""Owns which home one socket serves: one at a time, from Init to Cleanup; no verb on a layer.

Requests carry an id and no home, also to a server that was started after Init. So the Init is kept in
a file beside the socket, until Cleanup: a restart of the server is not seen by dockerd.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from layerstore.docker import counted, protocol
from layerstore.docker.pending import Pending
from layerstore.docker.watch import ANSWER_WITHIN, Pulse
from layerstore.errors import Busy, InvalidArgument, LayerstoreError, Refused
from layerstore.fs import durable
from layerstore.store import Store

if TYPE_CHECKING:
    from layerstore.answers import Status
    from layerstore.fs.locks import HolderLock

log = logging.getLogger("layerstore.docker")

HOLDER: Final = "docker"
"""In whose name Get and Put count: it outlives this server, as dockerd does."""


@attrs.frozen
class Allowed:
    """What the configuration says: where homes may be, and how stores are opened."""

    roots: tuple[str, ...]
    timeout: float = 30.0
    durability: str = "full"
    record_applied: bool = False
    compact_above: int = 100_000
    keep_archives: int | None = None
    options: tuple[str, ...] = ()
    archives: str = "20.10"
    """As which Docker's own driver archives are written."""
    answer_within: float = ANSWER_WITHIN
    """Seconds for a verb; a stream may take as long as bytes flow."""


@attrs.define
class Opened:
    """A home that is being served."""

    init: protocol.Init
    home: str
    store: Store
    lock: HolderLock
    users: int = 0
    created: set[str] = attrs.Factory(set)
    """Layers made in this life of the server, to which nothing was applied yet."""


class Homes:
    """One socket's home. Safe to use from many threads."""

    def __init__(self, socket: str, allowed: Allowed) -> None:
        """Two files beside the socket keep the Init, and what is being answered."""
        self._memory = f"{socket}.home"
        self.pending = Pending(f"{socket}.pending")
        self._allowed = allowed
        self._changed = threading.Condition()
        self._open: Opened | None = None
        self._turning = False
        """An Init or a Cleanup is at work: nothing else begins."""
        self._why_not = ""
        self.recovered: Counter[str] = Counter()
        """What opening stores settled here, by what was done."""
        self.pulse = Pulse(self.status)
        """For whoever asks how it is and must not hang."""

    # --- one home at a time -------------------------------------------------------------------

    def resume(self) -> None:
        """Go on with the home of a server that ended without a Cleanup, if there was one."""
        try:
            with open(self._memory, encoding="utf-8") as file:
                kept = json.load(file)
            init = protocol.init({key: kept[key] for key in ("home", "opts", "uidmaps", "gidmaps")})
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, InvalidArgument) as error:
            log.warning("not-resumed file=%r error=%r", self._memory, str(error))
            return
        try:
            self._open = self._opened(init, make=False)
        except (LayerstoreError, OSError) as error:
            self._why_not = f" {init.home} could not be opened again: {error}"
            log.error("not-resumed home=%r error=%r", init.home, str(error))
            return
        store = self._open.store
        counted.settle(self.pending, lambda layer: store.held(layer, HOLDER))

    def close(self) -> None:
        """Close the store. What docker holds it goes on holding."""
        with self._changed:
            opened, self._open = self._open, None
        if opened is not None:
            _close(opened)  # the records stay open: a straggler may write one

    @property
    def home(self) -> str | None:
        opened = self._open
        return None if opened is None else opened.home

    def status(self) -> Status | None:
        """What the store that is being served says of itself."""
        with self._changed:
            if self._open is None:
                return None
        with self.using() as opened:
            return opened.store.status()

    @contextlib.contextmanager
    def using(self) -> Iterator[Opened]:
        """The store for the length of one request; it is not closed meanwhile."""
        deadline = time.monotonic() + self._allowed.timeout
        with self._changed:
            while self._turning:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Busy("An Init or a Cleanup is at work.")
            opened = self._open
            if opened is None:
                raise Refused(f"No home is being served.{self._why_not}", hint="Init comes first.")
            opened.users += 1
        try:
            yield opened
        finally:
            with self._changed:
                opened.users -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else is at work, nor begins."""
        deadline = time.monotonic() + self._allowed.timeout

        def wait(busy: Callable[[], bool]) -> None:
            while busy():
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Busy("Other requests are at work still.")

        with self._changed:
            wait(lambda: self._turning)
            self._turning = True
        try:
            with self._changed:
                wait(lambda: self._open is not None and self._open.users > 0)
            yield
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    def _opened(self, init: protocol.Init, *, make: bool) -> Opened:
        allowed = self._allowed
        home = self._allowed_home(init.home)
        if make and not os.path.exists(f"{home}/.layerstore/store.json"):
            Store.initialize(home)
        store = Store.open(
            home,
            timeout=allowed.timeout,
            durability=allowed.durability,
            compact_above=allowed.compact_above,
            keep_archives=allowed.keep_archives,
            options=(*allowed.options, *init.options),
            uid_maps=init.uid_maps,
            gid_maps=init.gid_maps,
        )
        store.record_applied = allowed.record_applied
        try:
            self.recovered.update(settled.what for settled in store.settled)
            for settled in store.settled:
                log.info("settled home=%r what=%s message=%r", home, settled.what, settled.message)
            return Opened(init, home, store, store.act_for(HOLDER))
        except BaseException:
            store.close()
            raise

    def _allowed_home(self, home: str) -> str:
        """The real path of a home, which lies below a root that the configuration allows."""
        real = os.path.realpath(home)
        for root in self._allowed.roots:
            if real.startswith(f"{os.path.realpath(root).rstrip('/')}/"):
                return real
        raise Refused(
            f"{home} is not below {' or '.join(self._allowed.roots)}.",
            hint="The setting docker_roots, or --root, allows other places.",
        )

    # --- Init and Cleanup ---------------------------------------------------------------------

    def init(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A daemon starts: with a new home, with the one that it left, or once more."""
        wanted = protocol.init(values)
        home = self._allowed_home(wanted.home)
        with self.alone():
            opened = self._open
            if opened is not None and opened.home != home:
                raise Refused(
                    f"This socket serves {opened.home} already.",
                    hint="The Cleanup of its daemon ends that; another daemon needs a socket of its "
                    f"own (--socket). If that daemon is gone, stop the server, delete {self._memory} "
                    "and start it again.",
                )
            if opened is not None and opened.init != wanted:
                self._open = None
                _close(opened)
                opened = None
            if opened is None:
                opened = self._opened(wanted, make=True)
            self._open, self._why_not = opened, ""
            self._remember(wanted)
            self.pending.forget()
            kept = opened.store.start_anew(HOLDER)
        log.info("init home=%r layers_held=%d", home, len(kept))
        return {}

    def _remember(self, init: protocol.Init) -> None:
        kept = {
            "home": init.home,
            "opts": init.options,
            "uidmaps": [dict(entry) for entry in init.uid_maps],
            "gidmaps": [dict(entry) for entry in init.gid_maps],
        }
        durable.replace_file(self._memory, json.dumps(kept) + "\n", mode=0o600)

    def cleanup(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """A daemon ends: what it held is unmounted, unless others hold it too; the home stays."""
        with self.alone():
            opened = self._open
            if opened is None:
                return {}
            try:
                opened.store.end_outside(HOLDER)
            finally:
                self._open = None
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._memory)
                _close(opened)
        return {}


def _close(opened: Opened) -> None:
    try:
        opened.store.close()
    finally:
        opened.lock.release()
