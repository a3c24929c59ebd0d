"""A random run over a real store, for tests that compare what the index says with what was done."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from layerstore import LayerstoreError, Store

NAMES = [f"{letter}{number}" for letter in "abc" for number in range(4)]
HOLDERS = [None, "docker", "cli"]


def steps(store: Store, seed: int, count: int) -> None:
    """So many random calls; what the store refuses is part of the run."""
    choose = random.Random(seed)
    for _ in range(count):
        try:
            step(store, choose)
        except LayerstoreError:
            pass  # refused: nothing happened, or an undone operation stands in the journal


def step(store: Store, choose: random.Random) -> None:
    """One random call."""
    there = [layer.id for layer in store.layers()]
    new, holder = choose.choice(NAMES), choose.choice(HOLDERS)
    name = choose.choice(there or NAMES)
    parent = choose.choice([None, "nowhere", *there, *there])
    acts: list[Callable[[], object]] = [
        lambda: store.create(new, parent=parent, labels={"by": str(holder)}),
        lambda: store.create_read_write(new, parent=parent),
        lambda: store.get(name, holder=holder),
        lambda: store.get(name, holder=holder),
        lambda: store.put(name, holder=holder),
        lambda: store.put(name, holder=holder),
        lambda: store.remove(name),
    ]
    if choose.random() < 0.03:
        acts = [store.cleanup, lambda: store.release(holder or "docker")]
    choose.choice(acts)()


def run(home: Path, *, seed: int, count: int, sittings: int = 3) -> None:
    """A run with several openings, holds by owners and by names, and mounts."""
    for sitting in range(sittings):
        with Store.open(home, durability="process") as store:
            steps(store, seed * 100 + sitting, count // sittings)
