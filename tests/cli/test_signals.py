"""SIGTERM and SIGHUP end the program as Ctrl-C does: settled, closed, one line, an exit code."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore import Reader, Store
from tests.cli.running import PROGRAM, Program, environment, run
from tests.store.support import Worker, check_settled, mounted, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("heard_signals")]

CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129}
PATIENCE = 30


@contextmanager
def started(home: Path, *words: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """The program at work; it is killed if it is still there at the end."""
    process = subprocess.Popen(
        [*PROGRAM, "--home", str(home), *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], *signals: int) -> str:
    """Send signals and wait; what it said on stderr. The exit code is the first signal's."""
    for number in signals:
        process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert CODES[signal.Signals(signals[0])] == process.returncode, said
    return said


def check_closed(home: Path) -> None:
    """Whoever had the store open has closed it, and left no file of its own."""
    with Reader.open(home) as reader:
        assert () == tuple(reader.owners())
        assert () == tuple(reader.operations())
    assert [] == os.listdir(home / ".layerstore/owners")


@pytest.mark.parametrize("number", CODES)
def test_a_followed_log_ends_with_one_line(home: Path, number: signal.Signals) -> None:
    """`log --follow` ends at once, with the signal's exit code and one line on stderr."""
    with started(home, "log", "--follow") as process:
        assert process.stdout is not None
        assert "store.initialized" in process.stdout.readline()
        assert f"layerstore: Ended by {number.name}.\n" == ended(process, number)


def test_with_json_it_ends_with_an_object(home: Path) -> None:
    """With --json the one line is an error object with the exit code in it."""
    with started(home, "--json", "log", "--follow") as process:
        assert process.stdout is not None
        process.stdout.readline()
        said = ended(process, signal.SIGTERM)
    assert '"code": "ended-by-signal"' in said
    assert '"exit_code": 143' in said
    assert 1 == said.count("\n")


@pytest.fixture
def stopped(home: Path) -> Iterator[Worker]:
    """A process that stands still in the middle of creating the layer `b`."""
    worker = Worker(home)
    try:
        worker.do("store.create('p')")
        worker.do("stop_at('create:3:')")
        worker.send("store.create('b').id")
        worker.stopped()
        yield worker
    finally:
        worker.kill()


@pytest.mark.parametrize("number", CODES)
def test_a_waiting_command_ends_at_once(
    home: Path, stopped: Worker, number: signal.Signals
) -> None:
    """A create that waits for another process closes the store and ends, and the other goes on."""
    with started(home, "create", "b") as process:
        until(lambda: _opened_by(home, process.pid), what="the second process opens the store")
        began = time.monotonic()
        assert f"layerstore: Ended by {number.name}.\n" == ended(process, number)
        assert time.monotonic() - began < 10
    with Reader.open(home) as reader:
        assert [stopped.pid] == [owner.pid for owner in reader.owners()]
    stopped.go_on()
    assert "b" == stopped.value()


def _opened_by(home: Path, pid: int) -> bool:
    """Whether it is an owner, and has had a moment to come back from the open with it."""
    with Reader.open(home) as reader:
        found = pid in [owner.pid for owner in reader.owners()]
    if found:
        time.sleep(0.3)
    return found


def test_several_signals_at_once_are_one(home: Path, stopped: Worker) -> None:
    """What a service manager sends in a row does not break into the settling: it closes cleanly."""
    with started(home, "create", "b") as process:
        until(lambda: _opened_by(home, process.pid), what="the second process opens the store")
        numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP)
        process.send_signal(signal.SIGSTOP)
        for number in numbers:
            process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode in CODES.values()
    assert 1 == said.count("\n"), said
    stopped.kill()
    Store.open(home).close()
    check_closed(home)


@pytest.mark.parametrize("point", ["create:5:*:after", "create:outcome:before"])
def test_what_was_begun_is_undone(home: Path, point: str) -> None:
    """A create that is told to end in its middle is undone before the program ends."""
    done = run(["--home", str(home), "create", "x"], LAYERSTORE_FAILPOINT=f"SIGTERM:{point}")
    assert (143, "", "layerstore: Ended by SIGTERM.\n") == (done.code, done.out, done.err)
    check_closed(home)
    with Store.open(home) as store:
        assert () == store.settled
        assert not store.exists("x")
        check_settled(store)


def test_nohup_is_obeyed(home: Path) -> None:
    """A SIGHUP that was ignored from the start stays ignored."""
    with started(
        home,
        "log",
        "--follow",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        Program(home)("create", "a")
        assert "layer.create.intended" in process.stdout.readline()
        assert "SIGTERM" in ended(process, signal.SIGTERM)


def test_a_terminal_that_goes_away(home: Path) -> None:
    """When its terminal is hung up there is nobody to tell, and the exit code is still 129."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(PROGRAM[0], [*PROGRAM, "--home", str(home), "log", "--follow"], environment())
    said = b""
    while b"store.initialized" not in said:
        assert select.select([terminal], [], [], PATIENCE)[0]
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert 129 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("scene", ["1. A store", "4. Mounted", "5. Two processes"])
def test_the_demo_cleans_up(bare: Path, scene: str) -> None:
    """A demo that is told to end leaves no file, no mount and no process."""
    process = subprocess.Popen(
        [*PROGRAM, "demo"],
        env=environment(TMPDIR=str(bare), PYTHONUNBUFFERED="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(scene):
            break
    assert "layerstore: Ended by SIGTERM.\n" == ended(process, signal.SIGTERM)
    assert [] == list(bare.iterdir())
    assert [] == mounted(bare)
    deadline = time.monotonic() + PATIENCE
    while _processes_below(bare):  # one that was only just started finds nothing, and ends
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _processes_below(directory: Path) -> list[int]:
    """Processes that name the directory in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(directory) in words:
                found.append(int(entry.name))
    return found
