"""Owns `adopted.json`: that a store is only the index of a tree that another program owns; no database.

As long as the file is there, nothing opens the store to write, whatever else became of it: every
correction, removal and mount would be of somebody else's layers. It is the first file that an adopt
makes, and the last that a release removes.

Whether the tree has changed since is asked of two times: a layer that comes or goes changes the
directory that it is in, and that of the links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from layerstore.errors import AdoptedTree, StoreDamaged
from layerstore.fs import durable, files, layout
from layerstore.values import value

FORMAT: Final = 2
"""Of the description of such a store: a layerstore that does not know `adopted.json` refuses it."""
NAMES: Final = {"docker": "Docker", "containers-storage": "containers/storage (podman)"}
"""What the kinds of trees are called in a sentence."""


@value
@attrs.frozen(repr=False, eq=False)
class Adoption:
    """Whose tree it is, and where."""

    kind: str
    driver: str
    root: str
    tree: str
    """The directory with the layers: the home itself, or another one that the index is of."""
    seen: tuple[int, int] = (0, 0)
    """When the tree, and its links, had changed last, as the index has it: nanoseconds since 1970."""
    releasing: bool = False
    """A release has begun: what is left of the index is to be removed."""
    made_home: bool = False
    """The home was made for the index, and goes with it."""

    @property
    def owner(self) -> str:
        return NAMES.get(self.kind, self.kind)


def read(home: Path) -> Adoption | None:
    """Whose tree the store at `home` is the index of; None: its own. Raises StoreDamaged."""
    path = home / layout.ADOPTED
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise files.unreadable(path, error) from error
    try:
        values = json.loads(content)
        known = {field.name for field in attrs.fields(Adoption)}
        found = Adoption(**{name: value for name, value in values.items() if name in known})
        if not all(isinstance(text, str) for text in (found.kind, found.root, found.tree)):
            raise ValueError("a field is no text")
        tree, links = found.seen
        return attrs.evolve(found, seen=(int(tree), int(links)))
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreDamaged(
            f"{path} cannot be read: {error}.",
            hint="The store is an index of a tree of another program's: 'layerstore adopt' makes it anew.",
        ) from error


def write(home: Path, adoption: Adoption) -> None:
    """Replace `adopted.json`, durably."""
    text = json.dumps(attrs.asdict(adoption), indent=2) + "\n"
    durable.replace_file(os.fspath(home / layout.ADOPTED), text, mode=0o600)


def tree_of(home: Path) -> Path:
    """The directory with the layers of the store at `home`."""
    found = read(home)
    return home if found is None else Path(found.tree)


def refuse(home: Path) -> None:
    """Raise AdoptedTree where the layers are another program's: for whoever is about to write."""
    found = read(home)
    if found is not None:
        raise AdoptedTree(found.tree, found.owner, releasing=found.releasing)


def look(tree: str) -> tuple[int, int]:
    """When a tree, and its links, changed last; 0 for what is not there."""
    return _changed(tree), _changed(f"{tree}/{layout.LINKS}")


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def warnings(home: Path) -> Iterator[str]:
    """What a reader is told about whose layers these are."""
    found = read(home)
    if found is None:
        return
    if found.releasing:
        yield f"{found.tree} is being released: 'layerstore release-tree' ends that"
        return
    yield f"{found.tree} is {found.owner}'s: this is an index of it, and nothing in it is changed"
    if look(found.tree) != found.seen:
        yield (
            f"{found.owner} has made or removed layers since: 'layerstore adopt {found.root}' brings "
            "the index up to date"
        )
