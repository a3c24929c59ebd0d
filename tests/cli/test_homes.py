"""Homes with awkward paths work through the command line as they do through the library."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import Program, forked
from tests.store.support import mounted, run
from tests.store.test_lifecycle import AWKWARD

pytestmark = pytest.mark.root


def _named(name: str) -> Callable[[Path], Path]:
    def make(bare: Path) -> Path:
        home = bare / name
        os.makedirs(home.parent, exist_ok=True)
        return home

    return make


def _bound(bare: Path) -> Path:
    for name in ("real", "view"):
        (bare / name).mkdir()
    run("mount", "--bind", bare / "real", bare / "view")
    return bare / "view/home"


def _very_long(bare: Path) -> Path:
    """3,000 characters, which SQLite cannot have in a path."""
    home = bare.joinpath(*LONG)
    home.parent.mkdir(parents=True)
    return home


def _near(bare: Path) -> Path:
    """The database's own path is one that SQLite could have, those of its archives are not."""
    home = bare / ("y" * 200) / ("y" * (460 - 202 - len(str(bare))))
    home.parent.mkdir()
    return home


def _linked(bare: Path) -> Path:
    (bare / "real").mkdir()
    (bare / "link").symlink_to("real")
    return bare / "link/home"


LONG = ["x" * 200] * 15
TOO_LONG = ["x" * 200] * 19
PLACES = {
    **{name[:12].replace("\n", " "): _named(name) for name in AWKWARD},
    "bind": _bound,
    "symlink": _linked,
    "3000 characters": _very_long,
    "460 characters": _near,
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, bare: Path) -> Path:
    """A home that does not exist yet, in an awkward place."""
    return PLACES[request.param](bare)


def test_the_program_works_there(place: Path) -> None:
    """Layers are made, mounted, written to, killed, asked about, audited and removed."""

    def program(*words: str, code: int = 0, point: str = "") -> str:
        done = forked(("--home", str(place), *words), LAYERSTORE_FAILPOINT=point)
        assert code == done.code, done
        return done.out

    program("init")
    program("create", "base")
    program("create", "top", "--parent", "base")
    merged = Path(program("mount", "top").removesuffix("\n"))
    assert merged.is_mount()
    assert place.resolve() / "top/merged" == merged
    (merged / "file").write_text("x")
    assert "top" in program("whose", f"{merged}/file")
    program("create", "x", "--parent", "base", code=-9, point="create:6:*")
    assert "create of x was undone" in program("recover")
    assert "base\ntop\n" == program("ls", "-q")
    program("journal", "compact", "--keep", "0")
    assert "create" in program("history", "base")
    program("audit", "--archives")
    program("umount", "top")
    assert "x" == (place / "top/diff/file").read_text()
    assert [] == mounted(place.resolve())
    program("rm", "top", "base")
    assert "" == program("ls", "-q")


def test_a_path_too_long_for_everything_is_refused(bare: Path) -> None:
    """A home whose layers could have no path is refused in words, with the way out; nothing is made."""
    home = bare.joinpath(*TOO_LONG)
    home.parent.mkdir(parents=True)
    said = Program(home)("init", code=16).err
    assert "more than 3,800" in said
    assert "Bind-mount" in said
    assert not home.exists()


def test_a_store_that_was_moved_to_where_it_cannot_be_opened(home: Path, bare: Path) -> None:
    """Such a path says why, instead of calling the store damaged, and a bind mount opens it again."""
    place = bare.joinpath(*TOO_LONG)
    place.parent.mkdir(parents=True)
    Program(home)("create", "a")
    home.rename(place)
    for words in (("ls",), ("create", "b")):
        said = Program(place)(*words, code=16).err
        assert "more than 3,800" in said
        assert "rebuild" not in said
    (bare / "view").mkdir()
    run("mount", "--bind", place, bare / "view")
    assert "a\n" == Program(bare / "view")("ls", "-q").out
