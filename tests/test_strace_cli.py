"""The real command line, killed on entry to its mutating system calls, one run for each.

strace(1) kills with `--inject=…:signal=SIGKILL:when=N`. Killed at entry means that the call was not
made. A plain run kills at some calls of every kind; LAYERSTORE_TEST_LONG=1 at every one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from layerstore import Reader, Store, cli
from tests.cli.running import ROOT, environment
from tests.conftest import unmount_below
from tests.index import children

pytestmark = [pytest.mark.strace, pytest.mark.crash, pytest.mark.root]

LONG = os.environ.get("LAYERSTORE_TEST_LONG") == "1"
PLAIN_KILLS = 46
"""Of a plain run, over all commands."""

ON_PATHS = [
    "mkdir", "mkdirat", "symlink", "symlinkat", "link", "linkat", "rename", "renameat", "renameat2",
    "unlink", "unlinkat", "rmdir", "openat", "open", "creat", "write", "writev", "pwrite64", "pwritev",
    "ftruncate", "truncate", "fallocate", "fsync", "fdatasync", "syncfs", "chmod", "fchmod",
    "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utimensat", "setxattr",
    "lsetxattr", "fsetxattr", "removexattr", "copy_file_range", "sendfile",
]  # fmt: skip
"""Calls that change something when they are about the home; an open does if it can create."""
MOUNTING = ["mount", "umount2", "fsopen", "fsconfig", "fsmount", "move_mount", "open_tree"]
"""Calls that change what is mounted, or are on the way to it."""
EXPECTED_KINDS = {
    "mkdir", "symlink", "rename", "renameat2", "unlink", "unlinkat", "rmdir", "openat", "write",
    "pwrite64", "ftruncate", "fsync", "chmod", "umount2",
}  # fmt: skip
"""Without any of these the dry run has looked away. The calls that mount depend on the kernel."""
FIRST_HOLDER = "first"


@attrs.frozen
class Command:
    """A command, and what must hold of a store in which it was killed."""

    name: str
    words: tuple[str, ...]
    prepare: Callable[[Path], None]
    may_come: str | None = None
    """A layer that may be there afterwards, or not."""
    may_go: str | None = None


@attrs.frozen
class Point:
    """A place to die: the `when`-th call of this kind."""

    call: str
    when: int


def store_of_three(home: Path) -> None:
    """What is acknowledged before the command starts: a chain of two, and a layer beside it."""
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("base")
        (store.get("base") / "file").write_text("acknowledged")
        store.put("base")
        store.create("child", parent="base")
        store.create("beside")


def held_by(count: int) -> Callable[[Path], None]:
    """The same with `child` mounted and held so often."""

    def prepare(home: Path) -> None:
        store_of_three(home)
        with Store.open(home) as store:
            for _ in range(count):
                store.get("child", holder=FIRST_HOLDER)

    return prepare


HOLDER = ("--holder", FIRST_HOLDER)
COMMANDS = [
    Command("init", ("init",), lambda home: None),
    Command("create", ("create", "new"), store_of_three, may_come="new"),
    Command("create-child", ("create", "new", "--parent", "child"), store_of_three, may_come="new"),
    Command("mount", ("mount", "child", *HOLDER), store_of_three),
    Command("mount-more", ("mount", "child", *HOLDER), held_by(1)),
    Command("umount-more", ("umount", "child", *HOLDER), held_by(2)),
    Command("umount", ("umount", "child", *HOLDER), held_by(1)),
    Command("rm", ("rm", "child"), store_of_three, may_go="child"),
    Command("rm-base", ("rm", "beside"), store_of_three, may_go="beside"),
]
ACKNOWLEDGED = {"base", "child", "beside"}


def traced(home: Path, words: tuple[str, ...], *options: str) -> tuple[int, list[str]]:
    """Run a command under strace; the exit status of the program and the calls it made."""
    log = home.parent / "strace.log"
    names = ",".join(f"?{name}" for name in (*ON_PATHS, *MOUNTING))
    command = ["strace", "-f", "-y", "-qq", "-s", "300", "-o", str(log), "-e", f"trace={names}"]
    command += [*options, sys.executable, "-m", "layerstore", "--home", str(home), *words]
    done = subprocess.run(
        command,
        # Calls are counted, so a run must not depend on hashes, nor on what is compiled already.
        env=environment(PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, log.read_text(errors="replace").splitlines()


def points(home: Path, lines: list[str]) -> list[Point]:
    """The mutating calls about this home, each with its number among all calls of its name."""
    counted: dict[str, int] = {}
    found = []
    main = lines[0].split()[0]
    for line in lines:
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match is None:
            continue
        assert main == match[1], f"another thread or process made a call: {line}"
        call = match[2]
        counted[call] = counted.get(call, 0) + 1
        about_home = call in MOUNTING or str(home) in line
        if about_home and (call not in {"open", "openat"} or "O_CREAT" in line):
            found.append(Point(call, counted[call]))
    return found


def begin(command: Command, home: Path) -> None:
    """Prepare the store in a process of its own, as if long ago."""
    assert children.run(lambda: command.prepare(home)).result is None


def die(command: Command, home: Path, point: Point) -> None:
    """Run the command and have it killed at this point, and nowhere else."""
    inject = f"--inject={point.call}:signal=SIGKILL:when={point.when}"
    code, lines = traced(home, command.words, inject)
    assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), (command.name, point, code)
    calls = [line for line in lines if re.match(rf"\d+ +{point.call}\(", line)]
    assert point.when == len(calls)
    assert point.call in MOUNTING or str(home) in calls[-1], (point, calls[-1])
    assert "killed by SIGKILL" in lines[-1]


def command_line(home: Path, *words: str) -> tuple[int, str]:
    """The exit code and the output of a command that nobody disturbs, in a forked child.

    What is traced and killed is the real program; that the next ones start from an interpreter
    which has imported everything already makes the run three times as fast.
    """

    def work() -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                cli.program.main(["--home", str(home), *words])
            except SystemExit as end:
                return int(end.code or 0), out.getvalue()
        raise AssertionError("the program did not exit")

    code, out = children.run(work).result
    return code, out


def judge(command: Command, home: Path) -> None:
    """The next commands find a store in order, with everything that was acknowledged."""
    if command.name == "init":
        assert command_line(home, "init")[0] in (0, 13)
    code, out = command_line(home, "recover")
    assert (0, False) == (code, "failed" in out), out
    code, out = command_line(home, "audit", "--json")
    assert (0, True) == (code, json.loads(out)["clean"]), out
    with Reader.open(home) as reader:
        there = {layer.id for layer in reader.layers()}
        if command.name == "init":
            assert set() == there
            return
        assert ACKNOWLEDGED - {command.may_go} <= there <= ACKNOWLEDGED | {command.may_come}
        assert "acknowledged" == (home / "base" / "diff" / "file").read_text()
        holds = {(str(hold.layer), hold.holder): hold.count for hold in reader.holders()}
        allowed: dict[str, tuple[int, int]] = {
            "mount": (0, 1), "mount-more": (1, 2), "umount-more": (2, 1), "umount": (1, 0),
        }  # fmt: skip
        count = holds.pop(("child", FIRST_HOLDER), 0)
        assert ({}, True) == (holds, count in allowed.get(command.name, (0, 0)))
        mounted = [mount.layer for mount in reader.mounts()]
        assert (["child"] if count else []) == mounted
        assert (count > 0) == os.path.ismount(home / "child" / "merged")


def chosen(all_points: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """Some points of a plain run: every kind of call once at least, every command with its share."""
    if LONG:
        return all_points
    choose = random.Random(20)
    picked: dict[str, list[Point]] = {name: [] for name in all_points}
    places: dict[str, list[tuple[str, Point]]] = {}
    for name, found in all_points.items():
        for point in found:
            places.setdefault(point.call, []).append((name, point))
    rest = []
    for found_places in places.values():
        choose.shuffle(found_places)
        name, point = found_places[0]
        picked[name].append(point)
        rest.append(found_places[1:])
    while sum(map(len, picked.values())) < PLAIN_KILLS and any(rest):
        for more in rest:  # kind by kind, so that the many writes do not crowd out the rest
            if more and sum(map(len, picked.values())) < PLAIN_KILLS:
                name, point = more.pop()
                picked[name].append(point)
    return picked


def test_a_killed_command_loses_nothing(bare: Path) -> None:
    """SIGKILL at a system call of any command: recovery and audit go well, what was told is there."""
    with open(sys.executable, "rb") as program:
        assert b"\x7fELF" == program.read(4), "a script in front of the interpreter would be traced"
    all_points: dict[str, list[Point]] = {}
    for command in COMMANDS:
        home = bare / command.name / "home"
        home.parent.mkdir()
        begin(command, home)
        code, lines = traced(home, command.words)
        assert 0 == code, lines[-5:]
        all_points[command.name] = points(home, lines)
        assert all_points[command.name], command
    kinds = {point.call for found in all_points.values() for point in found}
    assert set() == EXPECTED_KINDS - kinds
    assert kinds & {"mount", "move_mount"}
    killed = 0
    for command in COMMANDS:
        for number, point in enumerate(chosen(all_points)[command.name]):
            home = bare / f"{command.name}-{number}" / "home"
            home.parent.mkdir()
            begin(command, home)
            try:
                die(command, home, point)
                killed += 1
                judge(command, home)
            except BaseException as error:
                error.add_note(f"{' '.join(command.words)}, killed at {point}, in {home}")
                raise
            unmount_below(home)
    picked = chosen(all_points)
    assert kinds == {point.call for found in picked.values() for point in found}
    assert sum(map(len, picked.values())) == killed
    assert killed >= 40
    total = sum(map(len, all_points.values()))
    print(
        f"{killed} kills at {total} points of {len(COMMANDS)} commands, {len(kinds)} kinds of call"
    )
