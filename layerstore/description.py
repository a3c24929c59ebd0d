"""Owns `store.json`: what a store says about itself outside its database; it must not open the database.

It tells "the database is lost" from "there are no layers yet", and it keeps the high-water mark of
`seq`, so that a number that a client saw never comes back with another meaning.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import attrs

from layerstore.errors import NoStore, SchemaTooNew, StoreDamaged
from layerstore.fs import durable, files, layout
from layerstore.values import value

FORMAT: Final = 1
ADOPTED_FORMAT: Final = 2
"""Of an index of another program's tree: who does not know what that is must not open it."""


@value
@attrs.frozen(repr=False, eq=False)
class Description:
    """The content of `store.json`."""

    store_id: str
    epoch: str
    format: int
    max_depth: int
    high_water: int
    """No event has a seq above this; a journal that is begun anew starts above it."""


def read(home: Path) -> Description:
    """The description of the store at `home`; NoStore if there is none."""
    path = home / layout.STORE_FILE
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not home.is_dir():
            raise NoStore(f"There is no directory {home}.", hint="Is the path right?") from error
        raise NoStore(
            f"{home} is not a layerstore.",
            hint=f"'layerstore --home {home} init' makes it one; if it was one and its "
            f"{layout.STORE_FILE} is lost, 'layerstore --home {home} db rebuild'.",
        ) from error
    except OSError as error:
        raise files.unreadable(path, error) from error
    try:
        values = json.loads(content)
        if values["format"] > ADOPTED_FORMAT:
            raise SchemaTooNew(
                f"The store at {home} has format {values['format']}; this layerstore knows "
                f"{ADOPTED_FORMAT}.",
                hint="Use the layerstore that made it, or a newer one.",
            )
        return _checked(Description(**values))
    except (ValueError, TypeError, KeyError) as error:
        raise StoreDamaged(
            f"{path} cannot be read: {error}.",
            hint=f"'layerstore --home {home} db rebuild' makes the store's own files anew.",
        ) from error


_KINDS: Final = {"store_id": str, "epoch": str, "max_depth": int, "high_water": int}


def _checked(found: Description) -> Description:
    """The same, if every field is of its kind."""
    for name, kind in _KINDS.items():
        if not isinstance(getattr(found, name), kind):
            raise ValueError(f"{name} is no {kind.__name__}")
    return found


def new(max_depth: int, *, format: int = FORMAT) -> Description:  # noqa: A002 - the field's name
    """Of a store that did not exist before."""
    return Description(
        store_id=os.urandom(16).hex(),
        epoch=new_epoch(),
        format=format,
        max_depth=max_depth,
        high_water=0,
    )


def new_epoch() -> str:
    """A name for the numbers that follow: (epoch, seq) means one event for ever."""
    return os.urandom(8).hex()


def write(home: Path, description: Description) -> None:
    """Replace `store.json`, durably."""
    text = json.dumps(attrs.asdict(description), indent=2) + "\n"
    durable.replace_file(os.fspath(home / layout.STORE_FILE), text, mode=0o600)
