"""Owns the proof that the floors are floors: both sides under strace, call by call, counted.

It must not time anything. A row is run in a process of its own, which passes two recognisable calls
around what counts.
"""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import BEGIN, END, Clock, Row

COUNT = 4
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(")

# Where the two may differ, and why. Everything else that differs is an error.
EXPLAINED = {
    "pwrite64": "pages of the WAL: ours projects into more tables, and some outcomes are two events",
    "pread64": "pages of the database: ours checks its preconditions, and answers from the index",
    "fcntl": "SQLite's locks: ours also reads; both move a read mark when it fell behind",
    "newfstatat": "the size of the log, after one commit in eight; the database and the mark beside it, "
    "while their directory changed a moment ago",
    "getrandom": "names of operations, links",
    "getpid": "a Store refuses to work in a forked child",
    "mmap": "memory for Python or SQLite",
    "munmap": "the same",
    "brk": "the same",
    "madvise": "the same",
    "futex": "Python's locks",
    "rt_sigprocmask": "signals wait while a mount is made: their handlers could lose its descriptor",
}
_EITHER_WAY = frozenset({"fcntl", "mmap", "munmap", "brk", "madvise"})
"""Ours may also need fewer of these; of everything else it needs at least what its floor needs."""

# A further get is held against two bare transactions: what it asks the kernel is its own.
_FURTHER = {
    "newfstatat": "is the database still the file that was opened? (once per transaction)",
    "statx": "is it mounted?",
}

# An open is held against a lock file, two connections and their transactions. Ours finds out more:
# which store this is, its schema before it locks anything, who else has it open, whether this is
# the boot that was probed, and what lies in its own directories that nobody owns.
_FILES = "files: store.json twice, probes.json, the boot id, the start time of this process"
_OPEN = {
    "read": _FILES,
    "ioctl": _FILES,
    "lseek": _FILES,
    "newfstatat": _FILES,
    "access": "can the store be written?",
    "statx": "which mount is the home in?",
    "getdents64": "what lies in staging, trash and owners?",
    "flock": "the store's shared lock; is an owner alive?",
    "unlink": "the same as flock",
    "close": "the same files, and SQLite's, below",
    "openat": "the same files, and SQLite's, below",
    "fstat": "SQLite, and the same files",
    "stat": "the same",
    "lstat": "the same",
    "fchown": "the same",
    "ftruncate": "the same",
    "geteuid": "the same",
}


def explanations(name: str) -> dict[str, str]:
    if name.startswith("open "):
        return EXPLAINED | _OPEN
    return EXPLAINED | _FURTHER if name.startswith("further ") else EXPLAINED


def trace(row: Row, side: str) -> None:
    """Run one side of a row between marks: the process that strace looks at."""
    subject = row.ours() if side == "ours" else row.floor()
    try:
        row.work(subject, Clock(), 1)
        row.work(subject, Clock(marks=True), COUNT)
    finally:
        subject.close()


def compare(row: Row) -> list[str]:
    """Lines about one row; one that starts with `!` is a difference that nobody explained."""
    ours, floor = _counts(row.name, "ours"), _counts(row.name, "floor")
    known = explanations(row.name)
    lines = []
    for call in sorted(set(ours) | set(floor)):
        if ours[call] == floor[call]:
            continue
        fine = call in known and (ours[call] > floor[call] or call in _EITHER_WAY)
        sign, reason = (" ", known[call]) if fine else ("!", "not explained")
        left, right = ours[call] / COUNT, floor[call] / COUNT
        lines.append(f"{sign} {call:<12} {left:>7g} {right:>7g}  {reason}")
    same = sum(floor[call] for call in floor if ours[call] == floor[call]) / COUNT
    return [f"{row.name}: {same:g} calls are the same; calls of ours and of the floor:", *lines]


def _counts(name: str, side: str) -> collections.Counter[str]:
    strace = shutil.which("strace")
    if strace is None:
        raise SystemExit("--check-floors needs strace.")
    with tempfile.TemporaryDirectory() as directory:
        report = f"{directory}/strace"
        script = str(Path(__file__).with_name("run.py"))
        argv = [strace, "-o", report, sys.executable, script, "--trace", side, "--only", name]
        subprocess.run(argv, check=True)
        counts: collections.Counter[str] = collections.Counter()
        inside = False
        for line in Path(report).read_text(errors="replace").splitlines():
            if f'"{BEGIN}"' in line or f'"{END}"' in line:
                inside = f'"{BEGIN}"' in line
            elif inside and (found := _CALL.match(line)):
                counts[found[1]] += 1
    return counts
