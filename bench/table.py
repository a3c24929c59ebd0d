"""Owns how results are shown: a table for people, JSON for programs; it must not measure."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import attrs
from measure import Beside, NotMeasured, Result

from layerstore.db import engine

_HEAD = ("", "ours", "floor", "ratio", "min..max")


def facts(file_system: str) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "file_system": file_system,
        "python": platform.python_version(),
        "sqlite": f"{engine.SQLITE_VERSION} ({engine.DRIVER})",
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def heading(known: dict[str, Any], rounds: int) -> str:
    return (
        f"Linux {known['kernel']}, {known['processors']} processors, {known['file_system']}, "
        f"Python {known['python']}, SQLite {known['sqlite']}, {rounds} rounds, "
        f"load {known['load'][0]}"
    )


def line(name: str, width: int, *cells: str) -> str:
    ours, floor, ratio, spread = cells
    return f"{name:<{width}}  {ours:>9}  {floor:>9}  {ratio:>6}  {spread:>13}"


def head(width: int) -> str:
    return line(_HEAD[0], width, *_HEAD[1:])


def row(result: Result, width: int) -> str:
    ratio = result.ratio
    return line(
        result.name,
        width,
        _value(result.ours.median, result.unit),
        _value(result.floor.median, result.unit),
        _ratio(ratio.median),
        f"{_ratio(ratio.min)}..{_ratio(ratio.max)}",
    )


def peer_head(width: int) -> str:
    return peer_line("", width, "process", "full", "peer", "ratio", "min..max")


def peer_line(name: str, width: int, *cells: str) -> str:
    process, full, peer, ratio, spread = cells
    return f"{name:<{width}}  {process:>9}  {full:>9}  {peer:>9}  {ratio:>6}  {spread:>13}"


def peer_row(result: Beside, width: int) -> str:
    ratio = result.ratio
    times = (result.process, result.full, result.peer)
    return peer_line(
        result.name,
        width,
        *(_value(spread.median, "s") for spread in times),
        _ratio(ratio.median),
        f"{_ratio(ratio.min)}..{_ratio(ratio.max)}",
    )


def _value(value: float, unit: str) -> str:
    return _time(value) if unit == "s" else f"{value:.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds >= 0.01:
        return f"{seconds * 1e3:.1f} ms"
    if seconds >= 0.001:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e6:.0f} µs"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def write_json(
    path: Path,
    known: dict[str, Any],
    rounds: int,
    results: list[Result],
    peers: list[Beside | NotMeasured],
) -> None:
    """Times are seconds for one; `ratio` is that of the two sides of a round, over the rounds.

    A peer's row has the library under both durabilities, and the ratio of `process` to the peer.
    """
    document = {
        "schema": 2,
        "facts": known,
        "rounds": rounds,
        "rows": [attrs.asdict(result) for result in results],
        "peers": [attrs.asdict(result) for result in peers],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
