"""Owns the rows with a floor: what is compared with what; it must not print.

Where both sides have the verb, the row's work is one function that is given either the library's
store or the floor's.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import victim
from floor import FloorStore
from measure import Clock, NotAlike, Row
from stores import PARENT, Twins, shape

from layerstore import Store
from layerstore.fs import layout

ROOT = Path(__file__).resolve().parent.parent


class Ours:
    """The library's store, under the names that the rows use."""

    def __init__(self, home: str, *, full: bool) -> None:
        self.home = home
        self._store = Store.open(home, durability="full" if full else "process")
        self.lower_dirs = self._store.lower_dirs
        self.metadata = self._store.metadata
        self.get = self._store.get
        self.put = self._store.put
        self.hold = self._store.get
        self.release = self._store.put
        self.remove = self._store.remove
        self.close = self._store.close

    def create(self, layer: str, parent: str) -> None:
        self._store.create(layer, parent=parent)

    def forget(self) -> None:
        """A cache that a first question does not find filled."""
        self._store._links.clear()
        self._store._chains.clear()


Lazy = Callable[[], Twins]


def _stores(
    twins: Lazy, *, full: bool = True, kind: type[FloorStore] = FloorStore
) -> tuple[Callable[[], Ours], Callable[[], FloorStore]]:
    """The library's store and the floor's."""
    return (
        lambda: Ours(twins().ours, full=full),
        lambda: kind(twins().floor, twins().layers, full=full),
    )


# --- create, remove ---------------------------------------------------------------------------


def create(subject: Any, clock: Clock, count: int) -> None:
    names = [f"new{number}" for number in range(count)]
    with clock:
        for name in names:
            subject.create(name, PARENT)
    for name in names:
        subject.remove(name)


def remove(subject: Any, clock: Clock, count: int) -> None:
    names = [f"new{number}" for number in range(count)]
    for name in names:
        subject.create(name, PARENT)
    with clock:
        for name in names:
            subject.remove(name)


def _created_and_removed(subject: Any) -> object:
    subject.create("new0", PARENT)
    made = shape(subject.home, ["new0", PARENT])
    subject.remove("new0")
    return made, shape(subject.home, ["new0", PARENT])


def create_rows(twins: Lazy, size: str) -> Iterator[Row]:
    for verb, work in (("create", create), ("remove", remove)):
        for durability in ("process", "full"):
            yield Row(
                f"{verb}, {durability}, {size} layers",
                *_stores(twins, full=durability == "full"),
                work,
                _created_and_removed,
                traced=size == "10",
            )


# --- get, put ---------------------------------------------------------------------------------


def _first_and_last(layer: str, subject: Any, clock: Clock, count: int) -> None:
    with clock:
        for _ in range(count):
            subject.get(layer)
            subject.put(layer)


def _mounted(layer: str, subject: Any) -> object:
    subject.get(layer)
    there = shape(subject.home, [layer])
    subject.put(layer)
    return there, shape(subject.home, [layer])


def _further(layer: str, subject: Any, clock: Clock, count: int) -> None:
    subject.get(layer)
    try:
        with clock:
            for _ in range(count):
                subject.hold(layer)
                subject.release(layer)
    finally:
        subject.put(layer)


class _Unprobed(FloorStore):
    """The floor as it would be if nobody had to ask whether the upper is in use."""

    def get(self, layer: str, *, probe: bool = False) -> None:
        super().get(layer, probe=probe)


def mount_rows(twins: Lazy) -> Iterator[Row]:
    for lowers in (1, 10, 125):
        layer = f"leaf{lowers}"
        for kind, words in ((FloorStore, ""), (_Unprobed, "; no probe in the floor")):
            yield Row(
                f"first get + last put, {lowers} lower{'s'[: lowers > 1]}{words}",
                *_stores(twins, kind=kind),
                functools.partial(_first_and_last, layer),
                functools.partial(_mounted, layer),
                traced=kind is FloorStore,
            )
    yield Row(
        "further get + put, 10 lowers",
        *_stores(twins),
        functools.partial(_further, "leaf10"),
        functools.partial(_mounted, "leaf10"),
        count=25,
        traced=True,
    )


# --- questions --------------------------------------------------------------------------------


def _ask(verb: str, layer: str, subject: Any, clock: Clock, count: int) -> None:
    question = getattr(subject, verb)
    with clock:
        for _ in range(count):
            question(layer)


def _ask_first(verb: str, layer: str, subject: Any, clock: Clock, count: int) -> None:
    question, forget = getattr(subject, verb), getattr(subject, "forget", lambda: None)
    for _ in range(count):
        forget()
        with clock:
            question(layer)


def _answered(verb: str, layer: str, subject: Any) -> object:
    """The same directories: the library names them by link, Docker's driver by layer."""
    answer = getattr(subject, verb)(layer)
    if verb == "metadata":
        return {key: value.replace(subject.home, "") for key, value in answer.items()}
    return [os.path.realpath(path).removeprefix(subject.home) for path in answer]


def question_rows(twins: Lazy) -> Iterator[Row]:
    asked = [
        (f"{verb}, depth {depth}", verb, depth, _ask)
        for verb in ("lower_dirs", "metadata")
        for depth in (125, 499)
    ]
    asked.append(("metadata, depth 499, asked first", "metadata", 499, _ask_first))
    for name, verb, depth, work in asked:
        layer = f"d{depth:03}"
        yield Row(
            name,
            *_stores(twins),
            functools.partial(work, verb, layer),
            functools.partial(_answered, verb, layer),
            count=25,
        )


# --- open -------------------------------------------------------------------------------------


@attrs.define
class Opener:
    """A store that is opened again and again; `killed`: each time after a process died in it."""

    side: str
    home: str
    open: Callable[[], Any]
    killed: bool

    def prepare(self) -> None:
        if self.killed:
            script = Path(__file__).with_name("victim.py")
            argv = [sys.executable, str(script), self.side, self.home]
            done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
            if done.returncode != -signal.SIGKILL:
                raise NotAlike(f"the victim was not killed: it ended with {done.returncode}")

    def close(self) -> None:
        """Nothing is open between rounds."""


def _open_floor(twins: Twins, *, killed: bool) -> FloorStore:
    """What `Store.open` commits, and what settling three creates does."""
    store = FloorStore(twins.floor, twins.layers, full=True)
    store.own()
    if killed:
        dead = f"{twins.floor}/{layout.owner_lock(victim.OWNER)}"
        for layer, stage in zip(victim.LAYERS, victim.STAGES, strict=True):
            store.settle_create(layer, PARENT, stage, dead)
        store.bury(dead, PARENT)
    return store


def reopen(subject: Opener, clock: Clock, count: int) -> None:
    for _ in range(count):
        subject.prepare()
        with clock:
            opened = subject.open()
        opened.close()


def _reopened(subject: Opener) -> object:
    reopen(subject, Clock(), 1)
    return shape(subject.home, [PARENT, *victim.LAYERS])


def open_rows(twins: Lazy, size: str) -> Iterator[Row]:
    for killed, words in ((False, "clean close"), (True, "kill -9, 3 in flight")):

        def ours(killed: bool = killed) -> Opener:
            home = twins().ours
            return Opener("ours", home, lambda: Store.open(home), killed)

        def floor(killed: bool = killed) -> Opener:
            both = twins()
            return Opener("floor", both.floor, lambda: _open_floor(both, killed=killed), killed)

        yield Row(
            f"open after {words}, {size} layers",
            ours,
            floor,
            reopen,
            _reopened,
            turns=1 if killed else 5,
            traced=size == "10",
        )


# --- whole processes --------------------------------------------------------------------------


@attrs.define
class _Program:
    """A command line that is run again and again; `{}` in it is a new number each time."""

    argv: list[str]
    environment: dict[str, str]
    runs: int = 0

    def run(self) -> None:
        self.runs += 1
        argv = [word.replace("{}", str(self.runs)) for word in self.argv]
        subprocess.run(argv, cwd=ROOT, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        """Nothing is open."""


def _run(subject: _Program, clock: Clock, count: int) -> None:
    for _ in range(count):
        with clock:
            subject.run()


def _ran(subject: _Program) -> object:
    subject.run()
    return "it ended with 0"


def process_rows(twins: Lazy) -> Iterator[Row]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAYERSTORE_")}
    # An installed program has its bytecode; the first run, which is not measured, writes ours.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    imports = [sys.executable, "-c", "import click, sqlite3, json"]
    for name, words in (
        ("ls", ["ls"]),
        ("lowers", ["lowers", PARENT]),
        ("holders", ["holders"]),
        ("create", ["create", "cli{}", "--parent", PARENT]),
    ):

        def ours(words: list[str] = words) -> _Program:
            argv = [sys.executable, "-m", "layerstore", *words]
            return _Program(argv, kept | {"LAYERSTORE_HOME": twins().ours})

        def floor() -> _Program:
            return _Program(imports, kept)

        yield Row(f"whole process: layerstore {name}", ours, floor, _run, _ran, turns=1)
