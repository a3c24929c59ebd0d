"""Owns the rounds: copy a home, let a process die in it at one point, mend it, judge it.

The process that this module works in is the fork server: it has imported everything, and never has
a store or a database open. Every round is a forked child or two.

What the server keeps about a home is a Snapshot: names, bytes, modes, attributes and mounts, so that
a round begins with some hundred system calls instead of a build. Descriptors of the journal are
opened and closed here while no SQLite of this process has it open, and none of another.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from unittest import mock

import attrs

from layerstore import codec, place
from layerstore.db import reserve
from layerstore.fs import ballast, layout, mount, mountinfo, trace, upper
from layerstore.fs.namespaces import in_user_namespace
from layerstore.testing import dying_at, points
from tests.crash import shim
from tests.crash.invariants import Violation, judge, mend, mounts_below
from tests.crash.model import Create, Live, State, ladder, line
from tests.crash.repairs import REPAIR_TEMPLATES, REPAIRS
from tests.crash.scenarios import LONG, SCENARIOS, TEMPLATES, Scenario

BEGIN, END = "/fault-armed", "/fault-disarmed"
"""What is asked for, and is not there, around the part of a marked run that is counted."""
STOPPED = 77
"""The exit status of a process that stopped itself at a trace point."""
PATIENCE = 90
"""Seconds after which a child that hangs is ended, and counts as a failure."""

Kind = Literal["call", "point"]
Mode = Literal["before", "after", "torn", "eio", "enospc", "cut", "error"]
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
libc = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Fault:
    """Where a process dies: at the n-th mutating call, or at the n-th trace point; -1: nowhere."""

    kind: Kind
    index: int
    mode: Mode = "before"

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}:{self.mode}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        kind, index, mode = text.split(":")
        return cls(kind, int(index), mode)  # type: ignore[arg-type]


@attrs.frozen
class Ended:
    """How a child ended, and what it said before."""

    status: int
    lines: list[Any]

    @property
    def died(self) -> bool:
        """It died of the fault."""
        killed = os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL
        stopped = os.WIFEXITED(self.status) and os.WEXITSTATUS(self.status) == STOPPED
        return killed or stopped

    @property
    def finished(self) -> bool:
        return self.status == 0

    @property
    def acknowledged(self) -> list[dict[str, Any]]:
        return [entry["value"] for entry in self.lines if "value" in entry]

    @property
    def names(self) -> list[str]:
        """The calls or points that were passed, in order, where it lived to say so."""
        return next((entry["names"] for entry in self.lines if "names" in entry), [])

    @property
    def error(self) -> str:
        found = [entry["error"] for entry in self.lines if "error" in entry]
        return found[0] if found else f"wait status {self.status}"


@attrs.frozen
class Snapshot:
    """A home as it lies on the disk, and what is mounted in it."""

    entries: tuple[tuple[str, str, int, Any, tuple[tuple[str, bytes], ...]], ...]
    """Path, kind, mode, content or target, extended attributes; directories before what they hold."""
    mounted: tuple[str, ...]
    times: tuple[tuple[str, int], ...] = ()
    """When what layers hold was written (nanoseconds): manifests say so. The deepest first."""

    @classmethod
    def take(cls, home: Path) -> Snapshot:
        entries: list[Any] = []
        mounted: list[str] = []
        times: list[tuple[str, int]] = []

        def walk(directory: str, relative: str) -> None:
            for entry in sorted(os.scandir(directory), key=lambda found: found.name):
                name = f"{relative}{entry.name}"
                status = entry.stat(follow_symlinks=False)
                mode = status.st_mode & 0o7777
                if "/diff/" in name:
                    times.insert(0, (name, status.st_mtime_ns))
                if entry.is_symlink():
                    entries.append((name, "link", mode, os.readlink(entry.path), ()))
                    continue
                kept = tuple(
                    (key, os.getxattr(entry.path, key)) for key in os.listxattr(entry.path)
                )
                if not entry.is_dir():
                    content = Path(entry.path).read_bytes()
                    entries.append((name, "file", mode, content, kept))
                    continue
                over = entry.name == "merged" and mountinfo.is_mount_root(entry.path)
                entries.append(
                    (name, "directory", 0o700 if over else mode, None, kept * (not over))
                )
                if over:
                    mounted.append(relative.rstrip("/"))
                else:
                    walk(entry.path, f"{name}/")

        walk(os.fspath(home), "")
        return cls(tuple(entries), tuple(mounted), tuple(times))

    def restore(self, home: Path) -> None:
        """Make the home anew, which must not exist."""
        root = os.fspath(home)
        os.mkdir(root, 0o710)
        for name, kind, mode, content, attributes in self.entries:
            path = f"{root}/{name}"
            if kind == "link":
                os.symlink(content, path)
                continue
            if kind == "directory":
                os.mkdir(path, mode)
                if mode & 0o022:
                    os.chmod(path, mode)  # which the umask had cut
            else:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                if content:
                    os.write(descriptor, content)
                os.close(descriptor)
            for key, value in attributes:
                os.setxattr(path, key, value)
        for name, at in self.times:
            os.utime(f"{root}/{name}", ns=(at, at), follow_symlinks=False)
        for layer in self.mounted:
            _mount(root, layer)
        if (home / layout.PLACE_FILE).exists():
            # It stands for the same directory, not for a copy of it.
            record = place.recorded(home)
            assert record is not None
            now = place.here(home)
            same = attrs.evolve(record, inode=now.inode, born=now.born)
            (home / layout.PLACE_FILE).write_text(json.dumps(attrs.asdict(same)))


def _mount(home: str, layer: str) -> None:
    """Mount a layer as the store does: read-only with its own content in front once it is committed."""
    directory = f"{home}/{layer}"
    if os.path.isdir(f"{directory}/l1"):
        _mount_trial(home, directory)
        return
    lowers = tuple(f"{home}/{part}" for part in Path(f"{directory}/lower").read_text().split(":"))
    if os.path.exists(f"{directory}/committed"):
        lowers, upper, work = (f"{directory}/diff", *lowers), None, None
    else:
        upper, work = f"{directory}/diff", f"{directory}/work"
    options = mount.OverlayOptions(lowers, upper, work, userxattr=in_user_namespace())
    mount.mount_overlay(f"{directory}/merged", options, home=home)


def _mount_trial(home: str, directory: str) -> None:
    """Mount as the probes of kernel and file system do."""
    lowers = (f"{directory}/l2", f"{directory}/l1")
    upper, work = f"{directory}/upper", f"{directory}/work"
    options = mount.OverlayOptions(lowers, upper, work, userxattr=in_user_namespace())
    mount.mount_overlay(f"{directory}/merged", options, home=home)


Patch = Callable[[], contextlib.AbstractContextManager[None]]


@attrs.define
class Bench:
    """One scenario's place of work."""

    place: Path
    scenario: Scenario
    patch: Patch = contextlib.nullcontext
    """What a mutant changes, for the scenario and the recovery from it."""
    start: Snapshot | None = None
    first: State = attrs.Factory(State)
    links: dict[str, str] = attrs.Factory(dict)
    kept: list[int] = attrs.Factory(list)
    """Descriptors that a child left for after its death."""
    judge: Judge | None = None
    known: Counter[str] | None = None
    """In the judge's process: how often which home was judged. None: each is worked with again."""

    @property
    def home(self) -> Path:
        return self.place / "home"

    # --- children -----------------------------------------------------------------------------

    def child(self, work: Callable[[Live, Callable[[Any], None]], None]) -> Ended:
        """Run `work` in a forked child, with a function that says a line to this process.

        Kept descriptors pass to the child: when it closes them, nobody has them any more.
        """
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(read)
                ours.close()
                signal.alarm(PATIENCE)
                shim.ignore(write)
                live = Live(self.home, theirs, lambda value: _say(write, value))
                work(live, live.say)
                code = 0
            except BaseException:  # noqa: BLE001 - it is told to the server
                shim.disarm()
                trace.set_trace(None)
                _say(write, {"error": traceback.format_exc(limit=-6)})
            finally:
                os._exit(code)
        os.close(write)
        theirs.close()
        self.drop_descriptors()
        said = b""
        while chunk := os.read(read, 1 << 16):
            said += chunk
        os.close(read)
        _, status = os.waitpid(pid, 0)
        self._take_descriptors(ours)
        ours.close()
        # A line that was cut short was not acknowledged.
        lines = [json.loads(text) for text in said.split(b"\n")[:-1]]
        return Ended(status, lines)

    def _take_descriptors(self, end: socket.socket) -> None:
        end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(end, 16, 4)
                self.kept += descriptors
                if not data:
                    return

    def drop_descriptors(self) -> None:
        for descriptor in self.kept:
            os.close(descriptor)
        self.kept.clear()

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """The mutant, if there is one; and nobody waits for what stays busy in this scenario.

        How often a busy mount is tried again is a matter of time, and the points must not be.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.patch())
            if self.scenario.busy:
                for function in (mount.unmount, upper.upper_is_free):
                    values = {"wait": 0.0}
                    stack.enter_context(mock.patch.object(function, "__kwdefaults__", values))
            yield

    # --- the parts of a round -----------------------------------------------------------------

    def prepare(self) -> None:
        """Build the template, once."""
        template = {**TEMPLATES, **REPAIR_TEMPLATES}[self.scenario.template]
        self.clean()

        def build(live: Live, say: Callable[[Any], None]) -> None:
            for verb in template.verbs:
                say({"value": verb.act(live)})
            if live.store is not None:
                say({"seq": live.store.last_seq() if not live.store._closed else 0})

        if template.exists:
            ended = self.child(build)
            self.drop_descriptors()
            if not ended.finished:
                raise RuntimeError(f"template {self.scenario.template}: {ended.error}")
            self.links = _links(ended)
            if template.tamper is not None:
                tamper = template.tamper
                ended = self.child(lambda live, say: tamper(live.home))
                if not ended.finished:
                    raise RuntimeError(f"template {self.scenario.template}: {ended.error}")
            self.start = Snapshot.take(self.home)
            if template.mounted is not None:
                self.start = attrs.evolve(self.start, mounted=template.mounted)
        warm_up()
        self.first = template.expect(ladder(State(), template.verbs)[-1][-1])
        gc.disable()  # a collection would write to every page that the children share
        gc.freeze()

    def clean(self) -> None:
        """Nothing of a round is left, in the kernel or on the disk."""
        self.drop_descriptors()
        for point in reversed(mounts_below(self.place)):
            detach(point)
        if self.home.exists():
            shutil.rmtree(self.home)

    def renew(self, snapshot: Snapshot | None) -> None:
        self.clean()
        if snapshot is not None:
            snapshot.restore(self.home)

    def act(self, fault: Fault, *, marked: bool = False) -> Ended:
        """The scenario in a fresh copy, with one fault; its process is dead afterwards.

        `marked`: two calls that change nothing enclose what the fault is meant for.
        """
        self.renew(self.start)
        return self.once(fault, marked=marked)

    def once(self, fault: Fault, *, marked: bool = False) -> Ended:
        """The scenario in what is there, with one fault."""

        def work(live: Live, say: Callable[[Any], None]) -> None:
            with self.patched():
                for verb in self.scenario.given:
                    verb.act(live)
                with armed(fault, say):
                    if marked:
                        os.access(BEGIN, os.F_OK)
                    for verb in self.scenario.when:
                        value = verb.act(live)
                        if live.store is not None and not live.store._closed:
                            value["seq"] = live.store.last_seq()
                        say({"value": value})
                    if marked:
                        os.access(END, os.F_OK)

        return self.child(work)

    def recover(self, fault: Fault) -> Ended:
        """What the user does next, with a fault of its own."""

        def work(live: Live, say: Callable[[Any], None]) -> None:
            with self.patched(), armed(fault, say):
                mend(live.home, self.scenario.mends)

        return self.child(work)

    def verdict(self, ended: Ended) -> str:
        """Mend the home, then judge it by what was acknowledged; empty where all invariants hold."""
        links = {k: v for k, v in self.links.items() if k not in self.scenario.renewed}
        case = Case(
            done=len(ended.acknowledged),
            links=links | _links(ended),
            seq=self.sure(ended),
            foreign=[entry["foreign"] for entry in ended.lines if entry.get("foreign")],
        )
        if self.judge is None:
            self.judge = Judge(self._decide, others=tuple(self.kept))
        answer = self.judge.ask(case, self.kept)
        self.drop_descriptors()
        if answer is None:
            self.judge = None
            return "the verdict could not be found: its process ended"
        if answer:
            # What it has open, or mounted in its own sight, must not reach into the next round.
            self.dismiss()
        return answer

    def sure(self, ended: Ended) -> int:
        """The last event that must be there."""
        return max((value.get("seq", 0) for value in ended.acknowledged), default=0)

    def lasting(self, case: Case, allowed: list[State]) -> list[State]:
        """What may be left, of the states that the scenario passed through."""
        return allowed

    def dismiss(self) -> None:
        if self.judge is not None:
            self.judge.end()
            self.judge = None

    def _decide(self, case: Case, kept: list[int]) -> str:
        """In the judge's process."""
        given = ladder(self.first, self.scenario.given)[-1][-1]
        allowed = ladder(given, self.scenario.when)[case.done]
        settled: tuple[Any, ...] = ()
        try:
            with self.patched():
                settled = mend(self.home, self.scenario.mends)
            allowed = self.lasting(case, allowed)
            for descriptor in kept:
                os.close(descriptor)
            judge(
                self.home,
                allowed,
                case.links,
                settled,
                case.seq,
                lost=self.scenario.lost,
                foreign=case.foreign,
                again=[
                    verb
                    for verb in self.scenario.when[case.done : case.done + 1]
                    if isinstance(verb, Create)
                ],
                known=self.known,
            )
        except Violation as violation:
            return f"{violation}\nrecovery settled: {settled}"
        except Exception:  # noqa: BLE001 - whatever it is, the store did not come back
            return f"{traceback.format_exc(limit=-8)}\nrecovery settled: {settled}"
        return ""


B = TypeVar("B", bound=Bench)


@attrs.frozen
class Case:
    """What a verdict goes by."""

    done: int
    """Verbs that were acknowledged."""
    links: dict[str, str]
    seq: int
    foreign: list[str]
    """Layers that another made meanwhile."""


class Judge:
    """A process that mends and judges one home after the other.

    It is not the fork server, which must never have a database open, and it lives on: a new child
    would spend most of its time on copying the pages that it shares.
    """

    def __init__(
        self, decide: Callable[[Case, list[int]], str], *, others: tuple[int, ...]
    ) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._end.close()
                for descriptor in others:
                    os.close(descriptor)
                gc.enable()
                _serve(theirs, decide)
            finally:
                os._exit(1)
        theirs.close()

    def ask(self, case: Case, descriptors: list[int]) -> str | None:
        """The violation, or an empty text; None where the process died over it.

        The descriptors go along; this process must close its own at once.
        """
        socket.send_fds(self._end, [json.dumps(attrs.asdict(case)).encode()], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        descriptors.clear()
        answer = self._end.recv(1 << 20)
        if answer:
            return answer[1:].decode()
        self.end()
        return None

    def end(self) -> None:
        self._end.close()
        os.waitpid(self._pid, 0)


def _serve(end: socket.socket, decide: Callable[[Case, list[int]], str]) -> None:
    while True:
        signal.alarm(0)
        data, descriptors, _, _ = socket.recv_fds(end, 1 << 20, 8)
        if not data:
            return
        signal.alarm(PATIENCE)
        answer = decide(Case(**json.loads(data)), list(descriptors))
        end.send(b"=" + answer.encode()[: 1 << 17])


LATE: Final = (
    "filelock",
    *(
        f"layerstore.{name}"
        for name in ("archiving", "audit", "comparison", "making", "replay", "store")
    ),
    *(f"layerstore.fs.{name}" for name in ("probe", "tree", "upper")),
)
"""What the library imports only where it is needed."""


def warm_up() -> None:
    """Do once in the server what every child would do again: import, compile converters, ask the
    kernel.
    """
    for module in LATE:
        importlib.import_module(module)
    mount.overlay_parameters()
    mount.has_lowerdir_plus()
    codec._converter()


def _say(descriptor: int, value: Any) -> None:
    data = line(value)
    while data:
        data = data[os.write(descriptor, data) :]


def _links(ended: Ended) -> dict[str, str]:
    """Layer to link, of every create that was acknowledged."""
    return {value["layer"]: value["link"] for value in ended.acknowledged if "link" in value}


@contextlib.contextmanager
def armed(fault: Fault, say: Callable[[Any], None]) -> Iterator[None]:
    """Die at the fault's point; or live to say which points were passed."""
    if fault.kind == "call":
        shim.arm(fault.index, fault.mode if fault.index >= 0 else "count")
        yield
        names = shim.disarm()
    elif fault.index >= 0:
        names = []
        with dying_at(fault.index, how=lambda: os._exit(STOPPED)):
            yield
    else:
        with points() as names:
            yield
    say({"names": names})


def base() -> str:
    """Where homes are made."""
    return os.path.realpath(os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm"))


def detach(point: str) -> None:
    """Take a mount down, busy or not."""
    if libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        raise OSError(ctypes.get_errno(), "umount2", point)


def in_child(work: Callable[[], Any]) -> None:
    """Do something in a forked child; Violation with its words where it raises."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - it is told to the server
            os.write(write, traceback.format_exc(limit=-8).encode()[:60_000])
        finally:
            os._exit(code)
    os.close(write)
    with open(read, encoding="utf-8") as words:
        said = words.read()
    if os.waitpid(pid, 0)[1]:
        raise Violation(said)


@contextlib.contextmanager
def bench(
    name: str, patch: Patch = contextlib.nullcontext, *, every: bool = False
) -> Iterator[Bench]:
    """A bench for a scenario, in a directory of its own that is gone afterwards.

    `every`: work with every home after its death, also with one that is the same as another.
    """
    with bench_of(Bench, name, patch, every=every) as made:
        yield made


@contextlib.contextmanager
def bench_of(
    kind: type[B], name: str, patch: Patch = contextlib.nullcontext, *, every: bool = False
) -> Iterator[B]:
    """The same, of any kind."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-crash-", dir=base()))
    scenarios = {**SCENARIOS, **LONG, **REPAIRS}
    made = kind(place, scenarios[name], patch, known=None if every else Counter())
    # Every round copies what is kept for full disks.
    ballast.PIECES, ballast.LARGEST, reserve.LARGEST = 2, ballast.SMALLEST, 16 << 12  # type: ignore[misc]
    try:
        made.prepare()
        yield made
    finally:
        made.dismiss()
        made.clean()
        shutil.rmtree(place)
