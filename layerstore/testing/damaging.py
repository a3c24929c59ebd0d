"""Owns how a tree or a store is damaged on purpose; what can be wrong with one is the table in
`damages`.

A damage is made for a tree of six layers, which `make` makes. In any other tree other layers play
their parts: a `Tree` says which, and `cast` finds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.db import engine
from layerstore.fs import layout
from layerstore.fs.trace import set_trace
from layerstore.legacy.docker import chain_of
from layerstore.store import Store

STORE, TREE, PODMAN, DOCKER = "store", "tree", "podman", "docker"
"""Ours; the same without our database; with `layers.json` beside it; with Docker's layerdb."""

CHAIN: Final[Mapping[str, str | None]] = {
    "base": None,
    "mid": "base",
    "top": "mid",
    "side": "base",
    "alone": None,
    "lone": None,
}
"""Every layer of the trees, with its parent. `alone` and `lone` have nothing to do with the others."""
LINK: Final = "B" * 26
"""A link that no layer has."""


@attrs.frozen
class Tree:
    """A home, and which of its layers plays which part: `tree / "mid/link"` is that one's file."""

    home: Path
    parts: Mapping[str, str] = attrs.field(factory=dict)

    def __truediv__(self, path: str) -> Path:
        first, slash, rest = path.partition("/")
        return self.home / f"{self.name(first)}{slash}{rest}"

    def __fspath__(self) -> str:
        return os.fspath(self.home)

    def __str__(self) -> str:
        return str(self.home)

    @property
    def parent(self) -> Path:
        return self.home.parent

    def name(self, part: str) -> str:
        """The layer that plays a part; ValueError where the tree has none."""
        if part in CHAIN and self.parts:
            if part not in self.parts:
                raise ValueError(f"{self.home} has no layer that could be '{part}' in this damage")
            return self.parts[part]
        return part


@attrs.frozen
class Damage:
    """One thing that goes wrong."""

    name: str
    code: str
    """What the audit calls it."""
    act: Callable[[Tree], object]
    touches: frozenset[str]
    """Damages that touch the same do not combine: one may hide the other."""
    kinds: tuple[str, ...]
    note: bool = False
    """It is no damage, only worth a word."""
    lost: bool = False
    """It looks like lost metadata."""
    content: bool = False
    """It is in what a layer holds, which an audit reads where it is asked to."""

    def do(self, home: Path | Tree) -> object:
        """Do it to a tree that `make` made, or to a `Tree`."""
        return self.act(home if isinstance(home, Tree) else Tree(home))


Place = Path | Tree


def cast(home: Path, **parts: str) -> Tree:
    """Find the layers of a tree that can play the parts of a damage; `parts` are given.

    `mid` is the child of a base layer, `top` a child of it that has none, `side` another child of
    the base; `alone` and `lone` have no parent, and no child where there are such layers.
    """
    parents = _parents(home)
    below = set(parents.values())
    leaves = {layer for layer in parents if layer not in below}
    roles: dict[str, str] = dict(parts)

    def fill(part: str, *choices: set[str]) -> None:
        for choice in choices:
            free = sorted(choice - set(roles.values()))
            if part not in roles and free:
                roles[part] = free[0]

    def children(layer: str | None) -> set[str]:
        return {child for child, parent in parents.items() if layer and parent == layer}

    mids = {layer for layer, parent in parents.items() if parent and not parents.get(parent)}
    with_tops = {layer for layer in mids if children(layer) & leaves}
    with_sides = {layer for layer in with_tops if len(children(parents[layer])) > 1}
    fill("mid", with_sides, with_tops, mids)
    fill("top", children(roles.get("mid")) & leaves)
    base = parents.get(roles.get("mid", ""))
    if base:
        roles.setdefault("base", base)
    fill("base", {layer for layer, parent in parents.items() if parent is None})
    fill("side", children(roles.get("base")) & leaves)
    single = {layer for layer, parent in parents.items() if parent is None}
    fill("alone", single & leaves, single)
    fill("lone", single & leaves, single)
    return Tree(home, roles)


def _parents(home: Path) -> dict[str, str | None]:
    """Each layer of a whole tree with its parent, by its own files."""
    owners = {
        entry.name: os.readlink(entry).split("/")[1]
        for entry in (home / "l").iterdir()
        if entry.is_symlink()
    }
    found: dict[str, str | None] = {}
    for layer in set(owners.values()):
        lower = home / layer / "lower"
        text = lower.read_text() if lower.is_file() else ""
        found[layer] = owners.get(text.split(":")[0].removeprefix("l/")) if text else None
    return found


def make(place: Path, kind: str) -> Path:
    """A whole tree of a kind below `place`; its home."""
    home = place / {STORE: "home", TREE: "tree", PODMAN: "overlay", DOCKER: "overlay2"}[kind]
    Store.initialize(home)
    with Store.open(home) as store:
        for layer, parent in CHAIN.items():
            store.create(layer, parent=parent)
            (home / layer / "diff" / f"of-{layer}").write_text(layer)
    if kind != STORE:
        shutil.rmtree(home / layout.OWN)
    if kind == PODMAN:
        _podman(home)
    if kind == DOCKER:
        _docker(home)
    return home


def _docker(home: Path) -> None:
    """What Docker records of each layer, without an image."""
    image = home.parent / "image" / home.name
    chains: dict[str, str] = {}
    for layer, parent in CHAIN.items():
        diff_id = f"sha256:{hashlib.sha256(layer.encode()).hexdigest()}"
        above = (chains[parent],) if parent else ()
        chains[layer] = chain_of((*above, diff_id))[-1]
        record = image / "layerdb/sha256" / chains[layer].removeprefix("sha256:")
        record.mkdir(parents=True)
        fields = {"cache-id": layer, "diff": diff_id, "size": str(len(f"{layer}"))}
        if parent:
            fields["parent"] = chains[parent]
        for name, text in fields.items():
            (record / name).write_text(text)
    (image / "repositories.json").write_text('{"Repositories":{}}')


def docker_record(home: Place, layer: str) -> Path:
    """The directory of Docker's record of a layer."""
    base = home.parent / "image" / os.path.basename(home) / "layerdb/sha256"
    return next(path.parent for path in base.glob("*/cache-id") if path.read_text() == layer)


def _podman(home: Path) -> None:
    for layer, parent in CHAIN.items():
        for name in ("merged", "work", *(() if parent else ("empty",))):
            (home / layer / name).mkdir(exist_ok=True, mode=0o700)
    records = [{"id": layer, "parent": parent or ""} for layer, parent in CHAIN.items()]
    (home.parent / "overlay-layers").mkdir()
    records_of(home).write_text(json.dumps(records))


Record = dict[str, Any]


def _name(home: Place, part: str) -> str:
    return home.name(part) if isinstance(home, Tree) else part


def records_of(home: Place) -> Path:
    """Where podman keeps its records of a tree."""
    return home.parent / f"{os.path.basename(home)}-layers/layers.json"


# --- small tools ----------------------------------------------------------------------------------


def link_of(home: Place, layer: str) -> str:
    """The link of a layer of a whole tree, by `l/`: its file may be damaged already."""
    target = f"../{_name(home, layer)}/diff"
    for entry in sorted((home / "l").iterdir()):
        if entry.is_symlink() and os.readlink(entry) == target:
            return entry.name
    raise AssertionError(f"{layer} has no link")


def short(home: Place, layer: str) -> Path:
    """`l/<LINK>` of a layer."""
    return home / "l" / link_of(home, layer)


def relink(path: Path, target: str) -> None:
    """Let a link lead elsewhere."""
    path.unlink()
    path.symlink_to(target)


def edit(home: Place, statement: str) -> None:
    """Change the database behind the library's back, in another process."""
    pid = os.fork()
    if pid == 0:
        connection = engine.driver.connect(str(home / layout.DATABASE))
        connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def dying(home: Place, work: Callable[[Store], object], *, at: str = "") -> None:
    """Open the store in a process that dies with it open, or at a trace point."""
    pid = os.fork()
    if pid == 0:

        def hook(point: str) -> None:
            if at in point:
                os.kill(os.getpid(), signal.SIGKILL)

        store = Store.open(home)
        if at:
            set_trace(hook)
        work(store)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def overlay(home: Place, layer: str, *lowers: str) -> None:
    """Mount a layer by hand, upon these."""
    (home / layer / "merged").mkdir(exist_ok=True)
    top = home / layer
    below = ":".join(f"{home / lower}/diff" for lower in lowers)
    options = f"lowerdir={below},upperdir={top}/diff,workdir={top}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, f"{top}/merged"]
    subprocess.run(command, check=True, capture_output=True)


def held(home: Place, layer: str, holder: str = "docker") -> None:
    """Mounted, and held by a name that outlives this."""
    with Store.open(home) as store:
        store.get(_name(home, layer), holder=holder)


def unmounted(home: Place, layer: str) -> None:
    """Held, and unmounted behind the store's back."""
    held(home, layer)
    subprocess.run(["umount", f"{home / layer}/merged"], check=True)


def hand_made(home: Place, layer: str) -> None:
    """A whole base layer that no index knows."""
    (home / layer / "diff").mkdir(parents=True)
    (home / layer / "link").write_text(LINK[:-1] + "C")
    (home / "l" / (LINK[:-1] + "C")).symlink_to(f"../{layer}/diff")


def moved_while_mounted(home: Place) -> None:
    """In the trash, with a mount upon it."""
    overlay(home, "side", "base")
    (home / "side").rename(home / layout.TRASH / ("0" * 32))


# --- what the table is made of ---------------------------------------------------------------------


def anywhere(
    name: str, code: str, do: Callable[[Tree], object], touches: str, **more: bool
) -> Damage:
    return Damage(name, code, do, frozenset(touches.split()), (STORE, TREE), **more)


def in_stores(
    name: str, code: str, do: Callable[[Tree], object], touches: str, **more: bool
) -> Damage:
    return Damage(name, code, do, frozenset(touches.split()), (STORE,), **more)


def in_podmans(name: str, code: str, do: Callable[[Tree], object], **more: bool) -> Damage:
    return Damage(name, code, do, frozenset({"records"}), (PODMAN,), **more)


def writing(path: str, text: str) -> Callable[[Tree], object]:
    return lambda home: (home / path).write_text(text)


def making(path: str) -> Callable[[Tree], object]:
    return lambda home: (home / path).mkdir(parents=True)


def records(
    change: Callable[[list[Record], Callable[[str], Record]], object],
) -> Callable[[Tree], object]:
    def do(home: Place) -> None:
        found = json.loads(records_of(home).read_text())
        change(found, lambda part: next(r for r in found if r["id"] == _name(home, part)))
        records_of(home).write_text(json.dumps(found))

    return do


def as_directory(home: Place) -> None:
    (home / "mid/link").unlink()
    (home / "mid/link").mkdir()


def file_for_link(home: Place) -> None:
    path = short(home, "side")
    path.unlink()
    path.write_text(f"../{_name(home, 'side')}/diff")


def deep() -> str:
    """A lower file of more layers than there can be."""
    return ":".join(
        f"l/{number:026}".translate(str.maketrans("0189", "ABCD")) for number in range(500)
    )


def file_for_diff(home: Place) -> None:
    shutil.rmtree(home / "alone/diff")
    (home / "alone/diff").write_text("")


def unheld(home: Place) -> None:
    held(home, "side")
    edit(home, "DELETE FROM holds")


def empty_link_in_a_new_layer(home: Place) -> None:
    (home / "newer/diff").mkdir(parents=True)
    (home / "newer/link").write_text("")


def without_database(home: Place) -> None:
    for path in (home / layout.OWN).glob("journal.db*"):
        path.unlink()


def pages_garbled(home: Place) -> None:
    """All but the first page: it can be opened, and not be read."""
    edit(home, "PRAGMA user_version")
    with open(home / layout.DATABASE, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def without_layers(home: Place) -> None:
    for layer in CHAIN:
        shutil.rmtree(home / layer)
