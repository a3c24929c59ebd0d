"""The table of damages, which users of the library have, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from layerstore.testing import damages, damaging
from layerstore.testing.damages import COMBINED, FILES, LAYERS, LINKS, MOUNTS, PODMANS, RECORDS
from layerstore.testing.damaging import (
    CHAIN,
    DOCKER,
    LINK,
    PODMAN,
    STORE,
    TREE,
    Damage,
    Tree,
    dying,
    edit,
    hand_made,
    held,
    link_of,
    moved_while_mounted,
    overlay,
    records_of,
    relink,
    short,
    unmounted,
)
from tests.audit import contents

__all__ = [
    "ALL", "CHAIN", "COMBINED", "CONTENTS", "DOCKER", "Damage", "FILES", "LAYERS", "LINK", "LINKS", "MOUNTS",
    "PODMAN", "PODMANS", "RECORDS", "STORE", "TREE", "dying", "edit", "hand_made", "held", "link_of", "make",
    "moved_while_mounted", "overlay", "records_of", "relink", "short", "unmounted",
]  # fmt: skip


def make(place: Path, kind: str) -> Path:
    """A whole tree of a kind; Docker's with what its records say of the content."""
    home = damaging.make(place, kind)
    if kind == DOCKER:
        for layer in CHAIN:
            record = damaging.docker_record(home, layer)
            files = {f"of-{layer}": layer.encode()}
            (record / "tar-split.json.gz").write_bytes(contents.split(files))
    return home


def _content(
    name: str, code: str, do: Callable[[Path], object], kinds: tuple[str, ...] = (STORE,)
) -> Damage:
    def act(tree: Tree) -> object:
        return do(tree.home)

    return Damage(name, code, act, frozenset({"base"}), kinds, content=True)


CONTENTS = [
    *(
        _content(name, code, contents.damaged(do), (STORE, DOCKER) if theirs else (STORE,))
        for name, (code, do, theirs) in contents.DAMAGES.items()
    ),
    _content("manifest gone", "lost-manifest", contents.manifest_of(lambda path: path.unlink())),
    _content(
        "manifest empty", "lost-manifest", contents.manifest_of(lambda path: path.write_bytes(b""))
    ),
    _content(
        "tar-split garbled",
        "lost-manifest",
        lambda h: (damaging.docker_record(h, "base") / "tar-split.json.gz").write_bytes(b"no"),
        (DOCKER,),
    ),
    Damage(
        "manifest of nobody",
        "unrecorded-manifest",
        lambda tree: contents.forgotten(tree.home),
        frozenset({"manifests"}),
        (STORE,),
        note=True,
    ),
]

ALL = [*damages.ALL, *CONTENTS]
