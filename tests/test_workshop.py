"""The habits of this code base that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "layerstore"

LONGEST_FUNCTION = 69
LONGEST_MODULE = 400
SHORT_ENOUGH_WITHOUT_DOCSTRING = 15

# Modules whose length is not a matter of style, and may grow with the schema.
GENERATED = {"db/statements.py"}

SQLITE = {"sqlite3", "_sqlite3", "pysqlite3"}
OWNER_OF_SQLITE = "db/engine.py"

PURE = [
    "errors.py",
    "values.py",
    "model.py",
    "answers.py",
    "options.py",
    "events.py",
    "state.py",
    "plan.py",
    "fs/layout.py",
    "fs/steps.py",
    "docker/protocol.py",
]


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Each module of the package: path below it, text, tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        text = path.read_text(encoding="utf-8")
        yield name, text, ast.parse(text, filename=str(path))


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str], int]]:
    """Each import: the module, the names taken from it, the line."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield alias.name, [], node.lineno
            case ast.ImportFrom(module=str(module), level=0):
                yield module, [alias.name for alias in node.names], node.lineno
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module, [], node.lineno


def test_functions_fit_a_screen() -> None:
    """No function of the package is longer than a screen."""
    too_long = [
        f"{name}:{node.lineno} {node.name}: {length} lines"
        for name, _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert [] == too_long


def test_modules_stay_small() -> None:
    """No module of the package is longer than four hundred lines, unless it is generated."""
    too_long = [
        f"{name}: {length} lines"
        for name, text, _ in modules()
        if name not in GENERATED
        and not name.startswith("migrations/versions/")
        and (length := len(text.splitlines())) > LONGEST_MODULE
    ]
    assert [] == too_long


def test_modules_say_what_they_own() -> None:
    """Every module that is not tiny opens with a docstring."""
    silent = [
        name
        for name, text, tree in modules()
        if len(text.splitlines()) > SHORT_ENOUGH_WITHOUT_DOCSTRING and not ast.get_docstring(tree)
    ]
    assert [] == silent


def test_one_module_chooses_the_sqlite_library() -> None:
    """Two SQLite libraries in one process drop each other's locks, so one module imports one."""
    others = [
        f"{name}:{line} imports {module}"
        for name, _, tree in modules()
        if name != OWNER_OF_SQLITE
        for module, _, line in imports(tree)
        if module.partition(".")[0] in SQLITE
    ]
    assert [] == others


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_take_only_pure_paths(name: str) -> None:
    """A pure module has no Path, which could ask the file system."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    taken = {
        taken
        for module, names, _ in imports(tree)
        if module.partition(".")[0] == "pathlib"
        for taken in names or ["the whole module"]
    }
    assert taken <= {"PurePosixPath"}
