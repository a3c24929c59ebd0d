"""Commands start fast because of what they do not import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import Program, environment

pytestmark = pytest.mark.root

HEAVY_TO_READ = {"sqlalchemy", "alembic", "cattrs", "filelock", "ctypes", "rich"}
HEAVY_TO_WRITE = {"sqlalchemy", "alembic", "rich"}


def imported(home: Path, *words: str) -> set[str]:
    """The top-level packages that a run of the command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "layerstore", "--home", str(home), *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in re.findall(r"\|\s+([\w.]+)$", done.stderr, re.M)}


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("tree",),
        ("inspect", "top"),
        ("lowers", "top"),
        ("holders",),
        ("whose", "{home}/top/diff"),
        ("log",),
        ("history", "top"),
        ("--json", "log"),
        ("--json", "inspect", "top"),
    ],
    ids=" ".join,
)
def test_questions_import_nothing_heavy(home: Path, words: tuple[str, ...]) -> None:
    """A command that only asks imports neither SQLAlchemy nor anything else that is slow."""
    program = Program(home)
    program("create", "base")
    program("create", "top", "--parent", "base")
    assert set() == HEAVY_TO_READ & imported(home, *(word.format(home=home) for word in words))


def test_verbs_import_no_sqlalchemy(home: Path) -> None:
    """create, mount, umount and rm run on statements that were compiled before."""
    for words in (
        ("create", "base"),
        ("create", "top", "--parent", "base"),
        ("mount", "top"),
        ("umount", "top"),
        ("rm", "top", "base"),
    ):
        assert set() == HEAVY_TO_WRITE & imported(home, *words), words
