"""The manual pages and completion scripts that are shipped."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from layerstore.cli import exits
from tests.cli.running import environment, run

ROOT = Path(__file__).resolve().parent.parent.parent
SHARE = ROOT / "share"


def load_tool() -> ModuleType:
    """tools/make_share.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_share", ROOT / "tools" / "make_share.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_share_is_what_the_tool_writes() -> None:
    """share/ is what tools/make_share.py makes of the commands; `make share` brings it up to date."""
    wanted = load_tool().generate()
    found = {
        path.relative_to(SHARE).as_posix(): path.read_text(encoding="utf-8")
        for path in SHARE.rglob("*")
        if path.is_file() and path.parent.name != "systemd"  # units are written by hand
    }
    assert sorted(wanted) == sorted(found)
    assert [] == [name for name in wanted if wanted[name] != found[name]]


def test_the_manual_has_every_exit_code() -> None:
    """layerstore(1) explains each exit code of the table, and the variables."""
    text = (SHARE / "man" / "man1" / "layerstore.1").read_text(encoding="utf-8")
    for code, meaning in exits.table().items():
        assert f".B {code}\n{meaning}" in text
    assert "LAYERSTORE_FAILPOINT" in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_manual_pages_are_sound() -> None:
    """groff has nothing to warn about in any page."""
    for page in sorted((SHARE / "man" / "man1").glob("*.1")):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z", str(page)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "", page.name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_program_prints_what_is_shipped(shell: str) -> None:
    """`completion SHELL` prints the shipped script."""
    paths = {
        "bash": "bash-completion/completions/layerstore",
        "zsh": "zsh/site-functions/_layerstore",
        "fish": "fish/vendor_completions.d/layerstore.fish",
    }
    assert run(["completion", shell]).out == (SHARE / paths[shell]).read_text(encoding="utf-8")


def complete(*words: str, **variables: str) -> list[str]:
    """What the program offers for the last of the words."""
    done = run(
        [],
        _LAYERSTORE_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(("layerstore", *words)),
        COMP_CWORD=str(len(words)),
        **variables,
    )
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


def test_words_are_completed() -> None:
    """Commands and options are completed; without a store there are no ids, and no complaint."""
    assert complete("hi") == ["history"]
    assert "--read-write" in complete("create", "--")
    assert complete("inspect", "x", LAYERSTORE_HOME="/nonexistent") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_script() -> None:
    """bash sources the script and registers the completion."""
    script = SHARE / "bash-completion" / "completions" / "layerstore"
    done = subprocess.run(
        ["bash", "-c", f"source '{script}' && complete -p layerstore"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "layerstore" in done.stdout
