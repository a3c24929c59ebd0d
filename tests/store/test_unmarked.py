"""An I/O error that nobody left a mark about, on a real disk that is really broken."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Reader, Store
from layerstore.errors import WritesRefused
from layerstore.fs import durable, layout
from tests.crash.bench import in_child
from tests.crash.invariants import Violation
from tests.store.support import Worker, WorkerError, check_settled, findings, mounted, run, traced

pytestmark = pytest.mark.root

BLOCK = 4096


@attrs.frozen
class Disk:
    """An ext4 on a loop device whose image lies on a tmpfs, and the home of a store on it."""

    under: Path
    home: Path
    taken: dict[int, bytes] = attrs.field(factory=dict)
    """Blocks that cannot be written, with what is on them for good: it is there when they can be."""

    def breaks_below(self, path: Path) -> None:
        """From now on the blocks of this file cannot be written: their image has no room for them."""
        shown = run("filefrag", "-v", f"-b{BLOCK}", path)
        found = re.findall(r"^ *\d+: +\d+\.\. *\d+: +(\d+)\.\. *(\d+):", shown, re.MULTILINE)
        assert found, shown
        for first, last in found:
            at, length = int(first) * BLOCK, (int(last) - int(first) + 1) * BLOCK
            with (self.under / "image").open("rb") as image:
                self.taken[at] = os.pread(image.fileno(), length, at)
            run("fallocate", "-p", "-o", str(at), "-l", str(length), self.under / "image")
        with contextlib.suppress(OSError), (self.under / "filler").open("wb", 0) as filler:
            while filler.write(bytes(1 << 16)):
                pass

    def works_again(self) -> None:
        """What was there before is there again, but where the kernel wrote since."""
        (self.under / "filler").unlink()
        with (self.under / "image").open("r+b", 0) as image:
            for start, content in self.taken.items():
                for at in range(start, start + len(content), BLOCK):
                    if os.lseek(image.fileno(), at, os.SEEK_HOLE) == at:
                        os.pwrite(image.fileno(), content[at - start :][:BLOCK], at)
        self.taken.clear()


@pytest.fixture
def disk(bare: Path) -> Disk:
    """A disk that works so far, with a store that has a layer `kept`."""
    under, point = bare / "under", bare / "disk"
    under.mkdir()
    point.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", under)
    with (under / "image").open("xb") as image:
        image.truncate(64 << 20)
        run("mkfs.ext4", "-q", "-F", "-b", str(BLOCK), under / "image")
        os.posix_fallocate(image.fileno(), 0, 64 << 20)
    run("mount", "-o", "loop", under / "image", point)
    Store.initialize(point / "home")
    with Store.open(point / "home") as store:
        store.create("kept")
    os.sync()
    return Disk(under, point / "home")


def killed_at_the_mark(disk: Disk, broken: Path, work: Callable[[Store], Any]) -> None:
    """A process that meets an I/O error there, and is killed before it can say so to anybody."""

    def victim() -> None:
        def die(*_: object, **__: object) -> bool:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("it lives")

        store = Store.open(disk.home)
        disk.breaks_below(broken)
        durable.note_failure = die  # in this child alone
        work(store)
        raise AssertionError("nothing failed")

    with pytest.raises(Violation, match=r"\A\Z"):  # killed: it said nothing
        in_child(victim)
    disk.works_again()
    assert not os.path.lexists(disk.home / layout.SUSPECT)


def test_an_error_that_a_dead_process_met_is_learned_of(disk: Disk) -> None:
    """Killed between the error and its mark, the next open asks the file system, and refuses."""
    log = disk.home / f"{layout.DATABASE}-wal"
    killed_at_the_mark(disk, log, lambda store: store.create("lost"))
    with pytest.raises(WritesRefused, match="a process that is dead now met an I/O error"):
        Store.open(disk.home)
    assert os.path.lexists(disk.home / layout.SUSPECT)
    with Store.open(disk.home) as store:
        assert store.exists("kept")
        check_settled(store)
        store.create("more")
    assert not os.path.lexists(disk.home / layout.SUSPECT)
    assert [] == findings(disk.home)
    assert [] == mounted(disk.home)
    with Reader.open(disk.home) as reader:
        assert reader.exists("more")


def test_who_lives_learns_of_it_from_an_operation_of_the_dead(
    disk: Disk, worker: Callable[..., Worker]
) -> None:
    """Whoever ends a dead process's operation asks the file system before it says that it is done."""
    content = disk.home / "kept" / "diff" / "file"
    content.write_bytes(bytes(BLOCK))
    os.sync()
    other = worker(disk.home)

    def work(store: Store) -> None:
        def meet_an_error(point: str) -> None:
            if point == "create:outcome:before":
                with content.open("r+b", 0) as file:
                    file.write(b"x" * BLOCK)
                    with contextlib.suppress(OSError):
                        os.fsync(file.fileno())
                        raise AssertionError("the disk works")
                os.kill(os.getpid(), signal.SIGKILL)

        with traced(meet_an_error):
            store.create("lost")

    killed_at_the_mark(disk, content, work)
    with pytest.raises(WorkerError, match=r"WritesRefused.*is dead now"):
        other.do("store.create('lost')")
    assert os.path.lexists(disk.home / layout.SUSPECT)
    assert 0 == other.end()
    with Store.open(disk.home) as store:
        assert ["kept"] == [layer.id for layer in store.layers()]
        check_settled(store)
