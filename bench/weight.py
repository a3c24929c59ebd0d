"""Owns how much memory a fresh process takes: from outside, and asked in it; it must not know for what.

What it imports beyond the library's own would be weighed, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from measure import Clock

_HERE = Path(__file__).resolve().parent


def tell_peak() -> None:
    """Print the most bytes that this process had in memory.

    Not what getrusage(2) says: that begins with the memory of the process which started this one.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(int(found[1]) * 1024)


@attrs.frozen
class Fresh:
    """A fresh process that runs a script of this directory, which ends with `tell_peak`."""

    script: str
    arguments: tuple[str, ...]

    def close(self) -> None:
        """Nothing is open."""


def weigh(subject: Fresh, clock: Clock, count: int) -> None:
    """The peak in MB, where other rows have seconds."""
    for _ in range(count):
        done = subprocess.run(
            [sys.executable, str(_HERE / subject.script), *subject.arguments],
            env={"PYTHONPATH": str(_HERE.parent)},
            check=True,
            capture_output=True,
            text=True,
        )
        clock.seconds += int(done.stdout) / 1e6


def same_library(_: object) -> str:
    """Where both sides are the library there is nothing else to compare."""
    return "the same library"
