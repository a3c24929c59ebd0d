"""The documentation is run: what a reader copies from it works.

Every line that starts with `$ ` in a console or sh block of README.md and docs/ is a command; a
line that ends in a backslash continues on the next. The commands of one document run in order in
one directory, each block as one bash script that stops at the first failure, with a store of the
document's own in LAYERSTORE_HOME. A block is left out by a comment right above it:
`<!-- not run: reason -->`. The Python blocks of the README run after its commands, as one script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(
    r"""
    (?:^<!--\ not\ run:\ (?P<reason>[^\n]+?)\ -->\n\n?)?
    ^```(?P<language>\w+)[^\n]*\n
    (?P<body>.*?)
    ^```$
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
FENCE = re.compile(r"^```", re.MULTILINE)


def blocks(document: Path, *languages: str) -> list[tuple[int, str]]:
    """The runnable blocks of a document: line number and text."""
    text = document.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start("body")) + 1, found["body"])
        for found in BLOCK.finditer(text)
        if found["language"] in languages and not found["reason"]
    ]


def commands(body: str) -> list[str]:
    """The commands of a block, without the prompt and the output between them."""
    taken: list[str] = []
    continued = False
    for line in body.splitlines():
        if line.startswith("$ "):
            taken.append(line.removeprefix("$ "))
        elif continued:
            taken[-1] += "\n" + line
        else:
            continue
        continued = line.endswith("\\")
    return taken


def run(argv: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    """Run it as a reader would: this environment's programs first, the store in `where`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAYERSTORE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    environment["LAYERSTORE_HOME"] = str(where / "store")
    environment["NO_COLOR"] = "1"
    return subprocess.run(
        argv, cwd=where, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_fences_are_understood(document: Path) -> None:
    """No fenced block escapes the search because of the way it is written."""
    text = document.read_text(encoding="utf-8")
    assert len(FENCE.findall(text)) == 2 * len(list(BLOCK.finditer(text)))


@pytest.mark.root
@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if blocks(path, "console", "sh")],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_commands_work(document: Path, bare: Path) -> None:
    """Every command that a document shows succeeds, in the order shown."""
    for line, body in blocks(document, "console", "sh"):
        script = "\n".join(commands(body))
        assert script, f"{document.name}:{line}: a block without a `$ ` line"
        done = run(["bash", "-euo", "pipefail", "-c", script], bare)
        assert done.returncode == 0, (
            f"{document.name}:{line}: exit {done.returncode}\n{script}\n{done.stdout}{done.stderr}"
        )


@pytest.mark.root
def test_readme_python_works(bare: Path) -> None:
    """The Python of the README runs as it stands, from top to bottom."""
    script = "\n".join(body for _, body in blocks(ROOT / "README.md", "python"))
    assert script
    done = run([sys.executable, "-W", "error", "-c", script], bare)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


@pytest.mark.root
def test_tests_of_the_testing_guide_pass(bare: Path) -> None:
    """The tests in docs/testing.md are what a reader puts into files of their own: they pass."""
    for line, body in blocks(ROOT / "docs/testing.md", "python"):
        (bare / f"test_{line}.py").write_text(body)
        assert len(body.splitlines()) <= 40
    where = ["--rootdir", str(bare), "--basetemp", str(bare / "tmp"), str(bare)]
    done = run([sys.executable, "-W", "error", "-m", "pytest", "-q", *where], bare)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "2 passed" in done.stdout
