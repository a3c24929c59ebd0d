"""What every test of the store has: a store that is open, and second processes that never outlive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.fs.trace import set_trace
from tests.store.support import Worker, run


@pytest.fixture
def worker(bare: Path) -> Iterator[Callable[..., Worker]]:
    """Start a process on a home; it is killed at the end."""
    started: list[Worker] = []

    def start(home: Path, *prefix: str, opened: bool = True) -> Worker:
        started.append(Worker(home, *prefix, opened=opened))
        return started[-1]

    yield start
    for process in started:
        if process.running:
            process.kill()


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """The store at `home`, open in this process."""
    opened = Store.open(home)
    yield opened
    set_trace(None)
    opened.close()


@pytest.fixture
def ext4(bare: Path) -> Path:
    """An empty ext4 on a loop device, unmounted at the end; its image is `ext4.img` beside it."""
    image, point = bare / "ext4.img", bare / "ext4"
    with image.open("xb") as file:
        file.truncate(64 << 20)
    point.mkdir()
    run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, point)
    return point


@pytest.fixture
def pair(home: Path) -> Path:
    """A closed store with a base layer `p` and its child `c`."""
    with Store.open(home) as store:
        store.create("p", labels={"k": "v"})
        store.create("c", parent="p")
        (home / "p/diff/p").write_text("p")
    return home
