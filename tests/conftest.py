"""What every test has: a private mount namespace, a directory of its own, and no silent skips.

LAYERSTORE_TEST_DIR says where stores are made (default: a tmpfs, /dev/shm), so that the suite can
be run on another file system. LAYERSTORE_TEST_NO_SKIPS=1 makes a run fail that skipped anything.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testing.podman import Podman

pytest_plugins = ("tests.crash.summary",)

CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

libc = ctypes.CDLL(None, use_errno=True)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to mount where the rest of the machine would see it."""
    if os.geteuid() == 0 and not in_private_namespace():
        pytest.exit(
            "these tests mount file systems, and this is the machine's own mount namespace.\n"
            "Run `make test` or `make check`, or put this in front of the command:\n"
            "    unshare --mount --propagation private",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    if os.geteuid() == 0 and hasattr(config, "workerinput"):
        leave_the_others()


def leave_the_others() -> None:
    """Give this worker a mount namespace of its own.

    A test that makes a namespace copies every mount into it, and keeps the overlays of the other
    workers' tests alive there: their uppers would stay in use, for no reason that they can see.
    """
    assert threading.current_thread() is threading.main_thread()
    if libc.unshare(CLONE_NEWNS) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """SIGHUP and SIGINT mean something to the children, also under nohup and in the background."""
    before = (
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL)),
        (signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler)),
    )
    yield
    for number, handler in before:
        signal.signal(number, handler)


def in_private_namespace() -> bool:
    """Whether some ancestor, init at the latest, is in another mount namespace than this process.

    Init alone would not do: in some containers its namespace is unreadable even for root.
    """
    if "LAYERSTORE_ROOTLESS_UID" in os.environ:
        return True  # `layerstore unshare` made it, and hides the ancestors' from this process
    mine = os.readlink("/proc/self/ns/mnt")
    pid = os.getppid()
    while pid > 0:
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") != mine:
                return True
        except OSError:
            pass  # gone, or not ours to look at: its own parent may be
        pid = parent_of(pid)
    return False


def parent_of(pid: int) -> int:
    """The parent's pid, 0 above the last one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot do, with the reason that the summary counts."""
    unable = {}
    if os.geteuid() != 0:
        unable["root"] = "needs root, to mount"
    if shutil.which("strace") is None:
        unable["strace"] = "needs strace"
    for item in items:
        if item.get_closest_marker("campaign") and not item.get_closest_marker("crash"):
            raise pytest.UsageError(f"{item.nodeid}: a campaign is marked as `crash`, too")
        for name, reason in unable.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


# -- no skips ------------------------------------------------------------------------------------


def skips(config: pytest.Config) -> list[str]:
    """One line per skipped test or file that the rule forbids; empty where the rule is off."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("LAYERSTORE_TEST_NO_SKIPS") != "1" or reporter is None:
        return []
    # Each of xdist's workers reports a file that skips itself: hence the set.
    return sorted({f"{r.nodeid}: {reason_of(r)}" for r in reporter.stats.get("skipped", [])})


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why it was skipped: pytest keeps (file, line, reason)."""
    where = report.longrepr
    return str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that skipped has failed. Workers do not judge: only the controller has a terminal."""
    is_worker = hasattr(session.config, "workerinput")
    if not is_worker and session.exitstatus == pytest.ExitCode.OK and skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which skips made the run fail."""
    lines = skips(config)
    if lines:
        terminalreporter.section("skipped, with LAYERSTORE_TEST_NO_SKIPS=1", red=True)
        for line in lines:
            terminalreporter.write_line(line)


# -- directories ---------------------------------------------------------------------------------


@pytest.fixture
def bare() -> Iterator[Path]:
    """An empty directory of this test's own; what was mounted below it is taken down at the end."""
    base = os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="layerstore-", dir=os.path.realpath(base)))
    try:
        yield path
    finally:
        unmount_below(path)
        shutil.rmtree(path)


@pytest.fixture
def podman(bare: Path) -> Iterator[Podman]:
    """The program, on a graph root of the test's own; its containers end with the test."""
    program = Podman(bare / "podman")
    yield program
    program("rm", "-af", "-t", "0")


@pytest.fixture
def home(bare: Path) -> Path:
    """The home of an initialised store without layers, that nobody has open."""
    from layerstore import Store

    path = bare / "home"
    Store.initialize(path)
    return path


def unmount_below(path: Path) -> None:
    """Detach every mount at or below `path`, the last one first."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4])
        if Path(point).is_relative_to(path):
            mounts.append(point)
    for point in reversed(mounts):
        if libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), point)
