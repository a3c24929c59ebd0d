"""Owns how results look: JSON documents, tables and sentences; it must not know what they mean."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, Final

import attrs
import click

SCHEMA: Final = 1
"""The version of the JSON documents: a field may be added to it, none changes its meaning."""


def plain(value: Any) -> Any:
    """A value of the model as JSON has it: attrs classes become objects, times ISO 8601 in UTC."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, PurePath):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if attrs.has(type(value)):
        return {a.name: plain(getattr(value, a.name)) for a in attrs.fields(type(value))}
    if isinstance(value, Iterable):
        return [plain(inner) for inner in value]
    return str(value)


def timestamp(at: datetime) -> str:
    """ISO 8601 in UTC, as the journal's rows have it."""
    return at.astimezone(UTC).isoformat()


def when(at: datetime) -> str:
    """A time as a person reads it, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def age(at: datetime) -> str:
    """How long ago, in its largest unit."""
    seconds = int((datetime.now(UTC) - at).total_seconds())
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return f"{max(seconds, 0)} s ago"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def many(count: int, noun: str, plural: str = "") -> str:
    """`1 layer`, `2 layers`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def clean(text: str) -> str:
    """Text that cannot steer the terminal: what is not printable is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode()
        for c in text
    )


def pairs(mapping: Mapping[str, str]) -> str:
    """`K=V, K=V`, and only the key where the value is empty."""
    return ", ".join(clean(f"{k}={v}" if v else k) for k, v in mapping.items())


@attrs.define(repr=False, eq=False)
class Output:
    """Where results go: data on stdout, everything said about it on stderr."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    color: str = "auto"

    def colored(self, stream: Any = None) -> bool:
        """Whether escape sequences may be written, by --color, NO_COLOR, TERM and the stream."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return bool((stream or sys.stdout).isatty())

    def style(self, text: str, **how: Any) -> str:
        return click.style(text, **how) if text and self.colored() else text

    def line(self, text: str = "") -> None:
        """One line of data."""
        click.echo(text, color=self.colored())

    def note(self, text: str) -> None:
        """One line about what was done: on stderr, and not at all with -q or --json."""
        if not self.quiet and not self.json:
            click.echo(text, err=True, color=self.colored(sys.stderr))

    def document(self, **fields: Any) -> None:
        """The one JSON document of a command, or one line of a stream of them."""
        click.echo(json.dumps({"schema": SCHEMA, **plain(fields)}))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns; where somebody watches, within the width of the terminal."""
        cells = [[clean(cell) for cell in row] for row in rows]
        if self.colored() and sys.stdout.isatty():
            self._rich_table(columns, cells)
            return
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line("  ".join(padded).rstrip())

    def _rich_table(self, columns: Sequence[str], rows: list[list[str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console(file=sys.stdout, highlight=False).print(table)

    def fields(self, values: Iterable[tuple[str, str]]) -> None:
        """`Name:  value` lines; a value of several lines is indented below its name's column."""
        listed = list(values)
        width = max((len(name) for name, _ in listed), default=0) + 2
        for name, value in listed:
            label = self.style(f"{name}:".ljust(width), bold=True)
            first, *rest = [clean(part) for part in value.split("\n")]
            self.line(f"{label} {first}".rstrip())
            for part in rest:
                self.line(" " * (width + 1) + part)

    def error(self, message: str, *, hint: str = "", code: str = "", exit_code: int = 1) -> None:
        """An error, on stderr: a line and a hint, or an object with --json."""
        if self.json:
            body = {"code": code, "message": message, "hint": hint, "exit_code": exit_code}
            click.echo(json.dumps({"schema": SCHEMA, "error": body}), err=True)
            return
        red = self.colored(sys.stderr)
        prefix = click.style("layerstore:", fg="red", bold=True) if red else "layerstore:"
        click.echo(f"{prefix} {clean(message)}", err=True, color=red)
        if hint:
            click.echo(f"  hint: {clean(hint)}", err=True, color=red)
