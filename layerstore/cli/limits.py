"""Owns the flags that say how much an archive may hold; it must not open one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from layerstore.cli.app import App

if TYPE_CHECKING:
    from layerstore.fs.archive import Limits

F = TypeVar("F", bound=Callable[..., object])


def flags(command: F) -> F:
    """Give a command `--max-size`, `--max-entries` and `--max-ratio`; they go to `of` by name."""
    for name, metavar, text in (
        ("--max-ratio", "N", "Refuse what grows more than that; 0: no limit."),
        ("--max-entries", "N", "Refuse more entries; 0: no limit."),
        ("--max-size", "SIZE", "Refuse larger content, as 10G; 0: no limit."),
    ):
        command = click.option(name, metavar=metavar, help=text)(command)
    return command


def of(app: App, **given: str | None) -> Limits:
    """The limits of flags, environment and files together."""
    from layerstore.fs.archive import Limits

    app.flags |= given
    settings = app.settings
    return Limits(settings.max_size, settings.max_entries, settings.max_ratio)
