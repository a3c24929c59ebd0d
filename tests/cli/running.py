"""Runs the real program, the way a user's shell does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = (sys.executable, "-m", "layerstore")


def environment(**more: str) -> dict[str, str]:
    """This environment without settings of the tester's own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("LAYERSTORE_")}
    # No file of the tester's, and the package of this checkout also where it is not installed.
    own |= {"XDG_CONFIG_HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "NO_COLOR": ""}
    return own | more


@attrs.frozen
class Done:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout, whose schema number is checked and taken off."""
        document = json.loads(self.out)
        assert document.pop("schema") == 1
        return document

    @property
    def error(self) -> Any:
        """The error object on stderr."""
        return json.loads(self.err)["error"]


@attrs.frozen
class Program:
    """The program with one home."""

    home: Path

    def __call__(self, *words: str, code: int = 0, **variables: str) -> Done:
        """Run a command that is expected to exit with `code`."""
        done = run(("--home", str(self.home), *words), **variables)
        assert done.code == code, f"{words}: exit {done.code}\n{done.out}{done.err}"
        return done


def run(words: Sequence[str], **variables: str) -> Done:
    """Run the program to its end."""
    done = subprocess.run(
        [*PROGRAM, *words],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
