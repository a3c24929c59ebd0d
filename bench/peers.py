"""Owns the comparison with peers: their own programs, in stores of their own; it must not print.

A peer is measured by its command line, less the time that the same program takes to say its version;
the library by a call on an open store, under `process`, since the peers sync no layer, and under
`full`. Every command of a peer and every call of ours works upon the tenth layer of a chain.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from cases import Lazy
from measure import Beside, NotMeasured, Spread
from stores import PARENT, wide

from layerstore import Store

PROGRAMS = {
    "containers-storage": ("containers-storage",),
    "containerd": ("containerd", "ctr"),
    "docker": ("docker", "dockerd", "containerd"),
}
_PLUGINS = ("io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt")


class PeerFailed(Exception):
    """A peer did not do what it was told."""


@attrs.frozen
class Verbs:
    """Methods of a subject that are called with a name: before, within and after what is timed."""

    before: tuple[str, ...]
    timed: str
    after: tuple[str, ...]


@attrs.frozen
class PeerRow:
    name: str
    ours: Verbs
    theirs: Verbs
    open: Callable[[], Any]
    """The peer, with its store of that size."""
    library: Callable[[bool], Any]
    """Our store of that size, open under `full` or not."""


# --- the library ------------------------------------------------------------------------------


class _Library:
    """Our calls, under the names that the rows use."""

    def __init__(self, home: str, *, full: bool) -> None:
        self._store = Store.open(home, durability="full" if full else "process")
        self.mount = self._store.get
        self.unmount = self._store.put
        self.remove = self._store.remove
        self.close = self._store.close

    def create(self, name: str) -> None:
        self._store.create(name, parent=PARENT)

    def prepare(self, name: str) -> None:
        self._store.create_read_write(name, parent=PARENT)


# --- the peers --------------------------------------------------------------------------------


class Program:
    """A peer's command line."""

    def __init__(self) -> None:
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent"}

    def _run(self, *argv: str) -> None:
        done = subprocess.run(
            argv, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerFailed(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")

    def version(self, _: str = "") -> None:
        raise NotImplementedError


class ContainersStorage(Program):
    """containers-storage, with its overlay driver."""

    def __init__(self, place: str, size: int) -> None:
        super().__init__()
        self._at = self._options(f"{place}/containers-storage-{size}")
        self._empty = self._options(f"{place}/containers-storage-empty")
        for spec in wide(size):
            parent = [] if spec.parent is None else [spec.parent]
            self._run("containers-storage", "create-layer", *self._at, "--id", spec.id, *parent)

    @staticmethod
    def _options(place: str) -> list[str]:
        return ["--graph", f"{place}/graph", "--run", f"{place}/run", "--storage-driver", "overlay"]

    def version(self, _: str = "") -> None:
        """It says it only with a store: an empty one."""
        self._run("containers-storage", "version", *self._empty)

    def create(self, name: str) -> None:
        self._run("containers-storage", "create-layer", *self._at, "--id", name, PARENT)

    def mount(self, name: str) -> None:
        self._run("containers-storage", "mount", *self._at, name)

    def unmount(self, name: str) -> None:
        self._run("containers-storage", "unmount", *self._at, name)

    def remove(self, name: str) -> None:
        self._run("containers-storage", "delete-layer", *self._at, name)

    def close(self) -> None:
        """Nothing runs; the mounts below go with this mount namespace."""


def die_with_parent() -> None:
    """In the daemon, before it is one: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Containerd(Program):
    """A containerd of our own, and its overlay snapshotter through ctr."""

    def __init__(self, place: str, size: int) -> None:
        super().__init__()
        top = f"{place}/containerd-{size}"
        os.makedirs(top)
        self._socket = f"{top}/socket"
        config, self._log = Path(top, "config.toml"), Path(top, "log")
        disabled = ", ".join(f'"{plugin}"' for plugin in _PLUGINS)
        config.write_text(
            f'version = 2\nroot = "{top}/root"\nstate = "{top}/state"\n'
            f"disabled_plugins = [{disabled}]\n"
            f'[grpc]\naddress = "{self._socket}"\n[ttrpc]\naddress = "{self._socket}.ttrpc"\n'
        )
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                ["containerd", "--config", str(config)],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no other thread runs now
            )
        try:
            self._wait()
            for spec in wide(size):
                self._snapshots("prepare", f"{spec.id}-active", spec.parent or "")
                self._snapshots("commit", spec.id, f"{spec.id}-active")
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self._run("ctr", "--address", self._socket, "version")
            except PeerFailed as failure:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    said = self._log.read_text(errors="replace").splitlines()[-1:]
                    raise PeerFailed(f"containerd did not start: {said or failure}") from None
                time.sleep(0.05)
            else:
                return

    def _snapshots(self, *words: str) -> None:
        self._run("ctr", "--address", self._socket, "snapshots", *words)

    def version(self, _: str = "") -> None:
        self._run("ctr", "--version")

    def prepare(self, name: str) -> None:
        self._snapshots("prepare", f"{name}-active", PARENT)

    def commit(self, name: str) -> None:
        self._snapshots("commit", name, f"{name}-active")

    def remove(self, name: str) -> None:
        self._snapshots("rm", name)

    def remove_active(self, name: str) -> None:
        self._snapshots("rm", f"{name}-active")

    def close(self) -> None:
        self._daemon.terminate()
        try:
            self._daemon.wait(10)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


# --- rows -------------------------------------------------------------------------------------

_STORAGE = {
    "create-layer": ((), "create", ("remove",)),
    "mount": (("create",), "mount", ("unmount", "remove")),
    "unmount": (("create", "mount"), "unmount", ("remove",)),
    "delete-layer": (("create",), "remove", ()),
}
"""The same methods on both sides."""

_SNAPSHOTS = {
    # The library needs no commit: a create, the whole of it, stands against the commit alone.
    "prepare": (((), "prepare", ("remove",)), ((), "prepare", ("remove_active",))),
    "commit": (((), "create", ("remove",)), (("prepare",), "commit", ("remove",))),
    "rm": ((("create",), "remove", ()), (("prepare", "commit"), "remove", ())),
}


def rows(place: str, sizes: dict[str, tuple[int, Lazy]]) -> Iterator[PeerRow]:
    """`sizes`: how many layers by their name in the table, and our store of that size."""
    for size, (count, lazy) in sizes.items():
        library = _library(lazy)
        storage = once(functools.partial(ContainersStorage, place, count))
        for command, (before, timed, after) in _STORAGE.items():
            verbs = Verbs(before, timed, after)
            yield PeerRow(
                f"containers-storage {command}, {size} layers", verbs, verbs, storage, library
            )
        containerd = once(functools.partial(Containerd, place, count))
        for command, (ours, theirs) in _SNAPSHOTS.items():
            yield PeerRow(
                f"containerd snapshots {command}, {size} layers",
                Verbs(*ours),
                Verbs(*theirs),
                containerd,
                library,
            )


def _library(lazy: Lazy) -> Callable[[bool], Any]:
    return lambda full: _Library(lazy().ours, full=full)


_running: list[Any] = []


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Make a peer when the first row needs it; `stop` closes it."""
    made: list[Any] = []

    def subject() -> Any:
        if not made:
            made.append(make())
            _running.append(made[0])
        return made[0]

    return subject


def stop() -> None:
    """End what was started for the rows."""
    while _running:
        _running.pop().close()


def missing(row: PeerRow) -> NotMeasured | None:
    """What says that a row's peer is not there."""
    programs = PROGRAMS[row.name.partition(" ")[0]]
    gone = [program for program in programs if shutil.which(program) is None]
    return NotMeasured(row.name, "not measured: not installed") if gone else None


_names = (f"new{number}" for number in itertools.count())


def measure(row: PeerRow, *, rounds: int, turns: int) -> Beside:
    """The three sides in turns, each as often first as the others; a peer's version beside it."""
    peer = row.open()
    process, full = (row.library(full) for full in (False, True))
    version = Verbs((), "version", ())
    sides = ((process, row.ours), (full, row.ours), (peer, row.theirs), (peer, version))
    try:
        for side in sides:
            _turn(*side)
        times = [_round(sides, turns, number) for number in range(rounds)]
    finally:
        process.close()
        full.close()
    return Beside(
        row.name,
        *(Spread.of([time[which] for time in times]) for which in range(3)),
        ratio=Spread.of([ours / theirs for ours, _, theirs in times]),
    )


def _round(sides: tuple[Any, ...], turns: int, number: int) -> tuple[float, float, float]:
    """The median of some turns of each side; of the peer's, less that of saying its version."""
    found: list[list[float]] = [[] for _ in sides]
    for turn in range(turns):
        for shift in range(len(sides)):
            which = (number + turn + shift) % len(sides)
            found[which].append(_turn(*sides[which]))
    process, full, peer, version = map(statistics.median, found)
    return process, full, max(peer - version, _SHORTEST)


_SHORTEST = 1e-4
"""A command that took no longer than its version: a tenth of a millisecond is what can be told apart."""


def _turn(subject: Any, verbs: Verbs) -> float:
    name = next(_names)
    for verb in verbs.before:
        getattr(subject, verb)(name)
    began = time.perf_counter()
    getattr(subject, verbs.timed)(name)
    seconds = time.perf_counter() - began
    for verb in verbs.after:
        getattr(subject, verb)(name)
    return seconds
