"""What is looked at while requests are answered: who waits too long, and whether anything gets done."""

from __future__ import annotations

import threading
import time
from typing import Any

import attrs
import pytest

from layerstore.docker.pending import KEPT_FOR, Pending
from layerstore.docker.watch import Pulse, Request, Watch
from layerstore.errors import Busy


@attrs.define
class Still:
    """A connection on which nothing moves."""

    moved: float = attrs.field(factory=time.monotonic)


def look(watch: Watch) -> list[str]:
    """The methods that are given up by a look now."""
    found: list[str] = []
    watch._next_look = 0.0
    watch.look(give_up=lambda request: found.append(request.method), keep=lambda _: None)
    return found


def test_only_what_waits_too_long_is_given_up_and_once() -> None:
    """A verb by its whole time; a stream by the time in which nothing moves."""
    watch = Watch(10.0, streams_within=10.0)
    with (
        watch.over("Get", Still(), None, is_stream=False) as old,
        watch.over("Put", Still(), None, is_stream=False),
        watch.over("Diff", Still(), None, is_stream=True) as moving,
        watch.over("ApplyDiff", Still(time.monotonic() - 11), None, is_stream=True),
    ):
        old.began -= 11
        moving.began -= 1000
        assert ["ApplyDiff", "Get"] == sorted(look(watch))
        assert 2 == watch.overdue()
        assert [] == look(watch)
    assert 0 == watch.overdue()


def test_one_request_that_hangs_is_no_standstill() -> None:
    """As long as others end, or the store answers, it goes on; where neither is so, it does not."""
    watch = Watch(10.0, streams_within=10.0)
    hangs, asked = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        hangs.wait(60)

    pulse: Pulse[Any] = Pulse(ask)
    with watch.over("Get", Still(), None, is_stream=False) as stuck:
        assert watch.goes_on(pulse)
        stuck.is_overdue = True
        assert watch.goes_on(pulse)  # this one asks
        assert asked.wait(60)
        assert not watch.goes_on(pulse)
        with watch.over("Put", Still(), None, is_stream=False):
            pass
        assert watch.goes_on(pulse)
        assert not watch.goes_on(pulse)
        hangs.set()
        pulse.latest(60)
        assert watch.goes_on(pulse)
    assert watch.goes_on(pulse)


def test_a_pulse_waits_a_bounded_time_and_tells_errors() -> None:
    """Busy while the question hangs, which is asked once; then the answer, and the error of another."""
    release, calls = threading.Event(), []

    def ask() -> int:
        calls.append(1)
        release.wait(60)
        return 7

    pulse = Pulse(ask)
    for _ in range(2):
        with pytest.raises(Busy):
            pulse.latest(0.01)
    assert 1 == len(calls)
    release.set()
    assert 7 == pulse.latest(60)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Pulse(fail).latest(60)


def test_the_record_of_what_is_at_work_stays_young(tmp_path: Any) -> None:
    """A server that dies after minutes of one verb leaves a record that counts; what was settled stays so."""
    pending = Pending(str(tmp_path / "pending"))
    note = pending.note("Remove", b'{"ID":"x"}')
    note.until = time.monotonic() + KEPT_FOR - 20
    pending.keep(note)
    assert note.until > time.monotonic() + KEPT_FOR - 5
    (found,) = Pending(str(tmp_path / "pending")).lost("Remove")
    assert (found.body, found.until) == (note.body, note.until)
    pending.settle(note)
    note.until = 0.0
    pending.keep(note)
    assert [] == Pending(str(tmp_path / "pending")).lost("Remove")
    pending.close()


def test_a_request_without_a_record_is_left_alone() -> None:
    """Only what has a record is kept."""
    watch = Watch(10.0, streams_within=10.0)
    kept: list[Request] = []
    with watch.over("Activate", Still(), None, is_stream=False):
        watch.look(give_up=lambda _: None, keep=kept.append)
    assert [] == kept
