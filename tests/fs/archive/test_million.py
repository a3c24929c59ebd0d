"""A million entries with nothing in them: a layer or an error, in memory and time that stay in bounds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.errors import InvalidArchive
from layerstore.fs import layout
from layerstore.fs.archive import Limits
from layerstore.fs.tree import Size
from tests.crash.bench import in_child
from tests.crash.test_trees import highest
from tests.fs.archive.trees import END, entry, pax

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

MANY = 1_000_000
FEW = 50_000
"""Entries whose time the time of all is compared with."""
MORE_MEMORY = 48 << 10
"""KiB: the queues of the stream, and what is kept of directories."""
SLOWER = 2.5


def numbered(name: bytes, kind: bytes, count: int) -> Iterator[bytes]:
    """Headers without data, whose names end in their numbers; the checksum is mended for each."""
    block = bytearray(entry(name + b"0000000", kind=kind, mode=0o755))
    digits = slice(len(name), len(name) + 7)
    rest = int(bytes(block[148:154]), 8) - sum(b"0000000")
    for start in range(0, count, 512):
        piece = []
        for number in range(start, min(count, start + 512)):
            block[digits] = text = b"%07d" % number
            block[148:154] = b"%06o" % (rest + sum(text))
            piece.append(bytes(block))
        yield b"".join(piece)
    yield END


def repeated(data: bytes, count: int) -> Iterator[bytes]:
    """The same entry again and again."""
    for start in range(0, count, 64):
        yield data * min(64, count - start)
    yield END


class Stream:
    """An archive that is made while it is read, and how long each entry took."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._began = time.process_time()
        self.times: dict[int, float] = {}

    def read(self, size: int, /) -> bytes:
        return next(self._pieces, b"")

    def told(self, entries: int) -> None:
        """Processor time until these entries."""
        self.times[entries] = time.process_time() - self._began

    def check(self) -> None:
        """The last entries took no longer than the first ones."""
        few = min(count for count in self.times if count >= FEW)
        many = max(self.times)
        ratio = (self.times[many] / many) / (self.times[few] / few)
        assert ratio < SLOWER, f"an entry took {ratio:.2f} times as long in the end"


def apply(home: Path, pieces: Iterator[bytes], limits: Limits, refused: str = "") -> None:
    """In a process of its own, which needs little memory for it."""

    def work() -> None:
        with Store.open(home) as store:
            stream, before = Stream(pieces), highest()
            if refused:
                with pytest.raises(InvalidArchive, match=refused):
                    store.apply_diff("x", stream, limits=limits, progress=stream.told)
            else:
                store.apply_diff("x", stream, limits=limits, progress=stream.told)
            more = highest() - before
        assert more < MORE_MEMORY, f"{more} KiB more"
        stream.check()

    in_child(work)


def test_a_million_files_become_a_layer(home: Path) -> None:
    """Under the limits that nobody changed."""
    with Store.open(home) as store:
        store.create("x")
    apply(home, numbered(b"f", b"0", MANY), Limits())
    with Store.open(home) as store:
        assert Size(0, MANY + 1) == store.usage("x")
        store.remove("x")


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (entry("d/", kind=b"5", mode=0o755), 1),
        (pax({"path": b"p/" + b"q" * 200}) + entry("f"), 2),
    ],
    ids=["directory", "extended"],
)
def test_a_million_of_the_same_are_counted(home: Path, data: bytes, headers: int) -> None:
    """They make one file, and are entries all the same: one too many, and the layer is as it was."""
    with Store.open(home) as store:
        store.create("x")
    count = MANY // 2 // headers
    why = f"more than {headers * count - 1} entries"
    apply(home, repeated(data, count), Limits(entries=headers * count - 1), refused=why)
    with Store.open(home) as store:
        layer = store.layer("x")
        assert (True, None) == (layer.applied, layer.diff_id)
        assert [] == os.listdir(home / "x" / "diff")
        assert [] == os.listdir(home / layout.STAGING)


def test_a_limit_that_was_raised_lets_them_in(home: Path) -> None:
    """To the last one."""
    with Store.open(home) as store:
        store.create("x")
    data = entry("d/", kind=b"5", mode=0o755)
    apply(home, repeated(data, MANY // 2), Limits(entries=MANY // 2))
    with Store.open(home) as store:
        assert Size(0, 2) == store.usage("x")


def test_long_names_of_directories_do_not_fill_the_memory(home: Path) -> None:
    """A directory's time is set at the end; what is kept until then of 150 MB of names is not in memory."""
    with Store.open(home) as store:
        store.create("x")
    path = b"/".join(b"%0250d" % number for number in range(15))
    data = pax({"path": path, "mtime": b"1500000000"}) + entry("d", kind=b"5", mode=0o700)
    apply(home, repeated(data, FEW), Limits())
    with Store.open(home) as store:
        assert Size(0, 16) == store.usage("x")
        deepest = os.path.join(os.fsencode(store.home), b"x/diff", path)
    assert 1_500_000_000 == os.stat(deepest).st_mtime
