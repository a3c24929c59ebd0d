"""Owns the nouns of an examination; it must not look at anything."""

from __future__ import annotations

import enum

import attrs


class Gravity(enum.StrEnum):
    """How grave it is what a check found; notes need nothing done."""

    FINE = "fine"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen
class Check:
    """One thing that was looked at: what was found, and what to do where something is."""

    name: str
    state: Gravity
    value: str
    advice: str = ""


@attrs.frozen
class Health:
    """What was looked at in one place."""

    home: str
    is_store: bool
    checks: tuple[Check, ...]

    @property
    def bad(self) -> tuple[Check, ...]:
        """Warnings and problems."""
        return tuple(c for c in self.checks if c.state in (Gravity.WARNING, Gravity.PROBLEM))
