"""What no layer can be made of, through a store: the layer is as it was, and everything else too."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.errors import InvalidArchive
from layerstore.fs import layout
from layerstore.testing.compare import snapshot
from tests.fs.archive.test_attacks import REFUSED, WITHOUT_END
from tests.fs.archive.trees import END, entry, pax
from tests.store.support import findings

pytestmark = pytest.mark.root

BEFORE = entry("before", b"1")
WHOLE = pax({"path": b"long" * 50}) + entry("x", b"1" * 1500) + entry("d", kind=b"5") + END


def archives() -> Iterator[tuple[str, bytes, str]]:
    """By name: each of the matrix, behind an entry that is not hostile, and one that is cut off at every block."""
    for name, (data, why) in REFUSED.items():
        first = b"" if name == "empty" else BEFORE
        yield name, first + data + (b"" if name in WITHOUT_END else END), why
    for cut in range(0, len(WHOLE), 512):
        yield f"cut-{cut}", WHOLE[:cut], "cut off|empty"


def outside(bare: Path) -> dict[str, object]:
    """Everything but the store."""
    found = snapshot(bare)
    return {path: found[path] for path in found if path.partition("/")[0] != "home"}


def test_a_layer_is_as_it_was(home: Path, bare: Path) -> None:
    """After each: an error that names what is wrong and a way out, no file, nothing left in staging."""
    (bare / "dest-evil").mkdir()
    (bare / "secret").write_text("secret")
    before = outside(bare)
    with Store.open(home, durability="process") as store:
        store.create("base")
        for name, data, why in archives():
            store.create("x", parent="base")
            look = snapshot(home / "x", times=False, top=True)
            with pytest.raises(InvalidArchive, match=why) as caught:
                store.apply_diff("x", io.BytesIO(data))
            assert caught.value.hint, name
            assert look == snapshot(home / "x", times=False, top=True), name
            assert [] == os.listdir(home / layout.STAGING), name
            layer = store.layer("x")
            assert (True, None, None) == (layer.applied, layer.diff_id, layer.size), name
            store.remove("x")
        assert ["base"] == [layer.id for layer in store.layers()]
    assert before == outside(bare)
    assert [] == findings(home)
