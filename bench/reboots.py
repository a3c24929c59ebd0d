"""Owns the rows about what a reboot costs, and the number of mounts: it must not print.

An open after an unclean reboot compares the whole tree with the index; beside it stands a bare walk
that lists, lstats and reads what the comparison looks at. Twice that is what it may take.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
from cases import Lazy
from measure import Clock, Row
from weight import same_library

from layerstore import Store
from layerstore.db import engine
from layerstore.fs import layout

_HERE = Path(__file__).resolve().parent
_DEAD = """INSERT INTO owners (id, pid, started, boot_id, mount_id, command, durability, opened_at)
    VALUES (:id, 1, 1, 'an-earlier-boot', 1, 'dead', 'full', 1)"""


@attrs.frozen
class _Rebooted:
    """A store that somebody had open when the machine went down."""

    home: str

    def run(self, clock: Clock) -> None:
        path = f"{self.home}/{layout.DATABASE}"
        connection = engine.driver.connect(path, isolation_level=None)
        connection.execute(_DEAD, {"id": os.urandom(16).hex()})
        connection.close()
        with clock:
            store = Store.open(self.home)
        assert ["released"] == [item.what for item in store.settled]
        store.close()

    def close(self) -> None:
        """Nothing is open."""


@attrs.frozen
class _Walk:
    """The same names, listed, looked at and read, and nothing made of it."""

    home: str

    def run(self, clock: Clock) -> None:
        with clock:
            walk(self.home)

    def close(self) -> None:
        """Nothing is open."""


def walk(home: str) -> None:
    """Everything that a comparison has to look at."""
    for name in os.listdir(home):
        if name in (layout.LINKS, layout.OWN):
            continue
        top = f"{home}/{name}"
        os.lstat(top)
        inside = os.listdir(top)
        for entry in (layout.LINK, layout.LOWER):
            if entry in inside:
                with open(f"{top}/{entry}", "rb") as file:
                    file.read()
        os.path.lexists(f"{top}/{layout.MERGED}")
    for link in os.listdir(f"{home}/{layout.LINKS}"):
        os.lstat(f"{home}/{layout.short_link(link)}")
        os.readlink(f"{home}/{layout.short_link(link)}")


def _run(subject: _Rebooted | _Walk, clock: Clock, count: int) -> None:
    for _ in range(count):
        subject.run(clock)


def open_rows(lazy: Lazy, size: str) -> Iterator[Row]:
    """The open of one store after another boot."""
    yield Row(
        f"open after an unclean reboot, {size} layers",
        lambda: _Rebooted(lazy().ours),
        lambda: _Walk(lazy().ours),
        _run,
        same_library,
        turns=1,
    )


# --- mounts -----------------------------------------------------------------------------------------


class _Asked:
    """A process in a mount namespace of its own, with so many overlays in it."""

    def __init__(self, place: str, mounts: int, question: str) -> None:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable]
        self._process = subprocess.Popen(
            [*command, os.fspath(_HERE / "asked.py"), place, str(mounts), question],
            env={"PYTHONPATH": os.fspath(_HERE.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "ready" == self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, clock: Clock, count: int) -> None:
        """The seconds that the process says."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        clock.seconds += float(self._answer())

    def close(self) -> None:
        self._process.communicate()


def mount_rows(place: Path) -> Iterator[Row]:
    """What is asked of the kernel before anything is decided about a mount."""
    for question, words, count in (
        ("root", "is it mounted here?", 1000),
        ("upper", "is the upper free?", 20),
        ("clones", "the kernel's part of that:", 20),
    ):
        yield Row(
            f"{words} 10,000 mounts against 10",
            lambda question=question: _Asked(os.fspath(place), 10_000, question),
            lambda question=question: _Asked(os.fspath(place), 10, question),
            lambda subject, clock, count: subject.run(clock, count),
            same_library,
            count=count,
        )
