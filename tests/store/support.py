"""What the store's tests share: a second process, snapshots of a home, and the invariants."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerstore import Store
from layerstore.audit import audit
from layerstore.fs import layout
from layerstore.fs.mountinfo import MountEntry, mounts_below
from layerstore.fs.trace import set_trace
from layerstore.testing import compare
from layerstore.testing.compare import Snapshot

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
"""Seconds until a test stops waiting; none of them waits so long unless something is broken."""

NAMESPACE = ("unshare", "--mount", "--propagation", "private")
HIDDEN = (*NAMESPACE, "--pid", "--fork", "--kill-child", "--mount-proc")
"""Own mount and pid namespaces: a container, as far as /proc is concerned."""


class WorkerError(Exception):
    """What a worker's statement raised; `name` is the class."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class Worker:
    """A second process on a home, which a test drives line by line."""

    def __init__(self, home: Path, *prefix: str, opened: bool = True) -> None:
        """`prefix`: a command to run it under; `opened`: it opens the store as `store`."""
        command = [*prefix, sys.executable, str(ROOT / "tests/store/worker.py"), str(home)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=False,
            bufsize=0,
            start_new_session=True,
        )
        self._rest = b""
        self.pid_inside = self._value()
        """Its pid as it sees it itself: another one in a pid namespace of its own."""
        if opened:
            self.do("store = Store.open(home)")

    @property
    def pid(self) -> int:
        """The pid of the process that was started: `unshare`, where that stays above it."""
        return self._process.pid

    def send(self, source: str) -> None:
        """Have it run, without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": source}).encode() + b"\n")

    def do(self, source: str) -> Any:
        """Have it run, and give the value; WorkerError for what it raises."""
        self.send(source)
        return self._value()

    def value(self) -> Any:
        """The answer to what was sent."""
        return self._value()

    def stopped(self) -> str:
        """Wait until it stands at the point that `stop_at` named."""
        return str(self._answer()["stopped"])

    def go_on(self) -> None:
        """Let it go on from where it stands."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone with all of its children."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def end(self) -> int:
        """Let it close its store and end by itself; its exit code."""
        self.do("store.close()")
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(PATIENCE)
        self._process.stdout.close()
        return code

    @property
    def running(self) -> bool:
        """Whether it was not yet killed, ended or waited for."""
        return self._process.poll() is None and not self._process.stdin.closed  # type: ignore[union-attr]

    def _value(self) -> Any:
        answer = self._answer()
        if "error" in answer:
            raise WorkerError(answer["error"], answer["message"])
        return answer["value"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError("a worker did not answer")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise EOFError(f"a worker ended with {self._process.wait(PATIENCE)}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))


def until(condition: Callable[[], Any], *, what: str) -> Any:
    """Wait until the condition is true, and give its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.002)
    return value


@contextmanager
def traced(hook: Callable[[str], None]) -> Iterator[None]:
    """Have `hook` called at every trace point of this process."""
    set_trace(hook)
    try:
        yield
    finally:
        set_trace(None)


def points_of(action: Callable[[], Any]) -> list[str]:
    """The trace points that an action passes."""
    seen: list[str] = []
    with traced(seen.append):
        action()
    return seen


def run(*command: str | Path) -> str:
    """Run a program that must succeed; what it printed."""
    words = [str(part) for part in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def mode(path: Path) -> int:
    """The permission bits of a path, of a link itself."""
    return stat.S_IMODE(path.lstat().st_mode)


def links(home: Path) -> dict[str, str]:
    """What every name in `l/` reads; a name that is no link reads nothing."""
    return {p.name: os.readlink(p) if p.is_symlink() else "" for p in (home / "l").iterdir()}


def overlays(home: Path) -> list[MountEntry]:
    """The overlays that are mounted below a home in this namespace."""
    return [entry for entry in mounts_below(str(home)) if entry.fs_type == "overlay"]


def mounted(home: Path) -> list[str]:
    """The ids of the layers whose `merged` is mounted."""
    return sorted(Path(entry.mount_point).parent.name for entry in overlays(home))


def snapshot(home: Path) -> Snapshot:
    """Everything about the tree that a test can see, without the store's own directory."""
    return compare.snapshot(home, top=True, leave_out={layout.OWN})


def index(home: Path) -> tuple[Any, ...]:
    """What the index says: layers, holds, mounts, and what is in flight."""
    with Store.open(home, read_only=True) as reader:
        return (
            tuple(reader.layers()),
            tuple((hold.layer, hold.holder, hold.count) for hold in reader.holders()),
            reader.mounts(),
            reader.operations(),
        )


def findings(home: Path) -> list[str]:
    """What an audit finds, notes apart: code and layer."""
    return [f"{f.code} {f.layer or f.path}" for f in audit(home).findings if f.severity != "note"]


def check_settled(store: Store) -> None:
    """Nothing is in flight, and journal, index, tree and mounts agree."""
    assert () == store.operations()
    assert [] == findings(store.home)


def apart(work: Callable[[], Any]) -> int:
    """Do something in a forked child; its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]
