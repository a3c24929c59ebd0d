"""Owns how SIGTERM and SIGHUP end the program: as an exception, like Ctrl-C, so that what is open closes.

Only the program installs handlers; the library never does, and a signal that was ignored when the
program started (nohup does that to SIGHUP) stays ignored.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
AT_ONCE: Final = 1.0
"""Seconds in which a second signal is part of the first: shells and service managers send several."""


class EndedBySignal(KeyboardInterrupt):
    """The program was told to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that the signal killed."""
        return 128 + self.signal


_last = float("-inf")


def install() -> None:
    """From now on, raise EndedBySignal in the main thread."""
    global _last  # noqa: PLW0603
    _last = float("-inf")
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def over() -> None:
    """The program has done what it was asked, or is saying why not: it ends anyway."""
    global _last  # noqa: PLW0603 - a process has one end
    _last = float("inf")


def _raise(number: int, frame: FrameType | None) -> None:
    """One that comes later than the first interrupts the settling, which the next open then does."""
    global _last  # noqa: PLW0603
    del frame
    now = time.monotonic()
    if now - _last >= AT_ONCE:
        _last = now
        raise EndedBySignal(number)
