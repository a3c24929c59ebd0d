"""What a layer changed, from its own files and from mounted trees: the two agree."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore.answers import ChangeKind
from layerstore.errors import CannotCompare
from layerstore.fs import changes, mount, syscalls
from layerstore.fs.mount import OverlayOptions

pytestmark = pytest.mark.root

M, A, D = ChangeKind.MODIFY, ChangeKind.ADD, ChangeKind.DELETE


class Layers:
    """A chain of layers that are written through overlay mounts, each in its turn."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.count = 0

    def diff(self, number: int) -> str:
        return f"{self.top}/{number}/diff"

    def add(self, write: Callable[[Path], None]) -> None:
        """One layer more, written through its mount."""
        number = self.count
        place = self.top / str(number)
        for name in ("diff", "work", "merged"):
            (place / name).mkdir(parents=True)
        if number == 0:
            write(place / "diff")
        else:
            with self.mounted(number):
                write(place / "merged")
        self.count += 1

    def lowers(self, number: int) -> list[str]:
        return [self.diff(lower) for lower in reversed(range(number))]

    @contextlib.contextmanager
    def mounted(self, number: int, *, read_only: bool = False) -> Iterator[str]:
        """The layer's merged view."""
        place = f"{self.top}/{number}"
        if number == 0:
            yield self.diff(0)
            return
        options = OverlayOptions(tuple(self.lowers(number)), f"{place}/diff", f"{place}/work")
        if read_only:
            options = OverlayOptions((self.diff(number), *self.lowers(number)), None, None)
        mount.mount_overlay(f"{place}/merged", options, home=str(self.top), styles=("new",))
        try:
            yield f"{place}/merged"
        finally:
            syscalls.umount2(f"{place}/merged", 0)

    def native(self, number: int) -> dict[str, ChangeKind]:
        found = changes.of_layer(self.diff(number), self.lowers(number))
        assert [c.path for c in found] == sorted((c.path for c in found), key=os.fsencode)
        return {change.path: change.kind for change in found}

    def compared(self, number: int) -> dict[str, ChangeKind]:
        with self.mounted(number) as new, self.mounted(number - 1, read_only=True) as old:
            return {change.path: change.kind for change in changes.of_trees(new, old)}


@pytest.fixture
def layers(bare: Path) -> Layers:
    """A base of a few files and directories, on a file system that has user xattrs."""
    chain = Layers(bare)

    def base(root: Path) -> None:
        for path in ("dir/sub/deep", "dir/sub/other", "dir/file", "file", "gone", "empty/x"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(path)
            os.utime(root / path, ns=(0, 10**18 + 5))

    chain.add(base)
    return chain


def recreate(root: Path) -> None:
    """A directory is removed and made again with some of what it had."""
    shutil.rmtree(root / "dir")
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "dir" / "sub" / "deep").write_text("new")
    (root / "dir" / "new").touch()


def replace(root: Path) -> None:
    """A directory by a file, a file by a directory."""
    shutil.rmtree(root / "dir")
    (root / "dir").write_text("a file now")
    (root / "file").unlink()
    (root / "file").mkdir()
    (root / "file" / "in").touch()


def and_back(root: Path) -> None:
    """A directory becomes a file, and again a directory."""
    replace(root)
    (root / "dir").unlink()
    (root / "dir" / "sub").mkdir(parents=True)


def touched(root: Path) -> None:
    """Changed and changed back: copied up, and nothing differs."""
    os.chmod(root / "file", 0o600)
    os.chmod(root / "file", 0o644)
    os.chmod(root / "dir" / "sub", 0o700)
    os.chmod(root / "dir" / "sub", 0o755)


def xattr(root: Path) -> None:
    """Only an xattr differs."""
    os.setxattr(root / "dir" / "file", "user.note", b"x")


CASES: dict[str, tuple[Callable[[Path], None], dict[str, ChangeKind]]] = {
    "nothing": (lambda root: None, {}),
    "add": (
        lambda root: (root / "new" / "er").mkdir(parents=True),
        {"/new": A, "/new/er": A},
    ),
    "modify": (
        lambda root: os.truncate(root / "dir" / "sub" / "deep", 3),
        {"/dir": M, "/dir/sub": M, "/dir/sub/deep": M},
    ),
    "delete": (
        lambda root: (root / "gone").unlink(),
        {"/gone": D},
    ),
    "delete-tree": (
        lambda root: shutil.rmtree(root / "dir" / "sub"),
        {"/dir": M, "/dir/sub": D},
    ),
    "recreate": (
        recreate,
        {
            "/dir": M,
            "/dir/file": D,
            "/dir/new": A,
            "/dir/sub": M,
            "/dir/sub/deep": M,
            "/dir/sub/other": D,
        },
    ),
    "replace": (replace, {"/dir": M, "/file": M, "/file/in": A}),
    "and-back": (
        and_back,
        {
            "/dir": M,
            "/dir/file": D,
            "/dir/sub": M,
            "/dir/sub/deep": D,
            "/dir/sub/other": D,
            "/file": M,
            "/file/in": A,
        },
    ),
    "metadata": (lambda root: os.chown(root / "dir", 5, 5), {"/dir": M}),
    "touched": (touched, {}),
    "xattr": (xattr, {"/dir": M, "/dir/file": M}),
    "device": (
        lambda root: os.mknod(root / "dir" / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        {"/dir": M, "/dir/null": A},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_change_is_told(layers: Layers, name: str) -> None:
    """Natively, and by comparing what is mounted."""
    write, expected = CASES[name]
    layers.add(write)
    assert expected == layers.native(1)
    assert expected == layers.compared(1)


def test_a_base_layer_adds_everything(layers: Layers) -> None:
    """Nothing is below it."""
    assert {A} == set(layers.native(0).values())
    assert "/dir/sub/deep" in layers.native(0)


def test_what_a_lower_deleted_is_new_when_it_comes_back(layers: Layers) -> None:
    """Whiteouts and opaque directories of the lowers hide what is below them."""
    layers.add(recreate)
    layers.add(lambda root: (root / "gone").unlink())

    def again(root: Path) -> None:
        (root / "gone").write_text("again")
        (root / "dir" / "file").write_text("again")
        (root / "dir" / "sub" / "other").write_text("again")

    layers.add(again)
    expected = {"/dir": M, "/dir/file": A, "/dir/sub": M, "/dir/sub/other": A, "/gone": A}
    assert expected == layers.native(3) == layers.compared(3)


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_what_is_elsewhere_is_refused(layers: Layers, name: str) -> None:
    """A rename or a content that overlayfs keeps in an xattr is not guessed at."""
    layers.add(lambda root: (root / "new").mkdir())
    os.setxattr(f"{layers.diff(1)}/new", f"trusted.overlay.{name}", b"/dir")
    with pytest.raises(CannotCompare, match="overlayfs"):
        layers.native(1)


def test_whiteouts_by_xattr_are_whiteouts(layers: Layers) -> None:
    """As Linux 6.7 has them in layers that were made on top of an overlay."""
    layers.add(lambda root: (root / "dir" / "kept").touch())
    os.setxattr(f"{layers.diff(1)}/dir", "trusted.overlay.opaque", b"x")
    Path(f"{layers.diff(1)}/dir/file").touch()
    os.setxattr(f"{layers.diff(1)}/dir/file", "trusted.overlay.whiteout", b"")
    assert {"/dir": M, "/dir/file": D, "/dir/kept": A} == layers.native(1)


# --- the two agree ------------------------------------------------------------------------------

PATH = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
ACTION = st.sampled_from(
    ["write", "mkdir", "remove", "chmod", "chown", "symlink", "touch", "rename", "restore", "xattr"]
)


def act(root: Path, action: str, path: str, other: str) -> None:
    """One change; what does not apply is left."""
    at = root / path
    if action == "write":
        at.write_text(other)
    elif action == "mkdir":
        at.mkdir(parents=True)
    elif action == "remove":
        shutil.rmtree(at) if at.is_dir() and not at.is_symlink() else at.unlink()
    elif action == "chmod":
        os.chmod(at, 0o700)
    elif action == "chown":
        os.chown(at, 7, 7, follow_symlinks=False)
    elif action == "symlink":
        os.symlink(other, at)
    elif action == "touch":
        os.utime(at, ns=(0, len(other) * 10**9), follow_symlinks=False)
    elif action == "rename":
        os.rename(at, root / other)
    elif action == "xattr":
        os.setxattr(at, "user.x", other.encode(), follow_symlinks=False)
    elif at.is_dir() and not at.is_symlink():  # replaced by the other type
        shutil.rmtree(at)
        at.write_text("")
    else:
        at.unlink()
        at.mkdir()


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.lists(st.tuples(ACTION, PATH, PATH), min_size=1, max_size=9), min_size=2, max_size=4
    )
)
def test_both_ways_agree(bare: Path, script: list[list[tuple[str, str, str]]]) -> None:
    """After any changes through mounts of a chain, layer by layer."""
    layers = Layers(bare / f"case{len(os.listdir(bare))}")
    for actions in script:

        def write(root: Path, actions: list[tuple[str, str, str]] = actions) -> None:
            for action in actions:
                with contextlib.suppress(OSError):
                    act(root, *action)

        layers.add(write)
    for number in range(1, layers.count):
        assert layers.compared(number) == layers.native(number)
