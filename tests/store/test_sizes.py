"""The size of what was applied is known without a look at it, until somebody may have written to it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerstore import Reader, Store
from layerstore.fs import layout, tree
from layerstore.fs.tree import Size
from tests.fs.archive.trees import END, entry
from tests.store.support import Worker, findings, traced

pytestmark = pytest.mark.root

ARCHIVE = entry("d/", kind=b"5") + entry("d/f", b"content") + entry("e", b"12") + END
SIZE = Size(9, 4)

ODD = {
    "twice": entry("f", b"1") + entry("f", b"22"),
    "hard links": entry("f", b"1") + entry("g", kind=b"1", link="f") + entry("f", b"22"),
    "last of two names": entry("f", b"1") + entry("g", kind=b"1", link="f")
    # Both names give way, so that the inode goes.
    + entry("f", b"22") + entry("g", b"333"),
    "directory gives way": entry("d/", kind=b"5") + entry("d/a", b"1") + entry("d/b", b"2")
    + entry("d", b"3"),
    "directory twice": entry("d/", kind=b"5") + entry("d/", kind=b"5"),
    "parents of nobody": entry("a/b/c/d", b"1"),
    "whiteout": entry("d/", kind=b"5") + entry("d/.wh.gone"),
    "whiteout of a file of its own": entry("f", b"1") + entry(".wh.f"),
    "file over whiteout": entry(".wh.f") + entry("f", b"12"),
    "directory over whiteout": entry(".wh.d") + entry("d/", kind=b"5"),
    "parent over whiteout": entry(".wh.d") + entry("d/f", b"12"),
    "opaque": entry("d/", kind=b"5") + entry("d/.wh..wh..opq"),
    "symlinks": entry("l", kind=b"2", link="where") + entry("l", kind=b"2", link="elsewhere"),
    "special": entry("p", kind=b"6") + entry("p", kind=b"6"),
    "AUFS": entry(".wh..wh.plnk/", kind=b"5") + entry(".wh..wh.plnk/1.2", b"1234")
    + entry("f", kind=b"1", link=".wh..wh.plnk/1.2") + entry(".wh..wh.plnk/3.4", b"12345"),
}  # fmt: skip
"""Archives in which entries and inodes are not the same number."""


class NothingRead:
    """Forbids to go through a tree."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> Size:
            raise AssertionError("a tree was gone through")

        monkeypatch.setattr(tree, "tree_size", refuse)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> NothingRead:
    """Whatever is asked is to be known."""
    return NothingRead(monkeypatch)


def applied(store: Store, layer: str, parent: str | None = None) -> None:
    """A new layer with content."""
    store.create(layer, parent=parent)
    store.apply_diff(layer, io.BytesIO(ARCHIVE))


def counted(store: Reader, layer: str) -> bool:
    """Whether the index knows the size."""
    return store.layer(layer).inodes is not None


@pytest.mark.parametrize("case", ODD)
def test_what_an_apply_counts_is_what_a_look_finds(home: Path, case: str) -> None:
    """Bytes and inodes are those of the tree, whatever entries made of each other."""
    with Store.open(home) as store:
        store.create("base")
        store.create("top", parent="base")
        store.apply_diff("top", io.BytesIO(ODD[case] + END))
        assert counted(store, "top")
        assert tree.tree_size(str(home / "top/diff")) == store.usage("top")


def test_nothing_is_read_of_an_unchanged_layer(home: Path, unread: NothingRead) -> None:
    """Size and usage of base and child come from the index, also in another process."""
    with Store.open(home) as store:
        applied(store, "base")
        applied(store, "child", "base")
        store.create("top", parent="child")
        assert [SIZE, SIZE] == [store.usage("base"), store.usage("child")]
        assert 9 == store.diff_size("child")
    with Reader.open(home) as reader:
        assert SIZE == reader.usage("child")


def test_a_mount_that_only_reads_changes_nothing(home: Path, unread: NothingRead) -> None:
    """A layer with children is mounted read-only, and its size stays known."""
    with Store.open(home) as store:
        applied(store, "base")
        applied(store, "child", "base")
        store.create("top", parent="child")
        with store.mounted("child"):
            pass
        assert SIZE == store.usage("child")


def by_mount(store: Store) -> None:
    """Write through an overlay."""
    with store.mounted("child") as path:
        (path / "more").write_text("12345")


def by_kill(store: Store) -> None:
    """Have another process write, and die."""
    worker = Worker(store.home)
    try:
        worker.do("path = store.get('child')")
        worker.do("(path / 'more').write_text('12345')")
    finally:
        worker.kill()


def by_other(store: Store) -> None:
    """Mount as a driver does that knows nothing of the index."""
    child = store.home / "child"
    (child / "merged").mkdir()
    dirs = f"lowerdir={store.home}/base/diff,upperdir={child}/diff,workdir={child}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", dirs, str(child / "merged")]
    subprocess.run(command, check=True)
    try:
        (child / "merged/more").write_text("12345")
    finally:
        subprocess.run(["umount", str(child / "merged")], check=True)
    (child / "merged").rmdir()


@pytest.mark.parametrize("write", [by_mount, by_kill, by_other])
def test_what_was_written_to_is_measured(home: Path, write: Callable[[Store], None]) -> None:
    """After a mount that could write the size is that of the tree, for ever."""
    with Store.open(home) as store:
        applied(store, "base")
        applied(store, "child", "base")
        write(store)
        assert Size(14, 5) == store.usage("child")
        store.create("top", parent="child")
        assert Size(14, 5) == store.usage("child")
        assert SIZE == store.usage("base")
        assert not [found for found in findings(home) if "dead-owner" not in found]


def test_whoever_has_the_path_of_a_base_may_write(home: Path) -> None:
    """The path of a base layer is its content, also when something is built upon it."""
    with Store.open(home) as store:
        applied(store, "base")
        store.create("child", parent="base")
        with store.mounted("base") as path:
            (path / "more").write_text("12345")
        assert Size(14, 5) == store.usage("base")
        assert not counted(store, "base")


def test_the_mark_is_gone_before_the_mount_is_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes with the intent, and the commit of that waits for the disk: no power cut brings it back."""
    seen: list[tuple[str, bool]] = []
    full: list[bool] = []
    with Store.open(home) as store:
        applied(store, "base")
        applied(store, "child", "base")
        group = store._hands.journal._group
        transact = group.transact

        def noting(part: Any, **more: Any) -> Any:
            before = counted(store, "child")
            result = transact(part, **more)
            if before and not counted(store, "child"):
                full.append(more["full"])
            return result

        monkeypatch.setattr(group, "transact", noting)
        with traced(lambda point: seen.append((point, counted(store, "child")))):
            store.get("child")
        store.put("child")
    assert [True] == full
    assert not any(known for point, known in seen if point.startswith("mount:0"))


def test_an_apply_that_a_dead_owner_finished_is_counted(home: Path) -> None:
    """Recovery takes the numbers from what the apply wrote down, or from the tree where that is gone."""
    for lost in (False, True):
        name = f"layer{int(lost)}"
        with Store.open(home) as store:
            store.create(name)
        pid = os.fork()
        if not pid:
            try:
                store = Store.open(home)
                with traced(lambda point: os._exit(9) if "apply:outcome:before" in point else None):
                    store.apply_diff(name, io.BytesIO(ARCHIVE))
            finally:
                os._exit(1)
        assert 9 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if lost:
            for noted in (home / layout.TRASH).glob("*/applied*"):
                noted.unlink()
        with Store.open(home) as store:
            assert SIZE == store.usage(name)
            assert counted(store, name)


def test_a_copy_counts_anew(home: Path, tmp_path: Path) -> None:
    """In another directory nothing is known: copies can have made files of hard links."""
    with Store.open(home) as store:
        applied(store, "base")
    other = home.parent / "other"
    shutil.copytree(home, other, symlinks=True)
    shutil.rmtree(home)
    with Store.open(other) as store:
        assert not counted(store, "base")
        assert SIZE == store.usage("base")
    assert not findings(other)


def test_an_older_database_knows_no_sizes(home: Path, tmp_path: Path) -> None:
    """What it says may be from before somebody wrote."""
    with Store.open(home) as store:
        applied(store, "base")
        applied(store, "child", "base")
        store.backup(tmp_path / "saved")
        by_mount(store)
    Store.restore(home, tmp_path / "saved")
    with Store.open(home) as store:
        assert Size(14, 5) == store.usage("child")
    assert not findings(home)


def test_what_a_power_cut_can_take_is_not_vouched_for(home: Path) -> None:
    """Under `process` content can be lost, so that it is always measured."""
    with Store.open(home, durability="process") as store:
        applied(store, "base")
        assert not counted(store, "base")
        assert SIZE == store.usage("base")


def test_a_compacted_journal_knows_the_sizes(home: Path, unread: NothingRead) -> None:
    """The snapshot has the number, and an audit folds to it."""
    with Store.open(home) as store:
        applied(store, "base")
        store.compact()
        assert SIZE == store.usage("base")
    assert not findings(home)
