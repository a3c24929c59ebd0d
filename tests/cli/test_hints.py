"""Every command that the program's own words name exists, with its flags."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from layerstore.cli import program

ROOT = Path(__file__).resolve().parent.parent.parent
NAMED = re.compile(r"'layerstore ((?:--?)?[a-z][^']*)'")


def texts(path: Path) -> Iterator[str]:
    """Every text of a module as it is shown, X for what is filled in."""
    inner: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            inner.update(ast.walk(node))
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            yield re.sub(r"\s+", " ", node.value)


def named() -> list[tuple[str, str]]:
    """Each module with each command that it names."""
    return sorted(
        {
            (str(path.relative_to(ROOT)), match[1])
            for path in (ROOT / "layerstore").rglob("*.py")
            for text in texts(path)
            for match in NAMED.finditer(text)
        }
    )


def wrong(line: str) -> str | None:
    """What is wrong with a command line; None if the program would take its words."""
    command: click.Command = program
    with click.Context(program, info_name="layerstore") as context:
        words = iter(shlex.split(line))
        for word in words:
            if word.startswith("-"):
                options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts)}
                name = word.partition("=")[0]
                if name not in options:
                    return f"{command.name} has no {name}"
                option = options[name]
                if "=" not in word and not getattr(option, "is_flag", False):
                    next(words, None)
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                if found is None:
                    return f"{command.name} has no command {word}"
                command = found
    return None


@pytest.mark.parametrize(("module", "line"), named())
def test_a_command_that_a_text_names_exists(module: str, line: str) -> None:
    """A way out that the program tells is one that it has."""
    assert (module, None) == (module, wrong(line))


def test_hints_are_found_and_judged() -> None:
    """The look at the texts sees what errors say, and knows a command that does not exist."""
    lines = {line for _, line in named()}
    assert {"ls", "db rebuild", "umount X --holder NAME", "adopt --take-over"} <= lines
    assert wrong("frobnicate") == "layerstore has no command frobnicate"
    assert wrong("db nothing") == "db has no command nothing"
    assert wrong("umount X --force") == "umount has no --force"
    assert wrong("--home X umount X --holder NAME") is None
