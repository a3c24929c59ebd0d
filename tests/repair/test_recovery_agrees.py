"""What an open corrects by itself after an unclean end is what an audit finds and a repair would do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.comparison import SAFE
from layerstore.fs import layout
from layerstore.testing.damages import named
from tests.audit import damages
from tests.repair.trees import bad, shape, works

pytestmark = pytest.mark.root

Inflict = Callable[[Path], object]


def _from_table(name: str) -> Inflict:
    return lambda home: named(name).do(home)


def _make(place: Path) -> Path:
    place.mkdir()
    return damages.make(place, damages.STORE)


def _isolated(home: Path) -> None:
    """A layer that an open set apart, whole again."""
    lower = (home / "top/lower").read_text()
    (home / "top/lower").write_text("l")
    _dies(home)
    with Store.open(home):
        pass
    (home / "top/lower").write_text(lower)


INFLICTED: Final[dict[str, Inflict]] = {
    "missing-link": _from_table("link gone"),
    "orphan-link": _from_table("link to nothing"),
    "staging-leftover": _from_table("staging left"),
    "trash-leftover": _from_table("trash left"),
    "merged-leftover": _from_table("merged left"),
    "unknown-layer": _from_table("directory without a row"),
    "isolated-layer": _isolated,
    "unknown-mount": _from_table("mounted behind its back"),
    "lost-mount": _from_table("unmounted behind its back"),
}


def _dies(home: Path) -> None:
    """A process of an earlier boot had the store open when the machine went down."""
    damages.dying(home, lambda _: None)
    damages.edit(home, "UPDATE owners SET boot_id = 'an-earlier-boot'")


def _likeness(home: Path) -> tuple[object, ...]:
    """The tree without the store's own directory, and the index; links by their layers."""
    with Store.open(home, read_only=True) as reader:
        links = {layer.link: f"<{layer.id}>" for layer in reader.layers()}
        layers = [
            (one.id, one.parent, one.committed, one.damage, one.lower) for one in reader.layers()
        ]
        holds = [(hold.layer, hold.holder, hold.count) for hold in reader.holders()]
        mounts = [(mount.layer, mount.read_only) for mount in reader.mounts()]

    def told(value: object) -> str:
        text = repr(value)
        for link, name in links.items():
            text = text.replace(link, name)
        return text

    tree = sorted(told(entry) for entry in shape(home).items())
    return tree, told(layers), holds, mounts


def test_the_table_is_whole() -> None:
    """Each finding that an open mends by itself is inflicted here."""
    assert set(SAFE) == set(INFLICTED)


@pytest.mark.parametrize("code", INFLICTED)
def test_an_open_does_what_a_repair_would(bare: Path, code: str) -> None:
    """The audit reports it; an open of one home and a repair of another lead to the same store."""
    homes = [_make(bare / name) for name in ("opened", "repaired")]
    opened, repaired = homes
    for home in homes:
        INFLICTED[code](home)
        assert code in {item.code for item in audit(home).findings}
    _dies(opened)
    with Store.open(opened) as store:
        done = [item.what for item in store.settled if item.what != "released"]
    assert [SAFE[code]] == done
    with Store.open(repaired) as store:
        outcome = store.repair()
    assert {"done"} == {item.outcome for item in outcome.done}
    assert [] == bad(opened) == bad(repaired)
    assert _likeness(opened) == _likeness(repaired)


def test_a_directory_with_something_in_it_is_left_to_a_repair(bare: Path) -> None:
    """An open removes an empty mountpoint and no other; a repair keeps what is in it."""
    home = damages.make(bare, damages.STORE)
    (home / "side/merged").mkdir()
    (home / "side/merged/written").write_text("while nothing was mounted")
    _dies(home)
    with Store.open(home) as store:
        assert [] == [item for item in store.settled if item.what != "released"]
    assert ["merged-leftover"] == [item.code for item in bad(home)]
    assert "while nothing" in (home / "side/merged/written").read_text()


def test_a_removal_without_its_intent_is_finished_by_an_open_alone(bare: Path) -> None:
    """The one thing that they do differently: a repair brings back what an open lets go."""
    for name in ("opened", "repaired"):
        home = _make(bare / name)
        (home / "alone").rename(home / layout.TRASH / ("4" * 32))
        assert {"missing-layer", "trash-leftover"} <= {item.code for item in audit(home).findings}
        if name == "opened":
            _dies(home)
        with Store.open(home) as store:
            if name == "repaired":
                store.repair()
            known = {str(layer.id) for layer in store.layers()}
        assert (name == "repaired") == ("alone" in known)
        assert [] == bad(home)


def test_a_row_that_was_dropped_comes_back_with_its_directory(bare: Path) -> None:
    """An act on records is taken back by the tree: what was forgotten is taken in, and works."""
    home = damages.make(bare, damages.STORE)
    (home / "alone").rename(bare / "kept")
    link = next(p for p in (home / "l").iterdir() if os.readlink(p) == "../alone/diff")
    shutil.copy(link, bare / "link", follow_symlinks=False)
    with Store.open(home) as store:
        assert "forget" in {item.act.repair for item in store.repair().done}
    (bare / "kept").rename(home / "alone")
    if not os.path.lexists(link):
        (bare / "link").rename(link)
    with Store.open(home) as store:
        assert "adopt" in {item.act.repair for item in store.repair().done}
    assert [] == bad(home)
    works(home)
