"""Owns the last word of a run about its crash campaigns: how many points, kills and pairs.

It is a plugin, not a conftest: under xdist the terminal belongs to a process that never collects
tests/crash. The counts travel there with the reports, as properties of the tests.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.crash.campaigns import PROPERTY

HEAD = ("campaign", "runs", "points", "in recovery", "pairs", "kills", "seconds", "per second")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each campaign, and one for all of them."""
    found = [
        json.loads(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if found:
        terminalreporter.section("crash campaigns")
        for line in lines(found):
            terminalreporter.write_line(line)


def lines(results: list[dict[str, Any]]) -> list[str]:
    """The table, and what caught each mutant."""
    sums: dict[str, Counter[str]] = {}
    for result in results:
        for name in (result["campaign"], "total"):
            row = sums.setdefault(name, Counter())
            row["runs"] += 1
            for key in ("points", "again", "pairs", "kills", "seconds"):
                row[key] += result[key]
    total = sums.pop("total")
    table = [f"{HEAD[0]:12}" + "".join(f"{title:>13}" for title in HEAD[1:])]
    for name, row in [*sorted(sums.items()), ("total", total)]:
        rate = row["kills"] / row["seconds"] if row["seconds"] else 0
        values = [row[key] for key in ("runs", "points", "again", "pairs", "kills")]
        numbers = "".join(f"{value:13,}" for value in values)
        table.append(f"{name:12}{numbers}{row['seconds']:13.1f}{rate:13.1f}")
    for result in results:
        if result["caught"]:
            table.append(f"caught: {result['mutant']}, {result['caught'].splitlines()[0][:100]}")
    seeds = sorted({result["seed"] for result in results if result["campaign"] == "double"})
    if seeds:
        table.append(f"seeds of the sampled pairs: {seeds[0]} and {len(seeds) - 1} more")
    for result in results:
        if result["figures"]:
            table += [f"{result['campaign']}, seed {result['seed']}: {counted(result)}"]
            table += [*tabulated(result["figures"]), json.dumps(result["figures"])]
    table += [f"seed of {r['scenario']}: {r['seed']}" for r in results if r["campaign"] == "living"]
    return table


def counted(result: dict[str, Any]) -> str:
    """What was counted, in one line."""
    return ", ".join(f"{count:,} {name}" for name, count in result["calls"].items())


def tabulated(figures: dict[str, dict[str, float]]) -> list[str]:
    """What was measured over a long time, for people."""
    head = f"{'':24}{'first quarter':>15}{'last quarter':>15}{'highest':>15}"
    rows = [
        f"{name:24}" + "".join(f"{row[key]:15,.0f}" for key in ("first", "last", "highest"))
        for name, row in figures.items()
    ]
    return [head, *rows]
