"""Archives: unpacking and packing against GNU tar and Python's tarfile, in the same run.

`bench/archives.py [--rounds N] [--small]`. The file system is that of the other benchmarks. The
programs' own start is in their times, as it is for whoever uses them.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from place import place

from layerstore.fs import syscalls
from layerstore.fs.archive import pack, unpack

_GIB = 1 << 30


def make_small(tree: Path) -> None:
    for directory in range(100):
        (tree / f"d{directory}").mkdir(parents=True)
        for number in range(100):
            (tree / f"d{directory}" / f"file{number}").write_bytes(os.urandom(4096))


def make_large(size: int) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        tree.mkdir()
        with (tree / "large").open("wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))

    return make


def ours_in(archive: Path, out: Path, *, synced: bool = False) -> None:
    descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    with archive.open("rb", buffering=0) as file:
        unpack(file, descriptor)
    if synced:
        syscalls.syncfs(descriptor)
    os.close(descriptor)


def ours_out(tree: Path, archive: Path) -> None:
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    with archive.open("wb", buffering=0) as file:
        for piece in pack(descriptor):
            file.write(piece)
    os.close(descriptor)


def tar_in(archive: Path, out: Path, *, synced: bool = False) -> None:
    subprocess.run(["tar", "-xf", archive, "-C", out], check=True)
    if synced:
        subprocess.run(["sync", "-f", out], check=True)


def tar_out(tree: Path, archive: Path) -> None:
    subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)


def python_in(archive: Path, out: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="fully_trusted")


def python_out(tree: Path, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")


class Bench:
    def __init__(self, top: Path, rounds: int) -> None:
        self.top = top
        self.rounds = rounds

    def once(self, work: Callable[[], object]) -> float:
        out = self.top / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        os.sync()
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def row(self, name: str, ours: Callable[[], object], **others: Callable[[], object]) -> None:
        """Each in turn, in another order each round, and the median of the ratios."""
        times: dict[str, list[float]] = {key: [] for key in ("ours", *others)}
        turns = list({"ours": ours, **others}.items())
        for _ in range(self.rounds):
            for key, work in turns:
                times[key].append(self.once(work))
            turns.append(turns.pop(0))
        text = f"{name:<40} {statistics.median(times['ours']) * 1e3:8.0f} ms"
        for key in others:
            ratios = [a / b for a, b in zip(times["ours"], times[key], strict=True)]
            median = statistics.median(times[key]) * 1e3
            text += f"   {key} {median:.0f} ms, {statistics.median(ratios):.2f} x"
            text += f" ({min(ratios):.2f}..{max(ratios):.2f})"
        print(text, flush=True)

    def rows(self, what: str, make: Callable[[Path], None]) -> None:
        tree, archive, out = self.top / "tree", self.top / "in.tar", self.top / "out"
        make(tree)
        ours_out(tree, archive)
        self.row(
            f"unpack, {what}",
            lambda: ours_in(archive, out),
            tar=lambda: tar_in(archive, out),
            tarfile=lambda: python_in(archive, out),
        )
        self.row(
            f"unpack and sync, {what}",
            lambda: ours_in(archive, out, synced=True),
            tar=lambda: tar_in(archive, out, synced=True),
        )
        self.row(
            f"pack, {what}",
            lambda: ours_out(tree, out / "x"),
            tar=lambda: tar_out(tree, out / "x"),
            tarfile=lambda: python_out(tree, out / "x"),
        )
        for path in (tree, out):
            shutil.rmtree(path, ignore_errors=True)
        archive.unlink()


def memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--small", action="store_true", help="a large file of 64 MiB only")
    options = parser.parse_args()
    size = _GIB // 16 if options.small else _GIB
    with place(big=True) as where:
        print(
            f"{where.file_system}, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}"
        )
        bench = Bench(Path(where.path), options.rounds)
        before = memory()
        bench.rows(f"one file of {size >> 20} MiB", make_large(size))
        print(f"memory above what it was at the start: {(memory() - before) / (1 << 20):.0f} MiB")
        bench.rows("10,000 files of 4 KiB", make_small)


if __name__ == "__main__":
    main()
