"""Owns what the index is to have of each layer of another program's tree; it must not write, nor decide.

The tree says what a layer is, and the records whose. Where a layer's own files are damaged, its link
is the one in `l/` that leads to it, and its parent the one that is recorded: the layer is in the index
then, with what is wrong with it, and those upon it are, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from layerstore import events as e
from layerstore import model as m
from layerstore.audit.tree import LayerFiles, Tree
from layerstore.fs import files, layout
from layerstore.legacy.manifest import HALF, Manifest, Record, Role


@attrs.frozen
class Wanted:
    """What the index is to have, parents before their children, and what it cannot have, with the reason."""

    layers: tuple[e.LayerFound, ...]
    left: Mapping[str, str]


def wanted(tree: Tree, manifest: Manifest) -> Wanted:
    """What the index is to have of a tree. Quotas are not asked for here."""
    return _Reading(tree, manifest).all()


class _Reading:
    """One tree being read into events."""

    def __init__(self, tree: Tree, manifest: Manifest) -> None:
        self._tree = tree
        self._kind = manifest.kind
        self._records = manifest.by_layer()
        self._names, self._digests = _tops(manifest)
        self._leading = _leading(tree)
        self._by_link: dict[str, str] = {}
        self._links = self._distinct_links()
        self._made: dict[str, e.LayerFound] = {}
        self._left: dict[str, str] = {}
        self._parents = {name: self._parent(name) for name in tree.layers}
        self._with_children = {parent for parent in self._parents.values() if parent is not None}

    def all(self) -> Wanted:
        for name in self._tree.layers:
            self._take(name)
        return Wanted(tuple(self._made.values()), dict(sorted(self._left.items())))

    def _take(self, name: str) -> None:
        """Take a layer in, after what is below it."""
        chain: list[str] = []
        at: str | None = name
        while at is not None and at not in self._made and at not in self._left:
            if at in chain:
                self._left[at] = "it is below itself"
                break
            chain.append(at)
            at = self._parents.get(at)
        for layer in reversed(chain):
            if layer not in self._left:
                self._one(layer)

    def _one(self, name: str) -> None:
        link, parent = self._links.get(name), self._parents[name]
        above = None if parent is None else self._made.get(parent)
        if link is None:
            self._left[name] = "nothing says any more which link it has"
        elif parent is not None and above is None:
            why = self._left.get(parent, "it is not there")
            self._left[name] = f"its parent {parent} is not in the index: {why}"
        elif above is not None and above.depth >= m.MAX_DEPTH:
            self._left[name] = f"it has more than {m.MAX_DEPTH} layers below it"
        else:
            self._made[name] = self._found(name, link, above)

    def _found(self, name: str, link: str, parent: e.LayerFound | None) -> e.LayerFound:
        seen = self._tree.layers[name]
        lower = "" if parent is None else layout.child_lower(parent.link, parent.lower)
        records = self._records.get(name, ())
        record = _telling(records)
        return e.LayerFound(
            layer=name,
            link=link,
            parent=None if parent is None else parent.layer,
            lower=lower,
            depth=0 if parent is None else parent.depth + 1,
            committed=seen.committed or name in self._with_children,
            damage=self._damage(name, seen, link, lower),
            origin=self._kind,
            source="" if record is None else record.source.value,
            record="" if record is None else _text(record.name),
            role=_role(records),
            names=self._names.get(name, ()),
            digests=self._digests.get(name, ()),
            diff_id=next((_text(one.diff_id) for one in records if one.diff_id), ""),
            size=next((one.size for one in records if one.size is not None), None),
            created=next((_text(one.created) for one in records if one.created), ""),
        )

    def _damage(self, name: str, seen: LayerFiles, link: str, lower: str) -> str | None:
        if layout.DIFF not in seen.names:
            return "it has no diff directory"
        if seen.link != link:
            return files.difference("link", seen.link, link)
        if self._tree.links.get(link) != layout.link_target(name):
            return f"l/{link} does not lead to it"
        if (seen.lower or "") != lower or (seen.lower is not None) != bool(lower):
            return files.difference("lower", seen.lower, lower)
        return None

    def _parent(self, name: str) -> str | None:
        """By its `lower`, else by a record: who is directly below."""
        seen = self._tree.layers[name]
        first = (seen.lower or "").partition(":")[0]
        if first.startswith(f"{layout.LINKS}/"):
            short = first.removeprefix(f"{layout.LINKS}/")
            owner = self._tree.owner_of(short) or self._by_link.get(short)
            if owner is not None:
                return owner
        recorded = (one.parent for one in self._records.get(name, ()) if one.parent)
        if seen.lower is None and layout.WORK not in seen.names:
            return None  # whole as it is: a base layer, whatever is recorded
        return next(recorded, None)

    def _distinct_links(self) -> dict[str, str]:
        """The link of each layer that has one of its own: what its file reads, else what leads to it."""
        found: dict[str, str] = {}
        for name, seen in self._tree.layers.items():
            link = seen.link or ""
            leads = self._tree.links.get(link) == layout.link_target(name)
            if leads and m.LINK_PATTERN.fullmatch(link):
                self._by_link[link] = name
        for name, seen in self._tree.layers.items():
            own = seen.link if seen.link and m.LINK_PATTERN.fullmatch(seen.link) else None
            leading = self._leading.get(name, ())
            if own is not None and self._by_link.setdefault(own, name) == name:
                found[name] = own
            elif len(leading) == 1 and self._by_link.setdefault(leading[0], name) == name:
                found[name] = leading[0]
        return found


def _leading(tree: Tree) -> dict[str, tuple[str, ...]]:
    """The links in `l/` that lead to each layer."""
    found: dict[str, tuple[str, ...]] = {}
    for link in tree.links:
        owner = tree.owner_of(link)
        if owner is not None:
            found[owner] = (*found.get(owner, ()), link)
    return found


def _tops(manifest: Manifest) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The names of what each layer is the top of, and the digests of these images."""
    names: dict[str, list[str]] = {}
    digests: dict[str, list[str]] = {}
    for image in manifest.images:
        if image.layers and not image.missing:
            names.setdefault(image.layers[-1], []).extend(image.names)
            digests.setdefault(image.layers[-1], []).extend((image.id, *image.digests))
    for container in manifest.containers:
        if container.layers:
            name = container.name or container.id
            names.setdefault(container.layers[0], []).append(name)
    return _sorted(names), _sorted(digests)


def _sorted(found: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {layer: tuple(sorted({_text(name) for name in names})) for layer, names in found.items()}


def _telling(records: tuple[Record, ...]) -> Record | None:
    """The record that says most: one that is whole, if there is any."""
    whole = [record for record in records if record.source not in HALF]
    return next(iter((*whole, *records)), None)


def _role(records: tuple[Record, ...]) -> str:
    """What it is: an image's layer is that, also where the cache knows it."""
    roles = {record.role for record in records}
    order = (Role.IMAGE, Role.CONTAINER, Role.INIT, Role.CACHE)
    return next((role.value for role in order if role in roles), "")


def _text(found: str) -> str:
    """A text of somebody's record, as a row can hold it."""
    return found.encode(errors="replace").decode()
