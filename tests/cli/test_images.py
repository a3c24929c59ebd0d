"""`import` and `export`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import PROGRAM, Program, environment
from tests.cli.test_imports import HEAVY_TO_READ, imported
from tests.images.build import HIGH, LOW, THERE, config_of, docker, dumped, sha, tar

pytestmark = pytest.mark.root


def test_in_and_out_again(home: Path, tmp_path: Path) -> None:
    """The id on stdout, the rest on stderr; to a file, to a pipe, from a pipe; the same bytes."""
    program = Program(home)
    path = tar(tmp_path / "a.tar", docker([LOW, HIGH], tags=["web:1"]))
    done = program("import", str(path))
    top = done.out.strip()
    assert 64 == len(top)
    assert "2 layers, 2 new; web:1\n" == done.err
    assert "" == program("-q", "import", str(path)).err
    program("export", top[:12], "-o", str(tmp_path / "b.tar"))
    command = [*PROGRAM, "--home", str(home), "export", top]
    piped = subprocess.run(command, env=environment(), capture_output=True, check=True)
    assert (tmp_path / "b.tar").read_bytes() == piped.stdout
    command = [*PROGRAM, "--home", str(home), "--json", "import", "-"]
    again = subprocess.run(
        command, input=piped.stdout, env=environment(), capture_output=True, check=True
    )
    document = json.loads(again.stdout)
    assert top == document["layer"]
    assert [sha(LOW), sha(HIGH)] == [layer["diff_id"] for layer in document["chain"]]
    assert [False, False] == [layer["new"] for layer in document["chain"]]
    assert sha(dumped(config_of([LOW, HIGH]))) == document["config_digest"]
    assert {"platform": "linux/amd64", "names": ["web:1"]}.items() < document.items()
    assert ["a.tar", "b.tar"] == sorted(os.listdir(tmp_path))
    told = f"Image:      web:1 {document['config_digest']}"
    assert told in program("inspect", top).out
    images = program("--json", "inspect", top).json["images"]
    assert [{"config_digest": document["config_digest"], "names": ["web:1"]}] == images
    below = document["chain"][0]["id"]
    assert [] == program("--json", "inspect", below).json["images"]


def test_export_options(home: Path, tmp_path: Path) -> None:
    """Names, compression, and what --json tells."""
    program = Program(home)
    top = program("import", str(tar(tmp_path / "a.tar", docker([LOW])))).out.strip()
    words = ("--json", "export", top, "--tag", "x/y:1", "--compress", "-o", str(tmp_path / "b"))
    document = program(*words).json
    assert (["x/y:1"], True) == (document["names"], document["same_config"])
    assert "-o FILE" in program("--json", "export", top, code=16).err
    assert "no name" in program("export", top, "--tag", "X", "-o", str(tmp_path / "c"), code=16).err
    assert "is no file" in program("export", top, "-o", str(tmp_path), code=16).err
    assert {"a.tar", "b"} == set(os.listdir(tmp_path))
    before = (tmp_path / "b").read_bytes()
    program("mount", top, "--holder", "x")
    (home / top / "diff" / ".wh.bad").touch()
    assert "whiteout" in program("export", top, "-o", str(tmp_path / "b"), code=1).err
    assert before == (tmp_path / "b").read_bytes()


def test_import_options(home: Path, tmp_path: Path) -> None:
    """A platform and a name that are not there are refused, with what is."""
    program = Program(home)
    archive = docker([LOW], tags=["web:1"], config=config_of([LOW]) | THERE)
    path = str(tar(tmp_path / "a.tar", archive))
    assert "linux/s390x" in program("import", path, "--platform", "linux/arm64", code=1).err
    assert "web:1" in program("import", path, "--image", "db", code=1).err
    assert "no platform" in program("import", path, "--platform", "x", code=16).err
    assert "nothing" in program("import", str(tmp_path / "nothing"), code=1).err
    assert "more than 1 entries" in program("import", path, "--max-entries", "1", code=1).err
    assert "larger than 1 bytes" in program("import", path, "--max-size", "1", code=1).err
    assert "" == program("ls", "-q").out
    program("import", path, "--platform", "linux/s390x", "--image", "web:1")


def test_a_bar_is_for_terminals(home: Path, tmp_path: Path) -> None:
    """Somebody who watches sees bytes and rate, and then it is gone; a pipe gets nothing of it."""
    path = str(tar(tmp_path / "a.tar", docker([LOW, HIGH])))
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*PROGRAM, "--home", str(home), "import", path],
            env=environment(TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
        )
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert 65 == len(done.stdout)
    assert "importing" in shown
    assert "2 layers" in shown


def test_inspect_of_an_image_imports_nothing_heavy(home: Path, tmp_path: Path) -> None:
    """The records of images cost a question no more than reading a file."""
    program = Program(home)
    top = program("import", str(tar(tmp_path / "a.tar", docker([LOW])))).out.strip()
    assert set() == HEAVY_TO_READ & imported(home, "inspect", top)
