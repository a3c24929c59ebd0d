"""SIGTERM and SIGHUP at every trace point of the program: done or undone, and closed either way."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from layerstore import Reader, Store
from layerstore.testing import dying_at
from tests.cli.running import forked
from tests.crash.bench import Snapshot, detach, in_child
from tests.crash.invariants import Violation, check, mounts_below
from tests.crash.model import Create, Facts, Get, Initialize, Live, Open, Put, Remove, State, ladder
from tests.crash.model import Verb as Step

pytestmark = [pytest.mark.crash, pytest.mark.root, pytest.mark.usefixtures("heard_signals")]

TEMPLATE: tuple[Step, ...] = (
    Initialize(),
    Open(),
    Create("base"),
    Create("mid", Facts("base")),
    Create("held", Facts("base")),
    Get("held", "cli"),
)


@attrs.frozen
class Command:
    """Words for the program, and the verbs that they mean."""

    words: tuple[str, ...]
    verbs: tuple[Step, ...]
    settles: tuple[str, ...] = ()
    """What the next open may still find to settle: between the two operations of a release nobody
    holds the layer, and it is mounted."""
    crashed: bool = False
    """Before it, another process died in the middle of a create, with a layer mounted."""


COMMANDS = {
    "create": Command(("create", "new", "--parent", "mid"), (Create("new", Facts("mid")),)),
    "mount": Command(("mount", "mid"), (Get("mid", "cli"),)),
    "mount-again": Command(("mount", "held"), (Get("held", "cli"),)),
    "umount": Command(("umount", "held"), (Put("held", "cli"),)),
    "rm": Command(("rm", "mid"), (Remove("mid"),)),
    "cleanup": Command(("cleanup",), (Put("held", "cli"),)),
    "release": Command(("release", "cli"), (Put("held", "cli"),), settles=("unmounted",)),
    "recover": Command(("recover",), (), crashed=True),
    "create-after-a-crash": Command(("create", "new"), (Create("new"),), crashed=True),
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Where homes are made one after the other."""
    base = os.path.realpath(os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm"))
    with tempfile.TemporaryDirectory(prefix="layerstore-signals-", dir=base) as directory:
        try:
            yield Path(directory)
        finally:
            clear(Path(directory) / "home")


def clear(home: Path) -> None:
    """Take away what the last round left."""
    for point in reversed(mounts_below(home)):
        detach(point)
    if home.exists():
        shutil.rmtree(home)


def prepare(home: Path, command: Command) -> Snapshot:
    """The home as the command finds it."""
    clear(home)

    def build() -> None:
        live = Live(home)
        for verb in TEMPLATE:
            verb.act(live)
        live.opened.close()

    def crash() -> None:
        live = Live(home)
        Open().act(live)
        Get("mid").act(live)
        with dying_at(11):
            Create("doomed", Facts("base")).act(live)

    in_child(build)
    if command.crashed:
        with pytest.raises(Violation):
            in_child(crash)
    return Snapshot.take(home)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_point_ends_cleanly(place: Path, name: str, number: int) -> None:
    """Whatever point it falls on, the operation is whole or not there, and the owner has closed."""
    home, command = place / "home", COMMANDS[name]
    start = prepare(home, command)
    allowed = ladder(ladder(State(), TEMPLATE)[-1][-1], command.verbs)
    states = [state for states in allowed for state in states]

    words = ("--home", str(home), *command.words)

    clear(home)
    start.restore(home)
    listed = forked(words, LAYERSTORE_FAILPOINT="list")
    total = sum(line.count(":") >= 2 for line in listed.err.splitlines())
    assert total > 0 or name == "mount-again"
    # SIGHUP takes the same way from the handler on: a few points of it are enough.
    for index in range(0, total, 1 if number == signal.SIGTERM else 7):
        clear(home)
        start.restore(home)
        done = forked(words, dying_at(index, how=lambda: os.kill(os.getpid(), number)))
        where = f"{name}, at point {index}: {done}"
        assert 128 + number == done.code, where
        lines = [line for line in done.err.splitlines() if "recovery settled" not in line]
        assert [f"layerstore: Ended by {signal.Signals(number).name}."] == lines, where
        with Reader.open(home) as reader:
            if not command.crashed:
                assert () == tuple(reader.owners()), where
                assert () == tuple(reader.operations()), where
                assert [] == os.listdir(home / ".layerstore/owners"), where
        with Store.open(home) as store:
            settled = {item.what for item in store.settled}
            assert command.crashed or settled <= set(command.settles), where
        check(home, states, {})
    clear(home)
