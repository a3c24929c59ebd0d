"""Two trees are compared to the last xattr, and what differs is told in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from layerstore.testing import REMOVED, Directory, File, Symlink, assert_same, difference, snapshot
from layerstore.testing.trees import Files, write_files

pytestmark = pytest.mark.root

FILES: Files = {
    "a/file": File("content", mode=0o640, owner=(1, 2), xattrs={"user.x": b"1"}),
    "a/link": Symlink("file"),
    "gone": REMOVED,
    "opaque": Directory(opaque=True),
}


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("a/file", "more", "a/file: data: 7 bytes in the first, 4 in the second; from byte 0 on"),
        ("a/file", File("content", 0o600, (1, 2), {"user.x": b"1"}), "a/file: mode: 0o100640"),
        ("a/file", File("content", 0o640, (1, 3), {"user.x": b"1"}), "a/file: owner: (1, 2)"),
        ("a/file", File("content", 0o640, (1, 2)), "a/file: xattr user.x: b'1' in the first, none"),
        ("a/link", Symlink("other"), "a/link: link: file in the first, other in the second"),
        ("a/new", "", "a/new: only in the second (file)"),
        ("gone", "", "gone: whiteout in the first, file in the second"),
        ("opaque", Directory(), "opaque: xattr trusted.overlay.opaque: b'y' in the first, none"),
    ],
)
def test_a_difference_is_told(bare: Path, name: str, change: Any, line: str) -> None:
    """Each is one line, which begins with the path."""
    for side, files in (("one", FILES), ("other", {**FILES, name: change})):
        (bare / side).mkdir()
        write_files(bare / side, files)
    assert_same(bare / "one", bare / "one")
    lines = difference(snapshot(bare / "one"), snapshot(bare / "other"))
    assert lines and lines[0].startswith(line)
    with pytest.raises(AssertionError) as caught:
        assert_same(bare / "one", bare / "other")
    assert line in str(caught.value)


def test_hard_links_and_times_count(bare: Path) -> None:
    """Two names of one file are no two files; a time that differs is told, unless it does not matter."""
    for side in ("one", "other"):
        (bare / side).mkdir()
        write_files(bare / side, {"x": "1"})
    os.link(bare / "one/x", bare / "one/y")
    write_files(bare / "other", {"y": "1"})
    lines = difference(snapshot(bare / "one"), snapshot(bare / "other"))
    assert ["y: same as: x in the first, y in the second"] == lines
    os.utime(bare / "other/x", (1, 1))
    assert_same(snapshot(bare / "other", times=False), snapshot(bare / "other", times=False))
    with pytest.raises(AssertionError, match="2 differences"):
        assert_same(bare / "one", bare / "other")


def test_looking_leaves_no_trace(bare: Path) -> None:
    """The time of access of what was read stays, and something that happens is seen in the ctime."""
    write_files(bare, {"x": "1", "big": b"z" * (1 << 20 | 1)})
    os.utime(bare / "x", ns=(0, 5))
    before = snapshot(bare, top=True, untouched=True)
    assert 0 == before["x"]["atime"]
    assert_same(before, snapshot(bare, top=True, untouched=True))
    assert str(before["big"]["data"]).startswith("sha256:")
    (bare / "x").chmod(0o600)
    (bare / "x").chmod(0o644)
    assert ["ctime"] == [
        line.split(": ")[1] for line in difference(before, snapshot(bare, top=True, untouched=True))
    ]
