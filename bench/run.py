"""The benchmarks: every verb against the least that its system calls and commits can cost.

`make bench` runs this; docs/benchmarks.md says how to read it. BIG=1 in the environment adds stores
of 100,000 layers. Where the peers' programs are installed they are measured beside the library.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import signal
import subprocess
import sys
from pathlib import Path

# From a checkout too, where the package may not be installed.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import archive_peers
import check
import dockers
import peers
import table
from measure import Beside, NotAlike, NotMeasured, Row, measure
from place import place
from rows import Rows

from layerstore.errors import LayerstoreError
from layerstore.fs import mount


def main() -> int:
    options = _options()
    # What was started and mounted is taken down on the way out, also when somebody ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if os.geteuid() != 0:
        print("The benchmarks mount and unmount, which takes root.", file=sys.stderr)
        return 1
    big = os.environ.get("BIG", "") not in ("", "0")
    with place(big=big, cache=options.cache) as where:
        rows = Rows(where)
        chosen = [row for row in rows.all() if _matches(row.name, options.only)]
        if not mount.has_lowerdir_plus():
            print("note: this kernel has no `lowerdir+`, which the floor of a mount uses")
            chosen = [row for row in chosen if " get " not in row.name]
        beside = [] if options.no_peers else _peers(rows, where.path, options)
        if not chosen and not beside:
            print(f"No row matches {options.only!r}.", file=sys.stderr)
            return 2
        if options.trace:
            check.trace(chosen[0], options.trace)
            return 0
        if options.check_floors:
            return _check(chosen)
        with rows.kept(), contextlib.closing(dockers.Everything()):
            return _measure(chosen, beside, options, where.file_system)


def _peers(rows: Rows, place: str, options: argparse.Namespace) -> list[peers.PeerRow]:
    sizes = {"10": (10, rows.twins["10"])}
    if not options.quick:
        sizes["1,000"] = (1_000, rows.twins["1,000"])
    found = (*peers.rows(place, sizes), *archive_peers.rows(place))
    return [row for row in found if _matches(row.name, options.only)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, metavar="N", help="turns per row (default 21)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="rows by name, as a glob")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the store of 100,000 layers there (BIG=1)"
    )
    parser.add_argument("--no-peers", action="store_true", help="only the library and its floors")
    parser.add_argument("--quick", action="store_true", help="few and short turns: does it run?")
    parser.add_argument(
        "--check-floors",
        action="store_true",
        help="count the system calls of both sides with strace, instead of timing them",
    )
    parser.add_argument("--trace", choices=("ours", "floor"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, f"*{pattern}*")


def _measure(
    rows: list[Row], beside: list[peers.PeerRow], options: argparse.Namespace, file_system: str
) -> int:
    rounds = options.rounds or (3 if options.quick else 21)
    known = table.facts(file_system)
    print(table.heading(known, rounds))
    results, failed = [], 0
    width = max((len(row.name) for row in rows), default=0)
    if rows:
        print(f"\n{table.head(width)}")
    for row in rows:
        try:
            most = min(rounds, row.most_rounds)
            results.append(measure(row, rounds=most, quick=options.quick))
        except dockers.NoDocker as error:
            print(f"{row.name:<{width}}  not measured: {error}", flush=True)
        except (NotAlike, LayerstoreError, OSError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"{row.name}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            print(table.row(results[-1], width), flush=True)
    others, broken = _measure_peers(beside, rounds, quick=options.quick)
    if options.json:
        table.write_json(options.json, known, rounds, results, others)
    return 1 if failed or broken else 0


def _measure_peers(
    rows: list[peers.PeerRow], rounds: int, *, quick: bool
) -> tuple[list[Beside | NotMeasured], int]:
    results: list[Beside | NotMeasured] = []
    failed = 0
    width = max((len(row.name) for row in rows), default=0)
    if rows:
        print(f"\n{table.peer_head(width)}")
    try:
        for row in rows:
            gone = peers.missing(row)
            if gone is not None:
                results.append(gone)
                print(f"{gone.name:<{width}}  {gone.reason}", flush=True)
                continue
            try:
                results.append(peers.measure(row, rounds=rounds, turns=1 if quick else 3))
            except peers.PeerFailed as error:
                results.append(NotMeasured(row.name, f"not measured: {error}"))
                print(f"{row.name:<{width}}  not measured: {error}", flush=True)
            except (LayerstoreError, OSError) as error:
                failed += 1
                print(f"{row.name}: {type(error).__name__}: {error}", file=sys.stderr)
            else:
                print(table.peer_row(results[-1], width), flush=True)
    finally:
        peers.stop()
    return results, failed


def _check(rows: list[Row]) -> int:
    unexplained = 0
    for row in rows:
        if row.traced:
            lines = check.compare(row)
            unexplained += sum(line.startswith("!") for line in lines)
            print("\n".join(lines), flush=True)
    print(f"{unexplained} differences that are not explained")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
