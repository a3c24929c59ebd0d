"""Owns the fixtures that pytest finds where layerstore is installed; it must import little, since every
run of pytest there loads it.

    layerstore_place   an empty directory; what is mounted below it is taken down at the end
    layerstore_home    the home of an empty store in it
    docker_tree        builds a data root of Docker's in it, from a short description
    podman_tree        the same for a graph root of podman's
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from layerstore.testing.trees import Built


@pytest.fixture
def layerstore_place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory of this test's own: in LAYERSTORE_TEST_DIR, or where pytest has its own."""
    from layerstore.fs.mount import unmount
    from layerstore.fs.mountinfo import mounts_below

    base = os.environ.get("LAYERSTORE_TEST_DIR", str(tmp_path))
    place = Path(os.path.realpath(tempfile.mkdtemp(prefix="layerstore-", dir=base)))
    try:
        yield place
    finally:
        for entry in reversed(list(mounts_below(str(place)))):
            unmount(entry.mount_point)
        shutil.rmtree(place)


@pytest.fixture
def layerstore_home(layerstore_place: Path) -> Path:
    """The home of a store without layers, that nobody has open."""
    from layerstore import Store

    home = layerstore_place / "home"
    Store.initialize(home)
    return home


@pytest.fixture
def docker_tree(layerstore_place: Path) -> Iterator[Callable[..., Built]]:
    """Builds `layerstore.testing.docker_tree`, each time in another directory."""
    from layerstore.testing.docker import docker_tree as build

    yield from _builder(build, layerstore_place, "docker")


@pytest.fixture
def podman_tree(layerstore_place: Path) -> Iterator[Callable[..., Built]]:
    """Builds `layerstore.testing.podman_tree`, each time in another directory."""
    from layerstore.testing.containers_storage import podman_tree as build

    yield from _builder(build, layerstore_place, "podman")


def _builder(build: Callable[..., Built], place: Path, name: str) -> Iterator[Callable[..., Built]]:
    with contextlib.ExitStack() as stack:
        count = 0

        def built(**description: Any) -> Built:
            nonlocal count
            count += 1
            return stack.enter_context(build(place / f"{name}{count}", **description))

        yield built


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Two snapshots that are not equal differ in few places, which are told in words."""
    if op != "==" or not (_is_snapshot(left) and _is_snapshot(right)):
        return None
    from layerstore.testing.compare import difference

    return ["snapshots of trees", *difference(left, right)]  # type: ignore[arg-type]


def _is_snapshot(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(entry, dict) and "xattrs" in entry for entry in value.values())
    )
