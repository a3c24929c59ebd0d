"""Runs the real program, the way a user's shell does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs

from layerstore.cli import main

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


def forked(
    words: Sequence[str],
    inside: AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008 - it is empty
    **variables: str,
) -> Done:
    """The same as `run` in a fork of this process, which spares the time that an import takes.

    In the child it runs inside of `inside`.
    """
    pipes = [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        try:
            for number, (_, write) in enumerate(pipes, 1):
                os.dup2(write, number)
            os.closerange(3, max(max(pair) for pair in pipes) + 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - this process ends soon
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            os.environ.clear()
            os.environ.update(environment(**variables))
            sys.argv = ["layerstore", *words]
            with inside:
                main()
        except SystemExit as end:
            code = end.code
            code = code if isinstance(code, int) else 0
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        except BaseException:  # noqa: BLE001 - stderr has it
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(99)
    said = []
    for read, write in pipes:
        os.close(write)
        with open(read, encoding="utf-8", errors="surrogateescape") as words_of_it:
            said.append(words_of_it.read())
    return Done(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said[0], said[1])


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
