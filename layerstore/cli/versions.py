"""Owns `--version`: what runs here, down to the SQLite library."""

from __future__ import annotations

import platform
from importlib import metadata

from layerstore.cli.output import Output


def version() -> str:
    """The installed version; a checkout that was never installed has none."""
    try:
        return metadata.version("layerstore")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def show(out: Output) -> None:
    """One line for people; all of it with --json."""
    if not out.json:
        out.line(f"layerstore {version()}")
        return
    from layerstore.db import engine

    out.document(
        version=version(),
        python=platform.python_version(),
        sqlite=engine.SQLITE_VERSION,
        sqlite_driver=engine.DRIVER,
    )
