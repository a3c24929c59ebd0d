"""`diff`, `changes` and `diff_size` against any layer of the store."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import Store
from layerstore.answers import ChangeKind
from layerstore.audit import audit
from layerstore.errors import LayerstoreError, UnknownLayer
from layerstore.fs import changes, viewing
from tests.fs.test_changes import ACTION, PATH, act

pytestmark = pytest.mark.root

A, D, M = ChangeKind.ADD, ChangeKind.DELETE, ChangeKind.MODIFY


def told(store: Store, layer: str, parent: str | None) -> dict[str, ChangeKind]:
    """The changes by path."""
    return {change.path: change.kind for change in store.changes(layer, parent=parent)}


def made(store: Store, layer: str, parent: str | None = None) -> Path:
    """A new layer, mounted to be written to."""
    store.create(layer, parent=parent)
    return store.get(layer)


@pytest.fixture
def family(home: Path) -> Iterator[Store]:
    """A base, two children of it and a stranger."""
    with Store.open(home) as store:
        base = made(store, "base")
        (base / "kept").write_text("kept")
        (base / "dir").mkdir()
        (base / "dir" / "file").write_text("old")
        store.put("base")
        one, two = made(store, "one", "base"), made(store, "two", "base")
        (one / "dir" / "file").unlink()
        (one / "mine").write_text("1")
        shutil.rmtree(two / "dir")
        (two / "twice").write_text("12345")
        os.link(two / "twice", two / "again")
        store.put("one")
        store.put("two")
        (made(store, "stranger") / "x").write_text("x")
        store.put("stranger")
        yield store


def test_any_layer_can_be_compared_with(family: Store) -> None:
    """A sibling, a child, a layer of another chain, itself; nothing stays mounted."""
    mounts = Path("/proc/self/mountinfo").read_text()
    assert {"/again": A, "/dir": D, "/mine": D, "/twice": A} == told(family, "two", "one")
    assert {"/again": D, "/dir": A, "/mine": A, "/twice": D} == told(family, "one", "two")
    assert {"/dir": M, "/dir/file": A, "/mine": D} == told(family, "base", "one")
    assert {"/x": A, "/kept": D, "/dir": D} == told(family, "stranger", "base")
    assert {} == told(family, "one", "one")
    assert told(family, "one", None) == told(family, "one", "base")
    assert mounts == Path("/proc/self/mountinfo").read_text()


def test_sizes_count_what_differs(family: Store) -> None:
    """Files that were added or modified, hard links once."""
    assert 5 == family.diff_size("two", parent="one") == family.diff_size("two")
    assert 3 == family.diff_size("base", parent="one")
    assert 0 == family.diff_size("one", parent="one")


def test_who_cannot_be_compared_is_named(family: Store) -> None:
    """A layer that is not there, on either side."""
    for layer, other in (("one", "none"), ("none", "one")):
        for ask in (told, lambda *words: list(family.diff(words[1], parent=words[2]))):
            with pytest.raises(UnknownLayer, match="none"):
                ask(family, layer, other)


def test_a_removal_meanwhile_breaks_a_diff_off(family: Store) -> None:
    """Of the layer that is compared with, too: nobody takes the archive for whole."""
    pieces = family.diff("two", parent="one")
    whole = b"".join(family.diff("two", parent="one"))
    seen = next(pieces)
    family.remove("one")
    with pytest.raises(UnknownLayer, match="one"):
        for piece in pieces:
            seen += piece
    assert whole.startswith(seen) and len(seen) < len(whole)


def test_without_the_right_to_mount_it_is_refused(
    family: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the way out; a base needs no mount."""
    monkeypatch.setattr(viewing, "may_mount", lambda: False)
    with pytest.raises(LayerstoreError, match="may not mount"):
        family.changes("two", parent="one")
    assert {"/x": A, "/kept": D, "/dir": D} == told(family, "stranger", "base")


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.lists(st.tuples(ACTION, PATH, PATH), min_size=1, max_size=9), min_size=3, max_size=4
    )
)
def test_a_difference_makes_one_layer_of_the_other(
    bare: Path, script: list[list[tuple[str, str, str]]]
) -> None:
    """Applied to a child of any layer, a diff gives the other one's tree; both ways to compare agree."""
    home = bare / f"case{len(os.listdir(bare))}"
    Store.initialize(home)
    with Store.open(home, durability="process") as store:
        names = [f"n{number}" for number in range(len(script))]
        for number, (name, actions) in enumerate(zip(names, script, strict=True)):
            # a chain with a branch: the last one is a sibling of the one before
            parent = names[min(number - 1, len(names) - 3)] if number else None
            root = made(store, name, parent)
            for action in actions:
                with contextlib.suppress(OSError):
                    act(root, *action)
            store.put(name)
        for new in names[1:]:
            parent = store.layer(new).parent
            with store._both(new, str(parent)) as (seen, below, _):
                assert store.changes(new) == changes.of_trees(seen, below)
        for new, old in ((names[-1], names[-2]), (names[0], names[-1]), (names[-1], names[0])):
            archive = b"".join(store.diff(new, parent=old))
            child = f"{new}-of-{old}"
            store.create(child, parent=old)
            store.apply_diff(child, io.BytesIO(archive), parent=old)
            assert [] == store.changes(child, parent=new), archive
    assert [] == list(audit(home).findings)
