"""Owns what the tests of a program need that uses a store, or moves layers: trace points and dying at
one here, and by name from its modules:

    trees                what a layer is, in a few words, and how overlay2 has it
    docker               what a dockerd leaves on a disk
    containers_storage   what podman, buildah and CRI-O leave
    stores               what older layerstores left
    damages, damaging    everything that can be wrong with any of them
    compare              two trees, to the last xattr
    plugin               the fixtures that pytest finds

docs/testing.md has a whole test of a migration.

Between any two effects of a verb lies a named point. A test can list those that a call passes, and
then let a process die at each of them in turn, open the store again, and look whether its own
promises hold:

    with points() as passed:
        store.create("a")
    for index in range(len(passed)):
        pid = os.fork()
        if pid == 0:
            with dying_at(index), Store.open(home) as store:
                store.create("a")
            os._exit(0)
        os.waitpid(pid, 0)
        with Store.open(home) as store:  # settles what the dead process left
            ...

A store that is open when a process forks belongs to the parent: the child opens it anew.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from layerstore.fs import trace

if TYPE_CHECKING:
    from layerstore.testing.compare import Snapshot, assert_same, difference, snapshot
    from layerstore.testing.containers_storage import containers_storage_tree, podman_tree
    from layerstore.testing.damages import inflict
    from layerstore.testing.docker import docker_tree, old_overlay_tree
    from layerstore.testing.stores import store_tree
    from layerstore.testing.trees import (
        REMOVED,
        Built,
        Container,
        Directory,
        File,
        Image,
        Layer,
        State,
        Symlink,
    )

__all__ = [
    "die", "dying_at", "hooked", "points",
    "REMOVED", "Built", "Container", "Directory", "File", "Image", "Layer", "State", "Symlink",
    "containers_storage_tree", "docker_tree", "old_overlay_tree", "podman_tree", "store_tree",
    "inflict",
    "Snapshot", "assert_same", "difference", "snapshot",
]  # fmt: skip

_OWNERS = {
    "trees": ("REMOVED", "Built", "Container", "Directory", "File", "Image", "Layer", "State", "Symlink"),
    "docker": ("docker_tree", "old_overlay_tree"),
    "containers_storage": ("containers_storage_tree", "podman_tree"),
    "stores": ("store_tree",),
    "damages": ("inflict",),
    "compare": ("Snapshot", "assert_same", "difference", "snapshot"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The names of the modules, when they are asked for: pytest loads this package for its plugin."""
    for module, names in _OWNERS.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` with the name of every trace point that is passed inside the block.

    It may raise, and then the call that it is in fails there. One process has one hook; the one
    before comes back at the end.
    """
    before = trace.current()
    trace.set_trace(hook)
    try:
        yield
    finally:
        trace.set_trace(before)


@contextlib.contextmanager
def points() -> Iterator[list[str]]:
    """Collect the names of the trace points that are passed inside the block, in order."""
    passed: list[str] = []
    with hooked(passed.append):
        yield passed


@contextlib.contextmanager
def dying_at(index: int, *, how: Callable[[], None] | None = None) -> Iterator[None]:
    """End the process at the trace point with this index, counted from 0 inside the block.

    It dies of SIGKILL, or as `how` has it.
    """
    left = index

    def hook(_: str) -> None:
        nonlocal left
        if left == 0:
            (how or die)()
        left -= 1

    with hooked(hook):
        yield


def die() -> None:
    """End this process as `kill -9` does: nothing is closed, flushed or unwound."""
    os.kill(os.getpid(), signal.SIGKILL)
