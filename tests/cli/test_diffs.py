"""`apply`, `diff`, `changes` and `du`."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import PROGRAM, Program, environment
from tests.fs.archive.trees import END, entry

pytestmark = pytest.mark.root

ARCHIVE = entry("d/", kind=b"5", mode=0o755) + entry("d/f", b"content") + END
CHILD = entry("d/", kind=b"5", mode=0o755) + entry("d/.wh.f", mode=0o600) + entry("n", b"1") + END


@pytest.fixture
def applied(home: Path, tmp_path: Path) -> Program:
    """A store with a base and a child, both from archives: one from a file, one from a pipe."""
    program = Program(home)
    (tmp_path / "base.tar").write_bytes(ARCHIVE)
    program("create", "base")
    digest = f"sha256:{hashlib.sha256(ARCHIVE).hexdigest()}"
    assert f"{digest}\n" == program("apply", "base", str(tmp_path / "base.tar")).out
    program("create", "child", "--parent", "base")
    done = subprocess.run(
        [*PROGRAM, "--home", home, "--json", "apply", "child", "-"],
        input=gzip.compress(CHILD),
        env=environment(),
        check=True,
        capture_output=True,
    )
    assert f"sha256:{hashlib.sha256(CHILD).hexdigest()}".encode() in done.stdout
    return program


def test_a_diff_is_the_archive_again(applied: Program, home: Path, tmp_path: Path) -> None:
    """To a pipe, and to a file that has its name when it is whole."""
    command = [*PROGRAM, "--home", str(home), "diff", "child"]
    done = subprocess.run(command, env=environment(), capture_output=True, check=True)
    assert CHILD == done.stdout
    assert "" == applied("diff", "base", "-o", str(tmp_path / "out.tar")).out
    assert ARCHIVE == (tmp_path / "out.tar").read_bytes()
    applied("mount", "child", "--holder", "x")
    (home / "child" / "merged" / ".wh.bad").touch()
    before = sorted(os.listdir(tmp_path))
    failed = applied("diff", "child", "-o", str(tmp_path / "bad.tar"), code=1)
    assert "whiteout" in failed.err
    assert before == sorted(os.listdir(tmp_path))
    applied("umount", "child", "--holder", "x")


def test_changes_and_sizes(applied: Program) -> None:
    """As lines and as JSON."""
    assert ["C /d", "D /d/f", "A /n"] == applied("changes", "child").out.splitlines()
    assert {"path": "/n", "kind": "add"} in applied("--json", "changes", "child").json["changes"]
    base, child = applied("--json", "du").json["layers"]
    assert {"id": "base", "own": 7, "inodes": 3, "shared": 0, "frees": 0} == base
    assert {"id": "child", "own": 1, "inodes": 4, "shared": 7, "frees": 1} == child
    assert "OWN" in applied("du", "child").out


def test_inspect_tells_what_was_applied(applied: Program) -> None:
    """Digest and size; that an archive broke off; nothing where there was none."""
    assert f"{hashlib.sha256(ARCHIVE).hexdigest()} (7 B)" in applied("inspect", "base").out
    applied("create", "new")
    assert "Archive" not in applied("inspect", "new").out
    applied("apply", "new", "/dev/null", code=1)
    assert "broke off" in applied("inspect", "new").out


def test_what_is_refused_says_why(applied: Program, home: Path, tmp_path: Path) -> None:
    """Each with the exit code of its kind."""
    assert "before" in applied("apply", "child", str(tmp_path / "base.tar"), code=13).err
    applied("create", "new")
    done = applied("apply", "--max-entries", "1", "new", str(tmp_path / "base.tar"), code=1)
    assert "more than 1 entries" in done.err and "LAYERSTORE_MAX_ENTRIES" in done.err
    assert [] == os.listdir(home / "new" / "diff")
    assert "nothing" in applied("apply", "new", str(tmp_path / "nothing"), code=1).err


@pytest.mark.parametrize(
    ("name", "value", "flag", "why"),
    [
        ("MAX_SIZE", "1k", "2k", "larger than 1024 bytes"),
        ("MAX_ENTRIES", "1", "0", "more than 1 entries"),
        ("MAX_RATIO", "9", "0", "more than 9 times"),
    ],
)
def test_limits_are_settings(
    home: Path, tmp_path: Path, name: str, value: str, flag: str, why: str
) -> None:
    """A variable bounds an archive, the error says which one it was, and a flag is stronger."""
    size = (1 << 28) + (1 << 20) if name == "MAX_RATIO" else 1500
    archive = tmp_path / "large.tar.gz"
    with gzip.open(archive, "wb", 1) as file:
        file.write(entry("d/", kind=b"5", mode=0o755) + entry("d/f", bytes(size)) + END)
    program, option = Program(home), f"--{name.lower().replace('_', '-')}"
    program("create", "a")
    program("create", "b")
    command = [*PROGRAM, "--home", str(home), "apply", "a", str(archive)]
    bounded = environment() | {f"LAYERSTORE_{name}": value}
    refused = subprocess.run(command, env=bounded, capture_output=True, text=True, check=False)
    assert 1 == refused.returncode
    assert why in refused.stderr and f"LAYERSTORE_{name}" in refused.stderr
    assert [] == os.listdir(home / "a" / "diff")
    command[-2:] = ["b", str(archive), option, flag]
    subprocess.run(command, env=bounded, capture_output=True, check=True)


@pytest.mark.parametrize("command", ["diff", "export"])
def test_what_is_no_file_is_not_replaced(applied: Program, tmp_path: Path, command: str) -> None:
    """A device or a pipe stays what it is; `-o -` writes to standard output."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        error = applied("--json", command, "base", "-o", str(path), code=16).error
        assert "'-o -' writes to a pipe." == error["hint"]
    assert pipe.is_fifo() and ["base.tar", "pipe"] == sorted(os.listdir(tmp_path))
    done = subprocess.run(
        [*PROGRAM, "--home", str(applied.home), command, "base", "-o", "-"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert b"content" in done.stdout and not (tmp_path / "-").exists()
