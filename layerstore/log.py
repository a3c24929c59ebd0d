"""Owns how the library says what is worth a word; it must not decide who hears it.

`logging` is imported with the first thing to say: most commands end without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

_unheard = False


def keep_silent() -> None:
    """From now on only handlers hear it: where there is none, Python would print warnings."""
    global _unheard  # noqa: PLW0603 - what a process does with its stderr
    _unheard = True


def debug(message: str, *args: object) -> None:
    _logger().debug(message, *args, stacklevel=2)


def warning(message: str, *args: object) -> None:
    _logger().warning(message, *args, stacklevel=2)


def _logger() -> logging.Logger:
    import logging

    logger = logging.getLogger("layerstore")
    if _unheard and not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
