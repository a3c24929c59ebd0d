"""Exceptions at every trace point of a living process: a call that fails settles its own operation."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Store
from layerstore.errors import LayerExists, NotHeld, UnknownHolder, UnknownLayer
from layerstore.fs import mount
from tests.store.support import check_settled, findings, mounted, points_of, traced

pytestmark = pytest.mark.root

AGAIN = (LayerExists, NotHeld, UnknownHolder, UnknownLayer)
"""What a repetition of a call that had been done answers."""

View = tuple[Any, ...]


class Broken(OSError):
    """What a step raises: an I/O error."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "broken by the test")


@attrs.frozen
class Case:
    """One verb in one configuration that changes its steps; `tag` makes its layers' names its own.

    `layer` is what the verb works on. `between`: views that are neither before nor after, and right.
    """

    name: str
    prepare: Callable[[Store, str], Any]
    act: Callable[[Store, str], Any]
    layer: str = "c"
    between: tuple[View, ...] = ()
    drifts: bool = False
    """Before it, the kernel and the index disagree: that is what the verb is to put right."""
    durability: str = "full"

    def view(self, store: Store, tag: str) -> View:
        """What a client can see of the layer: is it there, mounted, held."""
        name = self.layer + tag
        if not store.exists(name):
            return ("gone", (store.home / name).exists())
        seen = name in mounted(store.home)
        held = bool(store.holders(name))
        return ("there", seen, store.mount(name) is not None, held)


def _base(store, tag):
    store.create(f"p{tag}")


def _child(store, tag):
    _base(store, tag)
    store.create(f"c{tag}", parent=f"p{tag}")


def _mounted(store, tag):
    _child(store, tag)
    store.get(f"c{tag}")


def _held_twice(store, tag):
    _mounted(store, tag)
    store.get(f"c{tag}", holder="cli")


def _committed(store, tag):
    _child(store, tag)
    store.create(f"d{tag}", parent=f"c{tag}")


def _committed_mounted(store, tag):
    _committed(store, tag)
    store.get(f"c{tag}")


def _not_durable(store, tag):
    """A parent that was written to, so that a create on it has to sync its content first."""
    _child(store, tag)
    store.get(f"c{tag}")
    store.put(f"c{tag}")


def _draining(store, tag):
    """A parent that was unmounted while it was used: a create on it asks the kernel."""
    path = _got(store, tag)
    descriptor = os.open(path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mount, "unmount", functools.partial(mount.unmount, wait=0))
        store.put(f"c{tag}")
    assert store.layer(f"c{tag}").draining
    os.close(descriptor)


def _got(store, tag) -> Path:
    _child(store, tag)
    return store.get(f"c{tag}")


def _lost(prepare):
    def made(store, tag):
        prepare(store, tag)
        mount.unmount(f"{store.home}/c{tag}/merged")

    return made


def _held_base(store, tag):
    _base(store, tag)
    store.get(f"p{tag}")


def _named(store, tag):
    _child(store, tag)
    store.get(f"c{tag}", holder=f"h{tag}")


def _full_trash(store, tag):
    """A layer with some content, so that emptying the trash has something to do."""
    _child(store, tag)
    for number in range(3):
        (store.home / f"c{tag}/diff/d{number}").mkdir()


def _create_child(store, tag):
    store.create(f"c{tag}", parent=f"p{tag}")


def _create_grandchild(store, tag):
    store.create(f"d{tag}", parent=f"c{tag}")


def _get(store, tag):
    store.get(f"c{tag}")


def _put(store, tag):
    store.put(f"c{tag}")


def _remove(store, tag):
    store.remove(f"c{tag}")


UNMOUNTED = ("there", False, False, False)

CASES = [
    Case("create-base", lambda store, tag: None, _base, layer="p"),
    Case("create-child", _base, _create_child),
    Case("create-child-process", _base, _create_child, durability="process"),
    Case("create-on-unsynced", _not_durable, _create_grandchild, layer="d"),
    Case("create-on-draining", _draining, _create_grandchild, layer="d"),
    Case("get-first", _child, _get),
    Case("get-committed", _committed, _get),
    Case("get-more", _mounted, _get),
    Case("get-base", _base, lambda store, tag: store.get(f"p{tag}"), layer="p"),
    Case("get-lost", _lost(_mounted), _get, between=(UNMOUNTED,), drifts=True),
    Case("get-lost-committed", _lost(_committed_mounted), _get, between=(UNMOUNTED,), drifts=True),
    Case("put-last", _mounted, _put),
    Case("put-last-committed", _committed_mounted, _put),
    Case("put-not-last", _held_twice, _put),
    Case("put-base", _held_base, lambda store, tag: store.put(f"p{tag}"), layer="p"),
    Case("remove-base", _base, lambda store, tag: store.remove(f"p{tag}"), layer="p"),
    Case("remove-child", _full_trash, _remove),
    Case("remove-child-process", _full_trash, _remove, durability="process"),
    Case("remove-mounted", _mounted, _remove, between=(UNMOUNTED,)),
    Case("remove-draining", _draining, _remove),
    Case("cleanup", _mounted, lambda store, tag: store.cleanup()),
    # Ending the holds of a name and unmounting what it held are two transactions.
    Case(
        "release",
        _named,
        lambda store, tag: store.release(f"h{tag}"),
        between=(("there", True, True, False),),
        drifts=True,
    ),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _raise_at(number: int, error: type[BaseException], seen: list[str]) -> Callable[[str], None]:
    """A hook that raises at the trace point of this number, and at no other."""

    def hook(point: str) -> None:
        seen.append(point)
        if len(seen) == number + 1:
            raise error

    return hook


def _points(case: Case, store: Store) -> tuple[list[str], View, View]:
    """The points that the case passes, and the views before and after it."""
    case.prepare(store, "-dry")
    before = case.view(store, "-dry")
    points = points_of(lambda: case.act(store, "-dry"))
    return points, before, case.view(store, "-dry")


def _check_works(case: Case, store: Store, tag: str, after: View) -> None:
    """The same call, made again, ends where it ends without any exception."""
    with contextlib.suppress(*AGAIN):
        case.act(store, tag)
    if case.name == "release":
        store.recover()
    assert after == case.view(store, tag)


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@EVERY
def test_a_call_that_raises_settles_its_operation(home, case, error):
    """The exception reaches the caller, nothing is in flight, all views agree, and the store goes on."""
    with Store.open(home, durability=case.durability) as store:
        points, before, after = _points(case, store)
        assert points or case.name in ("get-more", "get-base", "put-not-last", "put-base")
        for number, point in enumerate(points):
            tag = f"-{number}"
            case.prepare(store, tag)
            seen: list[str] = []
            raised: BaseException | None = None
            with traced(_raise_at(number, error, seen)):
                try:
                    case.act(store, tag)
                except BaseException as caught:  # noqa: BLE001 - judged below
                    raised = caught
            assert seen[number] == point
            swallowed = error is Broken and point.startswith("empty:")
            assert swallowed is (raised is None), point
            assert isinstance(raised, error) or "broken by the test" in str(raised) or swallowed
            assert {} == store._hands.active, point
            assert () == store.operations(), point
            assert case.view(store, tag) in {before, after, *case.between}, point
            if not case.drifts:
                assert [] == findings(home), point
            _check_works(case, store, tag, after)
        check_settled(store)
        assert [] == os.listdir(home / ".layerstore/staging")
        assert [] == os.listdir(home / ".layerstore/trash")
        store.cleanup()
        assert [] == mounted(home)


def _break_settling(
    case: Case, store: Store, tag: str, first: int, second: int, error: type[BaseException]
) -> list[str]:
    """Raise at one point of the call, and at one point of the settling of it; the points passed."""
    case.prepare(store, tag)
    seen: list[str] = []

    def hook(point: str) -> None:
        seen.append(point)
        if len(seen) == first + 1:
            raise Broken
        if len(seen) == first + 2 + second:
            raise error

    with traced(hook), contextlib.suppress(Exception, KeyboardInterrupt):
        case.act(store, tag)
    return seen


SETTLED = [
    case
    for case in CASES
    if case.name.startswith(("create", "get-", "put-last", "remove"))
    # Their ways back are those of the other cases.
    and not case.name.endswith(("-process", "-unsynced", "create-on-draining", "-more", "get-base"))
]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("case", SETTLED, ids=lambda case: case.name)
def test_a_settling_that_raises_is_made_up_for(home, case, error):
    """What could not be settled is left to whoever comes next to the layer, in this store or another."""
    with Store.open(home, timeout=5, durability=case.durability) as store:
        points, _, after = _points(case, store)
        pairs = 0
        with Store.open(home, timeout=5, durability=case.durability) as other:
            for first in range(len(points)):
                for second in range(100):
                    tag = f"-{first}-{second}"
                    seen = _break_settling(case, store, tag, first, second, error)
                    if len(seen) < first + 2 + second:
                        _check_works(case, store, tag, after)
                        _drop(store, other, case, tag)
                        break
                    pairs += 1
                    assert {} == store._hands.active, seen
                    living = [o for o in store.operations() if not o.abandoned]
                    assert [] == living, seen
                    _check_works(case, other if pairs % 2 else store, tag, after)
                    _drop(store, other, case, tag)
            other.recover()
        check_settled(store)
        assert pairs > len(points)
    assert [] == mounted(home)


def _drop(store: Store, other: Store, case: Case, tag: str) -> None:
    """Give back whatever is held, so that mounts do not pile up."""
    for opened in (store, other):
        with contextlib.suppress(*AGAIN):
            while not opened.put(case.layer + tag):
                pass


STORM = """
import random, signal, time
def interrupt(*_):
    raise KeyboardInterrupt
def work(numbers):
    for n in numbers:
        name = f"c{n}"
        store.create(name, parent="p")
        store.get(name)
        store.put(name)
        store.remove(name)
def storm(seconds):
    random.seed(seconds)
    signal.signal(signal.SIGALRM, interrupt)
    numbers, hits, end = iter(range(10**6)), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.01))
            work(numbers)
        except KeyboardInterrupt:
            hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return hits
"""


def test_interruptions_between_any_two_lines(home, worker):
    """A process that is interrupted hundreds of times, wherever it is, goes on and leaves nothing behind."""
    other = worker(home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.do("store.create('p').id")
    other.do(STORM)
    assert 50 < other.do("storm(2)")

    other.do("str(store.recover())")
    assert [] == other.do("[str(o) for o in store.operations()]")
    other.do("store.create('last', parent='p').id")
    other.do("str(store.get('last'))")
    other.do("store.cleanup()")
    assert [] == findings(home)
    assert [] == mounted(home)
    assert 0 == other.end()
