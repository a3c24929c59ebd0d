"""Owns the rows about the audit: against a bare walk of the same names; it must not print.

The walk lists, lstats and reads what the audit does, and 20 µs are added for each event that the
audit folds. So a ratio of 2, which is what it may take, is twice the walk, and 40 µs for an event.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs
from cases import Lazy
from measure import Clock, Row
from weight import Fresh, weigh

from layerstore.audit import audit
from layerstore.fs import layout

EVENT = 20e-6
"""Half of the seconds that folding one event may take."""
_LIMIT = 200.0
"""MB that an audit of 100,000 layers may take."""


@attrs.frozen
class _Audit:
    """The audit of a store that nobody has open."""

    home: str

    def run(self, clock: Clock) -> None:
        with clock:
            report = audit(self.home)
        assert not report.findings

    def close(self) -> None:
        """Nothing is open."""


@attrs.frozen
class _Walk:
    """The same names, listed, looked at and read, and nothing made of it."""

    home: str
    events: int

    def run(self, clock: Clock) -> None:
        with clock:
            walk(self.home)
        clock.seconds += self.events * EVENT

    def close(self) -> None:
        """Nothing is open."""


def walk(home: str) -> None:
    """Everything that an audit has to look at."""
    for name in os.listdir(home):
        if name in (layout.LINKS, layout.OWN):
            continue
        top = f"{home}/{name}"
        os.lstat(top)
        inside = os.listdir(top)
        for entry in inside:
            os.lstat(f"{top}/{entry}")
        for entry in (layout.LINK, layout.LOWER):
            if entry in inside:
                with open(f"{top}/{entry}", "rb") as file:
                    file.read()
        os.listdir(f"{top}/{layout.DIFF}")
        if layout.WORK in inside:
            os.path.lexists(f"{top}/{layout.WORK}/work/incompat/volatile")
    for link in os.listdir(f"{home}/{layout.LINKS}"):
        os.readlink(f"{home}/{layout.short_link(link)}")


@attrs.frozen
class _Allowed:
    """What it may take."""

    def close(self) -> None:
        """Nothing is open."""


def _weigh(subject: Fresh | _Allowed, clock: Clock, count: int) -> None:
    if isinstance(subject, Fresh):
        weigh(subject, clock, count)
    else:
        clock.seconds += _LIMIT * count


def _run(subject: _Audit | _Walk, clock: Clock, count: int) -> None:
    for _ in range(count):
        subject.run(clock)


def _same(_: object) -> str:
    """Neither side leaves anything."""
    return "nothing"


def rows(lazy: Lazy, size: str) -> Iterator[Row]:
    """The audit of one store."""
    yield Row(
        f"audit of {size} layers",
        lambda: _Audit(lazy().ours),
        lambda: _Walk(lazy().ours, audit(lazy().ours).checked["events"]),
        _run,
        _same,
        turns=1,
    )
    yield Row(
        f"footprint of an audit, {size} layers against 200 MB",
        lambda: Fresh("audit_weight.py", (lazy().ours,)),
        _Allowed,
        _weigh,
        _same,
        turns=1,
        unit="MB",
    )
