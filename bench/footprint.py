"""Owns one fresh process: it opens a store, works in it, and prints its peak of memory in bytes."""

from __future__ import annotations

import sys

from weight import tell_peak

from layerstore import Store

PARENT = "l0000009"


def main() -> None:
    with Store.open(sys.argv[1]) as store:
        for layer in store.layers():
            store.metadata(layer.id)
        for number in range(10):
            store.create(f"f{number}", parent=PARENT)
            store.get(f"f{number}")
            store.put(f"f{number}")
            store.remove(f"f{number}")
        tell_peak()


if __name__ == "__main__":
    main()
