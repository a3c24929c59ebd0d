"""What cannot be settled does not fill the journal: openers leave it alone for longer and longer."""

from __future__ import annotations

import pytest

from layerstore import Store, opening
from layerstore.errors import Busy
from tests.cli.running import Program
from tests.store.support import traced

pytestmark = pytest.mark.root

MINUTE = 60_000_000


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves, in microseconds; every store that is opened afterwards has it."""
    time = [opening.now()]
    monkeypatch.setattr(opening, "now", lambda: time[0])
    return time


def broken(point):
    """Neither the create nor its undoing gets anywhere."""
    if point.startswith(("create:3:", "settle:create:0:")):
        raise OSError(5, "broken by the test")


def tries(home):
    """How often the operation was abandoned, seen by who settles nothing."""
    with Store.open(home, read_only=True) as reader:
        return len([e for e in reader.events() if e.kind == "operation.abandoned.v1"])


def opened(home):
    """Open and close; how many more tries that was."""
    before = tries(home)
    Store.open(home).close()
    return tries(home) - before


def test_opens_become_patient(home, clock):
    """After three tries an open writes nothing more about it, until the pause is over, which doubles."""
    with traced(broken):
        with Store.open(home) as store, pytest.raises(OSError, match="broken"):
            store.create("a")
        assert [1, 1] == [opened(home), opened(home)]
        clock[0] += MINUTE // 120
        assert [0, 0, 0] == [opened(home) for _ in range(3)]
        for seconds in (1, 2, 4, 8):
            clock[0] += seconds * 1_000_000
            assert [1, 0] == [opened(home), opened(home)], seconds
        clock[0] -= 60 * MINUTE  # set back: no pause lasts into the past
        assert 1 == opened(home)
    clock[0] += 120 * MINUTE
    assert ["undone"] == [item.what for item in Store.open(home).settled if item.layer == "a"]


def test_who_insists_tries(home, clock):
    """`recover`, and whoever needs that very layer, does not wait for the pause to end."""
    with traced(broken):
        with Store.open(home) as store, pytest.raises(OSError, match="broken"):
            store.create("a")
        for _ in range(4):
            opened(home)
        before = tries(home)
        with Store.open(home) as store:
            assert ["failed"] == [item.what for item in store.recover()]
            assert before + 1 == tries(home)
            with pytest.raises(Busy, match="cannot be settled"):
                store.create("a")
            assert before + 2 == tries(home)
    with Store.open(home) as store:
        assert "a" == store.create("a").id


def test_the_command_insists(home):
    """`layerstore recover` settles at once what opens leave alone."""
    with traced(broken):
        with Store.open(home) as store, pytest.raises(OSError, match="broken"):
            store.create("a")
        for _ in range(6):
            opened(home)
    program = Program(home)
    assert "In flight:    1 operation" in program("status").out
    assert "undone" in program("recover").out
    assert "In flight:    0 operations" in program("status").out
