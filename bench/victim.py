"""Owns dying: a process that is killed with three creates in flight; it must not clean up.

`victim.py ours HOME` goes through the library, `victim.py floor HOME` leaves the same by bare
calls: a create of which only the intent is there, one before its rename, one after it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from floor import FloorStore
from stores import PARENT, child, wide

from layerstore import Store
from layerstore.fs import layout, syscalls
from layerstore.fs.trace import set_trace

LAYERS = ("k0", "k1", "k2")
STAGES = ("a" * 32, "b" * 32, "c" * 32)
"""What the floor calls its operations."""
OWNER = "d" * 32
"""What the floor calls the owner that dies."""
_STOPS = {
    "k0": "create:0:VerifyLayer:before",
    "k1": "Publish:before",
    "k2": "create:outcome:before",
}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ours(home: str) -> None:
    store = Store.open(home)
    arrived: list[str] = []
    never = threading.Event()

    def stop(point: str) -> None:
        layer = threading.current_thread().name
        if layer in _STOPS and point.endswith(_STOPS[layer]):
            arrived.append(layer)
            if len(arrived) == len(LAYERS):
                _die()
            never.wait()

    set_trace(stop)
    for layer in LAYERS:
        threading.Thread(
            target=store.create, args=(layer,), kwargs={"parent": PARENT}, name=layer
        ).start()
    never.wait()


def floor(home: str) -> None:
    specs = {spec.id: spec for spec in wide(10)}
    store = FloorStore(home, specs, full=True, owner=OWNER)
    store.own()
    for layer, stage in zip(LAYERS, STAGES, strict=True):
        spec, path = child(layer, specs[PARENT]), f"{home}/{layout.staging(stage)}"
        store.intend(spec)
        if layer == "k0":
            continue
        store.stage(path, spec)
        if layer == "k2":
            syscalls.renameat2(-100, path, -100, f"{home}/{layer}", syscalls.RENAME_NOREPLACE)
    _die()


if __name__ == "__main__":
    {"ours": ours, "floor": floor}[sys.argv[1]](sys.argv[2])
