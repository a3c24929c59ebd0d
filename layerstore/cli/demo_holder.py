"""The process that `layerstore demo` kills while it has a layer mounted: it takes a hold and waits."""

from __future__ import annotations

import sys

NOTE = "Written shortly before the end.\n"

if __name__ == "__main__":
    from layerstore.store import Store

    store = Store.open(sys.argv[1])
    path = store.get("app")
    (path / "note.txt").write_text(NOTE)
    print(path, flush=True)
    # The demo holds the other end: if it is killed itself, this process ends with it.
    sys.stdin.read()
