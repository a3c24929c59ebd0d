"""Owns what is written beside an orphan that was set aside; it must not touch the disk.

The text is JSON for whoever reads it, and is not believed: every name in it is checked before a path
is made of it.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from layerstore.errors import InvalidLayerId
from layerstore.model import LINK_PATTERN, check_layer_id

VERSION: Final = 1
"""Of the note: a field may be added to it, none changes its meaning."""
OPERATION: Final = re.compile(r"[0-9a-f]{32}")
_WHEN: Final = "%Y-%m-%dT%H:%M:%SZ"


@attrs.frozen
class Note:
    """One orphan that was set aside: what it was, when, why, and what led to it."""

    operation: str
    layer: str
    home: str
    """The directory that it was in."""
    at: datetime
    why: str
    kind: str
    driver: str
    bytes: int | None = None
    parent: str | None = None
    links: tuple[str, ...] = ()
    """Its names in `l/`."""


def dump(note: Note) -> str:
    """The text of a note."""
    fields = attrs.asdict(note) | {"version": VERSION, "at": f"{note.at:{_WHEN}}"}
    return json.dumps(fields, indent=2) + "\n"


def load(text: str) -> Note:
    """The note of a text. ValueError for what is none, or names what cannot be."""
    found: Any = json.loads(text)
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(f"it is no note of version {VERSION}")
    try:
        note = Note(
            operation=_word(found["operation"], OPERATION),
            layer=check_layer_id(str(found["layer"])),
            home=str(found["home"]),
            at=datetime.strptime(str(found["at"]), _WHEN).replace(tzinfo=UTC),
            why=str(found["why"]),
            kind=str(found["kind"]),
            driver=str(found["driver"]),
            bytes=None if found.get("bytes") is None else int(found["bytes"]),
            parent=None if found.get("parent") is None else str(found["parent"]),
            links=tuple(_word(link, LINK_PATTERN) for link in found["links"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no {error}") from error
    except InvalidLayerId as error:
        raise ValueError(error.message) from error
    return note


def _word(value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{str(value)[:80]!r} is no name of ours")
    return value
