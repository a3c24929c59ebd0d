"""Builds instances of every event class, from the types of its fields, with hypothesis."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import attrs
from hypothesis import strategies as st

from layerstore.codec import TAGS

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
"""Any text that a row can hold: what SQLite and JSON take as UTF-8."""


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of one field."""
    if typing.get_origin(kind) is Mapping:
        return st.dictionaries(text, text, max_size=4)
    if typing.get_origin(kind) is tuple:
        return st.lists(of_type(typing.get_args(kind)[0]), max_size=6).map(tuple)
    if type(None) in typing.get_args(kind):
        (inner,) = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        return st.none() | of_type(inner)
    if kind is str:
        return text
    if kind is int:
        return st.integers(0, 2**63 - 1)
    return st.from_type(kind)


def instances(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Instances of an event class."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: of_type(hints[field.name]) for field in attrs.fields(cls)}
    return st.builds(cls, **fields)


events = st.sampled_from(sorted(TAGS)).flatmap(lambda tag: instances(TAGS[tag]))
"""Any event."""
