"""The benchmarks run: what they measure is for people to read, and never decides a test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.root


def bench(*options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks in short turns."""
    environment = {**os.environ, "BIG": "0"} | ({} if path is None else {"PATH": path})
    return subprocess.run(
        [sys.executable, str(ROOT / "bench/run.py"), "--quick", "--rounds", "1", *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    "row",
    [
        "create, process, 10 layers",
        "create, full, base layers: 32 threads against one",
        "open after kill -9, 3 in flight, 10 layers",
        "Docker: a request that does no work",
        pytest.param("docker run --rm, process", marks=[pytest.mark.crash, pytest.mark.campaign]),
    ],
)
def test_a_row_has_both_sides(tmp_path: Path, row: str) -> None:
    """A row is measured on both sides, and its ratio is that of the two."""
    done = bench("--only", row, "--json", str(tmp_path / "json"))
    assert (0, "") == (done.returncode, done.stderr)
    document = json.loads((tmp_path / "json").read_text())
    (result,) = document["rows"]
    assert (row, "s") == (result["name"], result["unit"])
    assert result["ratio"]["median"] == result["ours"]["median"] / result["floor"]["median"]
    assert [] == document["peers"]


def test_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    """The row about memory is in megabytes: more than Python alone needs, less than is allowed."""
    done = bench("--only", "memory*", "--json", str(tmp_path / "json"))
    assert (0, "") == (done.returncode, done.stderr)
    (result,) = json.loads((tmp_path / "json").read_text())["rows"]
    assert "MB" == result["unit"]
    assert 5 < result["ours"]["median"] < 100


def test_a_peer_that_is_not_installed_is_no_failure(tmp_path: Path) -> None:
    """Where a peer's program is missing, its rows say so, and the run ends well."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("mkfs.ext4", "mount"):
        (tools / name).symlink_to(shutil.which(name) or "/missing")
    done = bench("--only", "contain*", "--json", str(tmp_path / "json"), path=str(tools))
    assert (0, "") == (done.returncode, done.stderr)
    document = json.loads((tmp_path / "json").read_text())
    assert 8 == len(document["peers"])
    assert {"not measured: not installed"} == {row["reason"] for row in document["peers"]}
    assert 8 == done.stdout.count("not measured: not installed")
