"""Owns one fresh process: it opens a store, applies an archive if it is given one, and prints its peak
of memory in bytes.
"""

from __future__ import annotations

import sys

from weight import tell_peak

from layerstore import Store


def main() -> None:
    with Store.open(sys.argv[1]) as store:
        store.create("weighed")
        for archive in sys.argv[2:]:
            with open(archive, "rb", buffering=0) as file:
                store.apply_diff("weighed", file)
        tell_peak()
        store.remove("weighed")


if __name__ == "__main__":
    main()
