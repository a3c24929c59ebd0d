"""A store large enough to be asked: a deep chain, a wide star, holds, a mount, a layer that is gone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from tests.conftest import unmount_below

DEPTH = 12
WIDTH = 510
"""More than a page of rows."""


@pytest.fixture(scope="module")
def forest() -> Iterator[Path]:
    """The home of a store with a chain c00 … c11, a star of s000 … s509 on `hub`, and more; closed."""
    base = os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="layerstore-", dir=os.path.realpath(base)))
    try:
        home = path / "home"
        Store.initialize(home)
        with Store.open(home, durability="process") as store:
            grow(store)
        yield home
    finally:
        unmount_below(path)
        shutil.rmtree(path)


def grow(store: Store) -> None:
    """Make the layers, holds and mounts of the forest."""
    parent = None
    for number in range(DEPTH):
        parent = store.create(f"c{number:02}", parent=parent, labels={"chain": str(number)}).id
    store.create("hub", labels={"role": "hub", "empty": ""})
    for number in range(WIDTH):
        labels = {"third": str(number // 3)} if number % 3 == 0 else None
        store.create(f"s{number:03}", parent="hub", labels=labels)
    store.create_read_write("work", parent="c03", labels={"role": "work"}, mount_label="")
    store.create("lone")
    store.create("gone", parent="c11")
    with store.mounted("gone"):
        pass
    store.remove("gone")
    for holder, count in (("docker", 2), ("cli", 1)):
        for _ in range(count):
            store.get("work", holder=holder)
    store.get("lone", holder="docker")
