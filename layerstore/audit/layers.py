"""Owns the findings about layers: their small files, their directories, their chains; it changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.census import Seen, has_directory
from layerstore.audit.tree import Indexed
from layerstore.audit.view import View, finding
from layerstore.fs import files, layout
from layerstore.model import LINK_PATTERN, MAX_DEPTH

_LOWER: Final = re.compile(r"l/[A-Z2-7]{26}(?::l/[A-Z2-7]{26})*")
_PART: Final = 29
"""Characters of a component in `lower`, with the colon before the next."""
_FOREIGN: Final = ("additionallayer", "composefs-data", "composefs-layers", "mapped", "diff1")
"""What containers/storage adds to a layer, and this program does not understand."""
_PODMAN_BASE: Final = "empty"
"""A base layer of containers/storage has it, and a `work` without a `lower`."""


def check(view: View) -> Iterator[m.Finding]:
    """Every layer of the tree, then those of the index that have no directory."""
    parents: frozenset[str | None] = frozenset() if view.records is not None else _parents(view)
    for layer, found in view.tree.layers.items():
        assert isinstance(found, Seen)
        if layer in view.busy:
            continue
        row = view.row(layer)
        if view.records is not None and row is None:
            yield from _unknown(view, layer, found)
            continue
        if row is None and _is_half_made(view, layer, found):
            yield _half_made(view, layer, found)
            continue
        yield from _link_file(view, layer, found, row)
        yield from _lower_file(view, layer, found, row)
        yield from _directories(view, layer, found, row)
        if found.committed and (layer not in parents if row is None else not row.committed):
            said = f"{layer} is marked committed and has no child"
            path = _at(view, layer, layout.COMMITTED)
            yield finding("committed-without-child", said, layer, path)
    for layer, why in view.tree.unreadable.items():
        path = f"{view.home}/{layer}"
        yield finding("unreadable", f"{layer} cannot be looked at: {why}", layer, path)
    yield from _missing(view)


def _at(view: View, layer: str, name: str) -> str:
    return f"{view.home}/{layer}/{name}"


def _unknown(view: View, layer: str, found: Seen) -> Iterator[m.Finding]:
    """In the tree, and not in an index that can be read."""
    if view.in_flight(layer):
        return
    why = view.tree.broken(layer)
    if why is not None and _is_half_made(view, layer, found):
        yield _half_made(view, layer, found)
        return
    yield finding(
        "unknown-layer",
        f"{layer} is in the tree and not in the index" + (f"; {why}" if why else ""),
        layer,
        f"{view.home}/{layer}",
        severity=m.Severity.DRIFT if why is None else m.Severity.LEFTOVER,
    )


def _is_half_made(view: View, layer: str, found: Seen) -> bool:
    """What a killed create leaves: nothing that would let anybody call it a layer.

    Content, a link in `l/` that leads to it, or a `lower`, say that it was one.
    """
    if found.lower is not None or found.committed or found.has_content:
        return False
    if found.link and (layout.DIFF in found.names or found.link in view.tree.links):
        return False
    return layout.link_target(layer) not in view.led_to


def _half_made(view: View, layer: str, found: Seen) -> m.Finding:
    has = ", ".join(sorted(found.names)) or "nothing"
    return finding(
        "half-made-layer",
        f"{layer} was being made, or is at this moment: it has {has}",
        layer,
        f"{view.home}/{layer}",
    )


def _missing(view: View) -> Iterator[m.Finding]:
    if view.records is None:
        return
    for row in view.records.index.values():
        if row.id in view.tree.layers or row.id in view.tree.unreadable:
            continue
        if not view.in_flight(row.id):
            yield finding(
                "missing-layer",
                f"{row.id}: the index has it, and its directory is gone",
                row.id,
                f"{view.home}/{row.id}",
            )


# --- link -----------------------------------------------------------------------------------------


def _link_file(view: View, layer: str, found: Seen, row: Indexed | None) -> Iterator[m.Finding]:
    text = found.link
    link = row.link if row is not None else text
    path = _at(view, layer, layout.LINK)
    if text is None:
        yield finding("missing-link-file", f"{layer}: its link file is missing", layer, path)
    elif not text:
        yield finding("empty-link-file", f"{layer}: its link file is empty", layer, path)
    elif not LINK_PATTERN.fullmatch(text):
        said = f"its link file is no link id but {text[:60]!r}"
        yield finding("garbled-link-file", f"{layer}: {said}", layer, path)
    elif row is not None and text != row.link:
        said = files.difference("link", text, row.link)
        yield finding("wrong-link-file", f"{layer}: {said}", layer, path)
    elif row is None and _is_anothers(view, layer, text):
        said = f"its link file reads {text}, which is the link of {view.known.get(text)}"
        yield finding("wrong-link-file", f"{layer}: {said}", layer, path)
        return
    if link and LINK_PATTERN.fullmatch(link) and view.tree.links_facts is not None:
        yield from _link(view, layer, link)


def _is_anothers(view: View, layer: str, link: str) -> bool:
    """Whether a link id in a layer's file is really another layer's, or another is really its own."""
    reads = view.tree.links.get(link)
    if reads == layout.link_target(layer):
        return False
    if view.known.get(link, layer) != layer:
        return True
    return reads is not None and layout.link_target(layer) in view.led_to


def _link(view: View, layer: str, link: str) -> Iterator[m.Finding]:
    """`l/<LINK>` of a layer whose link is known."""
    reads = view.tree.links.get(link)
    if reads == layout.link_target(layer):
        return
    short = layout.short_link(link)
    path = f"{view.home}/{short}"
    if reads is None:
        yield finding("missing-link", f"{layer}: {short} is missing", layer, path)
    else:
        yield finding("wrong-link", f"{layer}: {short} reads {reads!r}", layer, path)


# --- lower ----------------------------------------------------------------------------------------


def _lower_file(view: View, layer: str, found: Seen, row: Indexed | None) -> Iterator[m.Finding]:
    text = found.lower
    path = _at(view, layer, layout.LOWER)
    if text is None:
        if row.lower if row is not None else _lost_its_lower(found):
            yield finding("missing-lower-file", f"{layer}: its lower file is missing", layer, path)
        return
    if not text:
        said = "its lower file is empty: mounted so, it would show the whole store"
        yield finding("empty-lower-file", f"{layer}: {said}", layer, path)
        return
    if row is not None and text == row.lower:
        return  # if the parent's own differs from that, the parent is damaged, and says so
    if not _LOWER.fullmatch(text):
        said = f"its lower file is garbled: {text[:60]!r}"
        yield finding("garbled-lower-file", f"{layer}: {said}", layer, path)
        return
    if (len(text) + 1) // _PART > MAX_DEPTH:
        said = f"{(len(text) + 1) // _PART} layers below it, and {MAX_DEPTH} can be mounted"
        yield finding("too-deep", f"{layer}: {said}", layer, path)
    code, said = _disagrees(view, layer, text, row)
    if code:
        yield finding(code, f"{layer}: {said}", layer, path)


def _lost_its_lower(found: Seen) -> bool:
    """A `work` without a `lower` would be taken for a base layer, and its content without its parent."""
    return layout.WORK in found.names and _PODMAN_BASE not in found.names


def _disagrees(view: View, layer: str, text: str, row: Indexed | None) -> tuple[str, str]:
    """(code, what) where a well-formed `lower` is not the parent in front of the parent's own."""
    parent = view.who_has(text[2 : _PART - 1])
    rest = text[_PART:]
    if row is None and parent in view.tree.unreadable:
        return "", ""
    if row is None and parent is not None and parent in view.tree.layers:
        own = view.tree.layers[parent].lower
        if (own or "") == rest or (own is None and _is_damaged(view, parent)):
            return "", ""
    links = layout.lower_links(text)
    chain = [view.who_has(link) for link in links]
    unknown = [link for link, owner in zip(links, chain, strict=True) if owner is None]
    if layer in chain or len(set(links)) < len(links) or _goes_round(view, layer):
        return (
            "lower-cycle",
            f"by its lower file it is below itself, or something is twice: {text[:90]}",
        )
    if unknown:
        return "unknown-lower", f"its lower file names l/{unknown[0]}, which leads to no layer"
    if row is not None:
        return "wrong-lower-file", files.difference("lower", text, row.lower)
    return "wrong-lower-file", f"its lower file disagrees with the one of its parent {parent}"


def _is_damaged(view: View, layer: str) -> bool:
    """Whether the `lower` of a layer is known to be lost, so that it contradicts nobody."""
    found = view.tree.layers[layer]
    assert isinstance(found, Seen)
    return found.lower is None and _lost_its_lower(found)


def _goes_round(view: View, layer: str) -> bool:
    """Whether the way up from a layer comes back to it; safe where it comes back elsewhere."""
    passed: set[str] = set()
    at: str | None = layer
    while at is not None and at not in passed and len(passed) <= MAX_DEPTH:
        passed.add(at)
        above = view.tree.layers.get(at)
        lower = above.lower if above is not None else None
        at = view.who_has(lower[2 : _PART - 1]) if lower else None
    return at == layer


# --- directories ----------------------------------------------------------------------------------


def _directories(view: View, layer: str, found: Seen, row: Indexed | None) -> Iterator[m.Finding]:
    if not has_directory(found, layout.DIFF):
        path = _at(view, layer, layout.DIFF)
        if layout.DIFF in found.names:
            said = f"{layer}: its diff is no directory"
            code = "missing-diff" if view.records is not None else "foreign-layer"
            yield finding(code, said, layer, path)
        else:
            yield finding("missing-diff", f"{layer}: it has no diff directory", layer, path)
    has_parent = bool(found.lower) if row is None else row.parent is not None
    if has_parent and not has_directory(found, layout.WORK):
        path = _at(view, layer, layout.WORK)
        yield finding("missing-work", f"{layer}: it has no work directory", layer, path)
    if found.volatile and layer not in view.places:
        said = "it was mounted with volatile and not unmounted: what was written may be lost"
        yield finding("volatile-work", f"{layer}: {said}", layer, _at(view, layer, layout.WORK))
    for name in found.unpacking:
        said = f"an extraction was interrupted and left diff/{name}: files may be missing"
        path = _at(view, layer, f"{layout.DIFF}/{name}")
        yield finding("half-unpacked", f"{layer}: {said}", layer, path)
    for name in _FOREIGN if view.records is None else ():
        if name in found.names:
            said = f"{layer} has {name}, which is containers/storage's; it is left alone"
            yield finding("foreign-layer", said, layer, _at(view, layer, name))
    if row is not None and row.damage:
        said = f"{layer}: recovery set it apart: {row.damage}"
        yield finding("isolated-layer", said, layer, f"{view.home}/{layer}")


def _parents(view: View) -> frozenset[str | None]:
    """The layers of a tree that others stand on."""
    return frozenset(
        view.who_has(found.lower[2 : _PART - 1])
        for found in view.tree.layers.values()
        if found.lower
    )
