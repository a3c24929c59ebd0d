"""Owns how two things are compared: in turns, by ratio and median; it must not know what they are."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import attrs

BEGIN, END = "/layerstore-bench/begin", "/layerstore-bench/end"


class Clock:
    """A stopwatch for the part of a round that counts: `with clock: …`."""

    def __init__(self, *, marks: bool = False) -> None:
        """`marks`: pass two system calls that strace can be searched for."""
        self._marks = marks
        self.seconds = 0.0

    def __enter__(self) -> None:
        if self._marks:
            os.path.exists(BEGIN)
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started
        if self._marks:
            os.path.exists(END)


@attrs.frozen
class Row:
    """One comparison. `subject`s are opened by calling them, and have a `close`.

    `work(subject, clock, count)` does something `count` times; `witness(subject)` does it once and
    says what it left behind, which has to be the same for both.
    """

    name: str
    ours: Callable[[], Any]
    floor: Callable[[], Any]
    work: Callable[[Any, Clock, int], None]
    witness: Callable[[Any], object]
    turns: int = 5
    """Alternations in one round, of which the round takes the median."""
    count: int = 1
    """How often the work is done in one turn; more where one time is short."""
    traced: bool = False
    """`--check-floors` compares its system calls."""
    unit: str = "s"
    """Of what the clock shows: seconds, or `MB` where the work says how much memory it took."""
    most_rounds: int = 1_000
    """Of what takes long."""


@attrs.frozen
class Spread:
    """A median, and how far the rounds lay apart."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@attrs.frozen
class Result:
    """What one row came to; the unit's values for one time, and the ratio of the two in each round."""

    name: str
    ours: Spread
    floor: Spread
    ratio: Spread
    unit: str = "s"


@attrs.frozen
class Beside:
    """What a peer's row came to: seconds for one, and the ratio of `process` to the peer."""

    name: str
    process: Spread
    full: Spread
    peer: Spread
    ratio: Spread


@attrs.frozen
class NotMeasured:
    """A peer that could not be measured, and why."""

    name: str
    reason: str


class NotAlike(Exception):
    """The row would compare different things: the two sides did not do, or leave, the same."""


def measure(row: Row, *, rounds: int, quick: bool) -> Result:
    """Ours and the floor in turns, each first as often as the other; then look at what they left."""
    turns = 1 if quick else row.turns
    ours = row.ours()
    try:
        floor = row.floor()
        try:
            sides = (ours, floor)
            for side in sides:
                row.work(side, Clock(), 1)
            gc.collect()
            times = [_round(row, sides, turns, number) for number in range(rounds)]
            _compare(row, ours, floor)
        finally:
            floor.close()
    finally:
        ours.close()
    return Result(
        row.name,
        ours=Spread.of([pair[0] for pair in times]),
        floor=Spread.of([pair[1] for pair in times]),
        ratio=Spread.of([pair[0] / pair[1] for pair in times]),
        unit=row.unit,
    )


def _round(row: Row, sides: tuple[Any, Any], turns: int, number: int) -> tuple[float, float]:
    """The median of some turns of each side: what else runs here hits both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for which in (0, 1) if (number + turn) % 2 == 0 else (1, 0):
            clock = Clock()
            row.work(sides[which], clock, row.count)
            times[which].append(clock.seconds / row.count)
    return statistics.median(times[0]), statistics.median(times[1])


def _compare(row: Row, ours: Any, floor: Any) -> None:
    left, right = row.witness(ours), row.witness(floor)
    if left != right:
        raise NotAlike(f"{row.name}:\n  ours:  {left}\n  floor: {right}")
