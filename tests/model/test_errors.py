"""The tree of errors is the one that its module draws."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from layerstore import errors
from layerstore.errors import LayerstoreError

CLASSES: dict[str, type[LayerstoreError]] = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type)
    and issubclass(cls, LayerstoreError)
    and cls.__module__ == errors.__name__
}


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """The tree in the docstring: each name with its parent and, where it stands there, its code."""
    found: dict[str, tuple[str | None, int | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:[│ ]   )*(?:[├└]── )?)(\w+)(?:\s+(\d+)(?:\s.*)?)?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        above[depth:] = [match[2]]
        found[match[2]] = (above[depth - 1] if depth else None, int(match[3]) if match[3] else None)
    return found


def test_the_drawing_has_every_class_in_its_place() -> None:
    """Each class stands in the docstring below its base class, and nothing else does."""
    bases = {
        name: None if cls is LayerstoreError else cls.__mro__[1].__name__
        for name, cls in CLASSES.items()
    }
    assert bases == {name: parent for name, (parent, _) in drawn().items()}


def test_the_drawing_has_the_exit_codes() -> None:
    """A code that the docstring gives is the class's own; where it gives none, the parent's."""
    for name, (parent, code) in drawn().items():
        expected = code if code is not None else drawn()[str(parent)][1]
        assert (name, expected) == (name, CLASSES[name].exit_code)


def test_exit_codes_have_one_meaning() -> None:
    """Classes of one exit code share its meaning, and no code is one that the shell uses itself."""
    meanings: dict[int, set[str]] = {}
    for cls in CLASSES.values():
        meanings.setdefault(cls.exit_code, set()).add(cls.meaning)
    assert {1, 10, 11, 12, 13, 14, 16} == set(meanings)
    assert {1} == {len(words) for words in meanings.values()}


def test_the_codes_that_scripts_rely_on() -> None:
    """The exit codes that are promised do not change."""
    promised = {
        "NoStore": 10, "Busy": 11, "UpperBusy": 11, "SchemaTooNew": 12, "Refused": 13, "HasChildren": 13,
        "LayerHeld": 13, "LayerExists": 13, "InvalidLayerId": 16, "LayerstoreError": 1,
    }  # fmt: skip
    assert promised == {name: CLASSES[name].exit_code for name in promised}


def example(cls: type[LayerstoreError]) -> LayerstoreError:
    """An instance, with arguments by the kinds that its parameters have."""
    values = {"str": "thing", "int": 3, "tuple[str, ...]": ("one", "two"), "bool": True}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    arguments: list[Any] = [
        values[str(p.annotation)] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return cls(*arguments)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_each_error_has_a_code_word_and_a_message(cls: type[LayerstoreError]) -> None:
    """Each error has a stable word, its message as its text, and a hint that is text too."""
    error = example(cls)
    word = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
    assert (word, error.message) == (error.code, str(error))
    assert error.message and isinstance(error.hint, str)
