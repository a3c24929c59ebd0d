"""Owns the exit codes that are no error class; the others stand in `layerstore.errors`."""

from __future__ import annotations

from typing import Final

from layerstore.errors import InvalidArgument, LayerstoreError

FAILED: Final = 1
SOME_FAILED: Final = 3
REPAIRED: Final = 1
FINDINGS: Final = 4
REPAIRED_AND_LEFT: Final = 5
NOT_AUDITED: Final = 8
USAGE: Final = InvalidArgument.exit_code
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
NOT_EXECUTABLE: Final = 126
NO_COMMAND: Final = 127
TERMINATED: Final = 143

_OTHERS: Final = {
    0: "success",
    SOME_FAILED: "some of several things failed, and some were done",
    FINDINGS: "audit, doctor, repair, orphans: it found something that is not as it should be",
    REPAIRED_AND_LEFT: "repair: something was repaired (which alone is 1), and something is left",
    NOT_AUDITED: "audit, doctor, repair: it could not run to its end",
    NOT_EXECUTABLE: "unshare: the command cannot be run",
    NO_COMMAND: "unshare: there is no such command",
    INTERRUPTED: "interrupted (SIGINT)",
    BROKEN_PIPE: "the reader of the output went away (SIGPIPE)",
    HUNG_UP: "ended by SIGHUP: what was begun has been undone or finished first",
    TERMINATED: "ended by SIGTERM: what was begun has been undone or finished first",
}


def table() -> dict[int, str]:
    """Every exit code and what it means, in order."""
    codes = dict(_OTHERS)
    classes = [LayerstoreError]
    for cls in classes:  # grows while it is walked: the parents come first
        codes.setdefault(cls.exit_code, cls.meaning)
        classes += cls.__subclasses__()
    return dict(sorted(codes.items()))
