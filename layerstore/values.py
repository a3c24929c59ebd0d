"""Owns how values are made that a program has many kinds of; it must not know any of them.

attrs compiles `__repr__`, `__eq__` and `__hash__` anew for each class, which is two thirds of what
a class costs to make. A command that changes something makes a hundred of them; here all share these.
"""

from __future__ import annotations

from typing import Any, TypeVar

C = TypeVar("C", bound=type[Any])


def value(cls: C) -> C:
    """For a class that is `attrs.frozen(repr=False, eq=False)`: both, and its hash, after all."""
    made: Any = cls
    made.__repr__, made.__eq__, made.__hash__ = _repr, _eq, _hash
    return cls


def _repr(self: Any) -> str:
    fields = [f"{field.name}={getattr(self, field.name)!r}" for field in self.__attrs_attrs__]
    return f"{type(self).__qualname__}({', '.join(fields)})"


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return all(
        getattr(self, field.name) == getattr(other, field.name) for field in self.__attrs_attrs__
    )


def _hash(self: Any) -> int:
    hashed = [field.name for field in self.__attrs_attrs__ if field.hash is not False]
    return hash((type(self), *[getattr(self, name) for name in hashed]))
