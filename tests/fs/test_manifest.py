"""Manifests: what a directory holds, kept as a text, and what differs from it later."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore.fs import manifest
from layerstore.fs.archive.source import zstd
from layerstore.fs.manifest import Difference

pytestmark = pytest.mark.root


@pytest.fixture
def tree(bare: Path) -> Path:
    """One of everything, with names that sort unlike their paths."""
    root = bare / "t"
    for path in ("a/x", "a-b", "a/y/z", "large", b"\xff".decode("utf-8", "surrogateescape")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"content of {path.encode('utf-8', 'surrogateescape')!r}")
    (root / "large").write_bytes(b"x" * 600_000)
    (root / "empty").touch()
    os.symlink("a/x", root / "link")
    os.mknod(root / "gone", stat.S_IFCHR, 0)
    os.setxattr(root / "a", "user.note", b"\0\1")
    os.setxattr(root / "a", "trusted.overlay.opaque", b"y")
    return root


CASES: dict[str, tuple[Callable[[Path], None], str, Difference, str]] = {
    "missing": (lambda t: (t / "a/x").unlink(), "a/x", Difference.MISSING, ""),
    "extra": (lambda t: (t / "a.c").touch(), "a.c", Difference.EXTRA, ""),
    "empty": (lambda t: os.truncate(t / "a-b", 0), "a-b", Difference.SHORT, "size"),
    "short": (lambda t: os.truncate(t / "large", 4096), "large", Difference.SHORT, "sha256"),
    "zeroed": (
        lambda t: overwrite(t / "large", bytes(600_000)),
        "large",
        Difference.ZEROED,
        "sha256",
    ),
    "rotten": (lambda t: flip(t / "large"), "large", Difference.CHANGED, "sha256"),
    "mode": (lambda t: os.chmod(t / "a/y", 0o700), "a/y", Difference.METADATA, "mode"),
    "owner": (lambda t: os.chown(t / "a-b", 7, 0), "a-b", Difference.METADATA, "uid"),
    "time": (lambda t: os.utime(t / "a-b", ns=(0, 1)), "a-b", Difference.METADATA, "mtime_ns"),
    "xattr": (
        lambda t: os.removexattr(t / "a", "trusted.overlay.opaque"),
        "a",
        Difference.METADATA,
        "xattrs",
    ),
}


def overwrite(path: Path, data: bytes) -> None:
    """Other content."""
    path.write_bytes(data)


def flip(path: Path) -> None:
    """Change one byte, and leave the time as it was, as a bad disk would."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(300_000)
        file.write(b"y")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_text_gives_the_same_again(tree: Path) -> None:
    """Names that are no text among it; twice the same tree is the same bytes."""
    held = list(manifest.take(str(tree)))
    text = manifest.dump(held)
    assert held == list(manifest.load(text))
    assert text == manifest.dump(manifest.take(str(tree)))
    assert [] == list(manifest.compare(held, manifest.take(str(tree))))
    assert 10 == len(held)


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_told(tree: Path, name: str) -> None:
    """By its path, and by which of its fields; of a directory's time nothing else is said."""
    change, path, kind, field = CASES[name]
    text = manifest.dump(manifest.take(str(tree)))
    change(tree)
    found = list(manifest.compare(manifest.load(text), manifest.take(str(tree))))
    mine = [finding for finding in found if finding.path == path]
    assert [kind] == [finding.kind for finding in mine]
    assert not field or field in mine[0].what
    assert all(f.what == ("mtime_ns",) for f in found if f.path != path)


def test_a_damaged_text_is_refused(tree: Path) -> None:
    """Cut off, flipped, empty, of another version."""
    text = manifest.dump(manifest.take(str(tree)))
    library = zstd()
    other = library.compress(b'{"layerstore manifest": 99}\n')
    for damaged in (text[:-9], b"", b"no manifest", other, library.compress(b"")):
        with pytest.raises(ValueError, match="manifest"):
            list(manifest.load(damaged))
