"""What an audit says of content: several files in one finding, and Docker's own check sums."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit, tarsplit
from layerstore.testing import damaging
from tests.audit import contents, damages
from tests.cli.running import Program

pytestmark = pytest.mark.root


def test_many_files_are_one_finding(bare: Path) -> None:
    """A layer that came back empty is one line, with a number and the first names."""
    home = damages.make(bare, damages.STORE)
    for number in range(100):
        (home / "base/diff" / f"f{number:02}").write_text("x")
    with Store.open(home) as store:
        store.record_manifest("base")
    for number in range(100):
        (home / "base/diff" / f"f{number:02}").write_text("")
    (found,) = [f for f in audit(home, content=True).findings if f.layer == "base"]
    assert ("content-short", "base: 100 files are shorter") == (found.code, found.message[:27])
    assert "f00 (" in found.message and found.message.endswith(", …")
    assert str(home / "base/diff/f00") == found.path
    assert ("mid", "side") <= found.depends[:2]


def test_the_command_records_and_compares(bare: Path) -> None:
    """`manifest`, `inspect` and `audit --content` in one life; `--layer` reads only what it names."""
    home = damages.make(bare, damages.STORE)
    program = Program(home)
    (made,) = json.loads(program("--json", "manifest", "base").out)["manifests"]
    assert ("base", 1) == (made["layer"], made["files"])
    assert made == json.loads(program("--json", "inspect", "base").out)["manifest"]
    assert "1 entry" in program("inspect", "base").out
    program("manifest", "mid")
    report = json.loads(program("--json", "audit", "--content").out)
    assert (True, 2, 2) == (
        report["clean"],
        *(report["checked"][x] for x in ("manifests", "files")),
    )
    os.truncate(home / "base/diff/of-base", 0)
    assert "content-short" in program("audit", "--content", code=4).out
    assert "content-short" in program("audit", "--layer", "base", code=4).out
    program("audit", "--layer", "mid")
    program("audit")
    assert {"schema": 1, "dropped": ["base"]} == json.loads(
        program("--json", "manifest", "--drop", "base").out
    )
    assert () == audit(home, content=True).findings


def test_the_fast_check_sum_is_the_slow_one() -> None:
    """CRC-64 by large integers is what a loop over bits gives, also in pieces; Go's check value."""
    assert 0xB90956C775A41001 == tarsplit.crc64(b"123456789")
    chance = random.Random(1)
    for size in (*range(70), 255, 256, 257, 1023, 4099):
        data = chance.randbytes(size)
        assert contents.crc64(data) == tarsplit.crc64(data), size
        cut = chance.randint(0, size)
        register = tarsplit._crc(tarsplit._crc(tarsplit._ALL, data[:cut]), data[cut:])
        assert contents.crc64(data) == register ^ tarsplit._ALL, (size, cut)


def test_names_of_docker_lead_to_files(bare: Path) -> None:
    """Dots, slashes, whiteouts, AUFS's own, raw names and links on the way: all are found."""
    home = damages.make(bare, damages.DOCKER)
    diff = home / "base/diff"
    (diff / "usr/bin").mkdir(parents=True)
    (diff / "bin").symlink_to("/usr/bin")
    (diff / "usr/bin/sh").write_text("shell")
    os.mknod(diff / "gone", 0o020000, 0)
    names = {"./": b"", "./usr/": b"", "bin": b"", "/bin/sh": b"shell", ".wh.gone": b""}
    path = damaging.docker_record(home, "base") / "tar-split.json.gz"
    path.write_bytes(contents.split({**names, "usr/.wh..wh..opq": b"", "../etc": b"out"}))
    assert () == audit(home, any_tree=True, content=True).findings
    (diff / "usr/bin/sh").write_text("shall")
    (found,) = audit(home, any_tree=True, content=True).findings
    assert ("content-changed", "base") == (found.code, found.layer)
    (diff / "gone").unlink()
    codes = {item.code for item in audit(home, any_tree=True, content=True).findings}
    assert {"content-changed", "content-missing"} == codes
