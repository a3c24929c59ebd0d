"""`apply`, `diff`, `import` and `export` show how far they are, to whom looks."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import PROGRAM, Program, environment
from tests.fs.archive.trees import END, entry, pax
from tests.images.build import HIGH, LOW, docker, tar

pytestmark = pytest.mark.root

ARCHIVE = entry("f", bytes(3 << 20)) + entry("g", b"1") + END


def on_terminal(home: Path, *words: str) -> tuple[bytes, bytes]:
    """Standard output, which is a pipe, and what a terminal as standard error got."""
    master, slave = pty.openpty()
    try:
        done = subprocess.Popen(
            [*PROGRAM, "--home", str(home), *words],
            env=environment() | {"TERM": "xterm", "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=slave,
        )
        os.close(slave)
        with done:
            out, _ = done.communicate(timeout=60)
        assert 0 == done.returncode
        shown = b""
        try:
            while data := os.read(master, 65536):
                shown += data
        except OSError:
            pass  # a terminal that nobody has open any more ends with EIO
        return out, shown
    finally:
        os.close(master)


def test_a_terminal_is_shown_how_far_it_is(home: Path, tmp_path: Path) -> None:
    """While standard output has what it always has; with -q nothing is shown."""
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    program = Program(home)
    for name in ("a", "b"):
        program("create", name)
    out, shown = on_terminal(home, "apply", "a", str(tmp_path / "a.tar"))
    assert out.startswith(b"sha256:") and b"applying to a" in shown and b"MiB" in shown
    assert b" 2 files " in shown
    assert (b"", b"") == on_terminal(home, "-q", "apply", "b", str(tmp_path / "a.tar"))
    out, shown = on_terminal(home, "diff", "a")
    assert ARCHIVE == out and b"packing" in shown and b" 2 files " in shown
    assert (ARCHIVE, b"") == on_terminal(home, "-q", "diff", "a")


def test_headers_for_other_entries_are_no_files(home: Path, tmp_path: Path) -> None:
    """An entry with a long name is one file, though its archive has two headers for it."""
    (tmp_path / "a.tar").write_bytes(pax({"path": b"n" * 200}) + entry("f", b"1") + END)
    Program(home)("create", "a")
    assert b" 1 file " in on_terminal(home, "apply", "a", str(tmp_path / "a.tar"))[1]


def test_images_are_counted_over_all_their_layers(home: Path, tmp_path: Path) -> None:
    """Bytes and files of every layer that comes in or goes out."""
    path = tar(tmp_path / "image.tar", docker([LOW, HIGH]))
    top, shown = on_terminal(home, "import", str(path))
    assert b"importing" in shown and b" 5 files " in shown and b"KiB" in shown
    words = ["export", "-o", str(tmp_path / "out.tar"), top.decode().strip()]
    shown = on_terminal(home, *words)[1]
    assert b"exporting" in shown and b" 5 files " in shown


def test_a_pipe_is_shown_nothing(home: Path, tmp_path: Path) -> None:
    """Neither for an archive that goes in nor for one that comes out."""
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    program = Program(home)
    program("create", "a")
    assert "" == program("apply", "a", str(tmp_path / "a.tar")).err
    assert "" == program("diff", "a", "-o", str(tmp_path / "b.tar")).err
