"""Owns the rows about archives: apply, diff and changes, against GNU tar and against comparing two
mounted trees; it must not print.

Library calls on an open store. The programs' own start is in their times, as it is for whoever uses
them. Every round begins with nothing dirty, and what it made is removed behind the clock.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import contents
from measure import Clock, Row
from place import Place
from weight import Fresh, same_library, weigh

from layerstore import Store
from layerstore.fs import changes

LARGE = 1 << 30


def make_small(tree: Path) -> None:
    """10,000 files of 4 KiB."""
    for directory in range(100):
        (tree / f"d{directory}").mkdir(parents=True)
        for number in range(100):
            (tree / f"d{directory}" / f"file{number}").write_bytes(os.urandom(4096))


def make_large(tree: Path) -> None:
    """One file of 1 GiB."""
    tree.mkdir()
    with (tree / "large").open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))


@attrs.frozen
class Load:
    """A tree, its archive, and room beside them."""

    top: Path

    @property
    def archive(self) -> Path:
        return self.top / "in.tar"

    @property
    def out(self) -> Path:
        return self.top / "out"

    @property
    def tree(self) -> Path:
        return self.top / "tree"

    @property
    def home(self) -> Path:
        return self.top / "home"


def load(path: str, name: str, make: Callable[[Path], None]) -> Load:
    """Made once, with a store in which the layer `base` has it."""
    found = Load(Path(path, f"archives-{name}"))
    found.top.mkdir()
    make(found.tree)
    _tar("-cf", found.archive, "-C", found.tree, ".")
    Store.initialize(found.home)
    with Store.open(found.home) as store, found.archive.open("rb") as file:
        store.create("base")
        store.apply_diff("base", file)
    os.sync()
    return found


def _tar(*words: str | Path) -> None:
    subprocess.run(["tar", *words], check=True)


class Ours:
    """The library's store."""

    def __init__(self, load: Load, *, full: bool) -> None:
        self.load = load
        self._store = Store.open(load.home, durability="full" if full else "process")
        self.content = load.home / "new" / "diff"

    def unpack(self) -> None:
        with self.load.archive.open("rb", buffering=0) as file:
            self._store.apply_diff("new", file)

    def pack(self) -> None:
        with self.load.out.open("wb", buffering=0) as file:
            for piece in self._store.diff("base"):
                file.write(piece)

    def begin(self) -> None:
        self._store.create("new")

    def end(self) -> None:
        self._store.remove("new")

    def close(self) -> None:
        self._store.close()


class Tar:
    """GNU tar."""

    def __init__(self, load: Load, *, full: bool) -> None:
        self.load = load
        self._full = full
        self.content = load.top / "unpacked"

    def unpack(self) -> None:
        _tar("-xf", self.load.archive, "-C", self.content)
        if self._full:
            subprocess.run(["sync", "-f", self.content], check=True)

    def pack(self) -> None:
        _tar("-cf", self.load.out, "-C", self.load.home / "base" / "diff", ".")

    def begin(self) -> None:
        self.content.mkdir()

    def end(self) -> None:
        shutil.rmtree(self.content)

    def close(self) -> None:
        """Nothing is open."""


Subject = Ours | Tar


def _unpack(subject: Subject, clock: Clock, count: int) -> None:
    for _ in range(count):
        subject.begin()
        os.sync()
        with clock:
            subject.unpack()
        subject.end()


def _unpacked(subject: Subject) -> object:
    subject.begin()
    subject.unpack()
    found = _digest(subject.content)
    subject.end()
    return found


def _pack(subject: Subject, clock: Clock, count: int) -> None:
    for _ in range(count):
        subject.load.out.unlink(missing_ok=True)
        os.sync()
        with clock:
            subject.pack()


def _packed(subject: Subject) -> object:
    """What another program finds in the archive."""
    subject.pack()
    listed = subprocess.run(
        ["tar", "-tvf", subject.load.out, "--numeric-owner"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(line.replace(" ./", " ") for line in listed.splitlines() if "./" != line[-2:])


def _digest(tree: Path) -> str:
    """Names, modes, owners, whole seconds, and what the files have."""
    found = hashlib.sha256()
    for top, directories, names in os.walk(tree):
        directories.sort()
        for name in sorted(names):
            path = Path(top, name)
            status = path.lstat()
            facts = (path.relative_to(tree), status.st_mode, status.st_uid, status.st_size)
            found.update(f"{facts} {int(status.st_mtime)}".encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


# --- changes ------------------------------------------------------------------------------------


class Changed:
    """A layer with 10 changed files over the load, mounted, and its mounted parent."""

    def __init__(self, load: Load, *, native: bool) -> None:
        self._store = Store.open(load.home)
        self._native = native
        if not self._store.exists("changed"):
            self._store.create("mid", parent="base")
            self._store.create("changed", parent="mid")
            with self._store.mounted("changed") as root:
                for number in range(10):
                    (root / f"d{number}" / "file7").write_text("changed")
        self.find: Callable[[], object] = functools.partial(self._store.changes, "changed")
        if not native:
            new, old = str(self._store.get("changed")), str(self._store.get("mid"))
            self.find = functools.partial(changes.of_trees, new, old)

    def close(self) -> None:
        self._store.close()


def _changes(subject: Changed, clock: Clock, count: int) -> None:
    with clock:
        for _ in range(count):
            subject.find()


# --- rows ---------------------------------------------------------------------------------------


def rows(place: Place) -> Iterator[Row]:
    """With 1 GiB only where there is a file system with room for it."""
    small = functools.cache(functools.partial(load, place.path, "small", make_small))
    yield from _tar_rows("10,000 files of 4 KiB", small)
    yield from contents.rows("10,000 files of 4 KiB", small)
    yield Row(
        "changes, 10 files over 10,000; both trees walked",
        lambda: Changed(small(), native=True),
        lambda: Changed(small(), native=False),
        _changes,
        lambda subject: subject.find(),
        turns=1,
    )
    if place.big:
        large = functools.cache(functools.partial(load, place.big, "large", make_large))
        yield from _tar_rows("one file of 1 GiB", large)
        yield from contents.rows("one file of 1 GiB", large)
        yield Row(
            "memory while applying 1 GiB; open and idle",
            lambda: Fresh("archive_weight.py", (str(large().home), str(large().archive))),
            lambda: Fresh("archive_weight.py", (str(large().home),)),
            weigh,
            same_library,
            turns=1,
            unit="MB",
        )


def _tar_rows(words: str, lazy: Callable[[], Load]) -> Iterator[Row]:
    for durability, floor in (("process", "tar -x"), ("full", "tar -x && sync -f")):
        full = durability == "full"
        yield Row(
            f"apply, {durability}, {words}; {floor}",
            lambda full=full: Ours(lazy(), full=full),
            lambda full=full: Tar(lazy(), full=full),
            _unpack,
            _unpacked,
            turns=1,
        )
    yield Row(
        f"diff, {words}; tar -c",
        lambda: Ours(lazy(), full=False),
        lambda: Tar(lazy(), full=False),
        _pack,
        _packed,
        turns=1,
    )
