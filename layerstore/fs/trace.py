"""Owns the trace points: named moments between two effects, where a test can stop the program."""

from __future__ import annotations

from collections.abc import Callable

Hook = Callable[[str], None]
_hook: Hook | None = None


def set_trace(hook: Hook | None) -> None:
    """Have `hook` called with the name of every trace point that is passed; None ends it.

    Names are `create:3:MakeDirectory:before`, `create:intent:after` and the like; those of
    recovery have `settle:` in front.
    """
    global _hook  # noqa: PLW0603 - one process has one tracer
    _hook = hook


def current() -> Hook | None:
    """The hook that is set."""
    return _hook


def trace(point: str) -> None:
    """Pass a trace point."""
    if _hook is not None:
        _hook(point)
