"""A round trip through the kernel: any tree, edited in any way through mounted overlays, is packed and
applied to a sibling; both merged views are the same, and so are the two ways to tell its changes.

LAYERSTORE_TEST_SEED=N repeats a run; LAYERSTORE_TEST_LONG=1 makes it fifty times as long.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import shutil
import stat
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from layerstore import Store
from layerstore.fs import changes, whiteout
from layerstore.testing.compare import snapshot

pytestmark = pytest.mark.root

LONG = os.environ.get("LAYERSTORE_TEST_LONG") == "1"
SEED = int(os.environ.get("LAYERSTORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
SECOND = 10**9
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
IMPOSSIBLE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL),
    *(errno.EXDEV, errno.ELOOP, errno.EPERM, errno.EBUSY, errno.ENODATA),
}
"""What an edit may end with that does not fit the tree; EXDEV: overlayfs renames no lower directory."""

PATHS = st.one_of(
    st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/b"]),
    st.lists(st.sampled_from(["a", "b", "ü", "n" * 55]), min_size=1, max_size=3).map("/".join),
)
OWNERS = st.sampled_from([0, 1, 1000, 65_534, 3_000_000])
TIMES = st.sampled_from([0, 1, -SECOND, 10**18, 10**18 + 1, 10**18 + SECOND // 2, 10**19])
DATA = st.one_of(st.binary(max_size=8), st.sampled_from([500, 512, 5000, 140_000]).map(bytes))
XATTRS = st.sampled_from(["user.a", "user.a", "user.ü", "security.capability", "user.b%3Dc"])
MODES = st.sampled_from([0, 0o644, 0o755, 0o4755, 0o2775, 0o1777, 0o7777])
TARGETS = st.sampled_from(["a", "b/c", "/nowhere/at all", "ü" * 80, "."])
"""Where symbolic links lead: none out of the tree, for what follows it must not change the machine."""


# --- edits --------------------------------------------------------------------------------------


def _above(path: Path) -> None:
    """Most edits find their directory there."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)


def write(path: Path, how: str, data: bytes) -> None:
    """Create, overwrite, append; a FIFO or a device is left alone."""
    _above(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "no regular file")
    with path.open(how) as file:
        file.write(data)


def set_xattr(path: Path, name: str, value: bytes) -> None:
    """A capability has a form of its own."""
    os.setxattr(path, name, CAPABILITY if name.startswith("security") else value)


def remove(path: Path) -> None:
    """A file, or a directory with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def make_again(path: Path) -> None:
    """A directory that hides what it was."""
    remove(path)
    path.mkdir()


def replace(path: Path) -> None:
    """A directory becomes a file, and anything else a directory."""
    was_directory = path.is_dir()
    remove(path)
    if was_directory:
        path.write_text("a file now")
    else:
        path.mkdir()


def mknod(path: Path, kind: int) -> None:
    """A FIFO, or a device with a large number."""
    _above(path)
    os.mknod(path, kind | 0o640, 0 if kind == stat.S_IFIFO else os.makedev(259, 70_000))


def symlink(path: Path, leads_to: str) -> None:
    """Whether it leads to something or not."""
    _above(path)
    os.symlink(leads_to, path)


def link(path: Path, other: Path) -> None:
    """Also of a symbolic link itself."""
    _above(other)
    os.link(path, other, follow_symlinks=False)


def rename(path: Path, other: Path) -> None:
    """Of a file, or of a directory as far as overlayfs does it."""
    _above(other)
    os.rename(path, other)


def move(path: Path, other: Path) -> None:
    """As mv does it, which copies what cannot be renamed."""
    if path.is_dir() and not path.is_symlink():
        shutil.move(path, other)


def touch(path: Path, time: int) -> None:
    """Of a symbolic link itself, too."""
    os.utime(path, ns=(0, time), follow_symlinks=False)


EDIT = st.one_of(
    st.tuples(st.just(write), PATHS, st.sampled_from(["wb", "ab", "r+b"]), DATA),
    st.tuples(st.just(write), PATHS, st.just("wb"), DATA),
    st.tuples(st.just(Path.mkdir), PATHS, st.just(0o750), st.just(True)),
    st.tuples(st.just(os.chmod), PATHS, MODES),
    st.tuples(st.just(os.lchown), PATHS, OWNERS, OWNERS),
    st.tuples(st.just(set_xattr), PATHS, XATTRS, st.binary(max_size=40)),
    st.tuples(st.just(os.removexattr), PATHS, st.just("user.a")),
    st.tuples(st.just(rename), PATHS, PATHS.map(Path)),
    st.tuples(st.just(move), PATHS, PATHS.map(Path)),
    st.tuples(st.just(link), PATHS, st.sampled_from(["l", "m", "a/l", "b/l"]).map(Path)),
    st.tuples(st.just(symlink), PATHS, TARGETS),
    st.tuples(st.just(remove), PATHS),
    st.tuples(st.just(make_again), PATHS),
    st.tuples(st.just(replace), PATHS),
    st.tuples(st.just(mknod), PATHS, st.sampled_from([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK])),
    st.tuples(st.just(touch), PATHS, TIMES),
)
"""What is done, to which path, and with what: paths among it are taken below the root, too."""


def seen(root: Path) -> dict[str, dict[str, Any]]:
    """All that a view shows, without xattrs that are no part of a layer and without fractions."""
    found = snapshot(root)
    for path, entry in found.items():
        entry["xattrs"] = {k: v for k, v in entry["xattrs"].items() if whiteout.is_kept(k)}
        entry["mtime"] //= SECOND
        status = os.lstat(root / path)
        if not stat.S_ISDIR(status.st_mode):
            entry["links"] = status.st_nlink
    return found


class RoundTrip(RuleBasedStateMachine):
    """A chain of layers, the last of which is mounted and edited."""

    store: ClassVar[Store]
    counts: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.chain: list[str] = []
        self.root = Path()
        self.judged = True

    @property
    def layer(self) -> str:
        return self.chain[-1]

    def grow(self) -> None:
        """A layer more, which is edited from now on."""
        parent = self.layer if self.chain else None
        name = f"layer{len(self.chain)}"
        self.store.create(name, parent=parent)
        self.chain.append(name)
        self.root = self.store.get(name)
        self.judged = False

    def teardown(self) -> None:
        try:
            if self.chain and not self.judged:
                self.judge()
        finally:
            for layer in reversed([layer.id for layer in self.store.layers()]):
                self.store.remove(layer)

    @initialize(script=st.lists(EDIT, min_size=20, max_size=40))
    def begin(self, script: list[Any]) -> None:
        """A base layer, and what was made of it."""
        self.grow()
        self.edit(script)
        self.next_layer()

    @rule(script=st.lists(EDIT, min_size=1, max_size=25))
    def edit(self, script: list[Any]) -> None:
        """Some changes through the mount; what does not fit the tree is not done."""
        self.judged = False
        for work, path, *values in script:
            others = [self.root / value if isinstance(value, Path) else value for value in values]
            try:
                work(self.root / path, *others)
            except shutil.Error:
                pass  # it moved what it could
            except OSError as error:
                if error.errno not in IMPOSSIBLE:
                    raise
            else:
                self.counts[work.__name__] += 1

    # --- layers -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.chain) < 4)
    @rule()
    def next_layer(self) -> None:
        """What was edited stays as it is; it goes on upon it."""
        self.judge()
        self.store.put(self.layer)
        self.grow()

    @precondition(lambda self: not self.judged)
    @rule()
    def look(self) -> None:
        """Once more with what an earlier unmount left behind in the upper directory."""
        self.judge()

    def judge(self) -> None:
        """The layer, and a sibling that has its archive: everything is the same."""
        store, layer = self.store, self.layer
        self.judged = True
        store.put(layer)
        archive = b"".join(store.diff(layer))
        parent = self.chain[-2] if len(self.chain) > 1 else None
        store.create("sibling", parent=parent)
        made = store.apply_diff("sibling", io.BytesIO(archive))
        assert archive == b"".join(store.diff("sibling"))
        assert made.size == store.diff_size("sibling") == store.diff_size(layer)
        views = {}
        for name in (layer, "sibling"):
            with store.mounted(name) as root:
                views[name] = seen(root)
        assert views[layer] == views["sibling"]
        for name in (layer, "sibling"):
            self.judge_changes(name, parent)
        store.remove("sibling")
        self.root = store.get(layer)
        self.counts["judged"] += 1

    def judge_changes(self, layer: str, parent: str | None) -> None:
        """Natively, and by comparing the mounted layer with its mounted parent."""
        native = self.store.changes(layer)
        if parent is None:
            names = {change.path for change in native}
            root = self.store.get(layer)
            assert {f"/{path}" for path in seen(root)} == names
            self.store.put(layer)
            return
        with self.store.mounted(layer) as new, self.store.mounted(parent) as old:
            assert changes.of_trees(str(new), str(old)) == native


@pytest.mark.parametrize("file_system", ["default", "ext4"])
def test_what_a_layer_has_survives_the_way_through_an_archive(bare: Path, file_system: str) -> None:
    """After any edits of a chain of layers, to the last xattr."""
    place = bare
    if file_system == "ext4":
        image, place = bare / "ext4.img", bare / "ext4"
        with image.open("xb") as file:
            file.truncate(512 << 20)
        place.mkdir()
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    Store.initialize(place / "home")
    counts: Counter[str] = Counter()
    with Store.open(place / "home", durability="process") as store:
        machine = type("RoundTrip", (RoundTrip,), {"store": store, "counts": counts})
        run_state_machine_as_test(
            hypothesis.seed(f"{SEED} {file_system}")(machine),
            settings=settings(
                max_examples=1000 if LONG else 50,
                stateful_step_count=8,
                deadline=None,
                database=None,
                print_blob=False,
                phases=(Phase.generate, *([Phase.shrink] if LONG else [])),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"seed {SEED}: {dict(counts.most_common())}")
    assert {"link", "move", "rename", "make_again", "replace"} <= set(counts)
