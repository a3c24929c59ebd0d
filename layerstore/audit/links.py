"""Owns the findings about layers, their files and their links; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from layerstore import model as m
from layerstore.fs import files, layout

if TYPE_CHECKING:
    from layerstore.audit import View


def check(view: View) -> Iterator[m.Finding]:
    """Tree against index, both ways."""
    for layer in view.index.values():
        if layer.id not in view.busy:
            yield from _indexed(view, layer)
    yield from _unknown(view)
    yield from _links(view)


def _indexed(view: View, layer: m.Layer) -> Iterator[m.Finding]:
    directory = f"{view.home}/{layer.id}"

    def damage(code: str, message: str, path: str) -> m.Finding:
        return m.Finding(code, m.Severity.DAMAGE, f"{layer.id}: {message}", layer.id, path)

    found = view.tree.layers.get(layer.id)
    if found is None:
        yield damage("missing-layer", "the index has it, and its directory is gone", directory)
        return
    if layout.DIFF not in found.names:
        yield damage("missing-diff", "it has no diff directory", f"{directory}/{layout.DIFF}")
    if layer.parent is not None and layout.WORK not in found.names:
        yield damage("missing-work", "it has no work directory", f"{directory}/{layout.WORK}")
    if found.link != layer.link:
        message = files.difference("link", found.link, layer.link)
        yield damage("wrong-link-file", message, f"{directory}/{layout.LINK}")
    if (found.lower or "") != layer.lower or (found.lower is not None) != bool(layer.lower):
        message = files.difference("lower", found.lower, layer.lower)
        yield damage("wrong-lower-file", message, f"{directory}/{layout.LOWER}")
    reads = view.tree.links.get(layer.link)
    if reads != layout.link_target(layer.id):
        state = "is missing" if reads is None else f"reads {reads!r}"
        path = f"{view.home}/{layout.short_link(layer.link)}"
        yield damage("wrong-link", f"{layout.short_link(layer.link)} {state}", path)
    if layer.damage:
        yield damage("isolated-layer", f"recovery set it apart: {layer.damage}", directory)
    if found.committed and not layer.committed:
        yield m.Finding(
            "committed-without-child",
            m.Severity.NOTE,
            f"{layer.id} is marked committed and never had a child",
            layer.id,
        )


def _unknown(view: View) -> Iterator[m.Finding]:
    for name in view.tree.layers:
        if name in view.index or _in_flight(view, name):
            continue
        why = view.tree.broken(name)
        yield m.Finding(
            "unknown-layer",
            m.Severity.DRIFT if why is None else m.Severity.LEFTOVER,
            f"{name} is in the tree and not in the index" + (f"; {why}" if why else ""),
            name,
            f"{view.home}/{name}",
        )
    for name in view.tree.strangers:
        yield m.Finding(
            "stranger",
            m.Severity.NOTE,
            f"{name} is not of the layout, and is left alone",
            path=f"{view.home}/{name}",
        )


def _links(view: View) -> Iterator[m.Finding]:
    known = {layer.link for layer in view.index.values()}
    for link, reads in view.tree.links.items():
        if link in known:
            continue
        owner = view.tree.owner_of(link)
        target = reads.removeprefix("../").removesuffix(f"/{layout.DIFF}")
        if _in_flight(view, owner or target):
            continue
        yield m.Finding(
            "orphan-link",
            m.Severity.LEFTOVER,
            f"{layout.short_link(link)} reads {reads!r} and is no layer's link",
            owner,
            f"{view.home}/{layout.short_link(link)}",
        )


def _in_flight(view: View, layer: str) -> bool:
    return any(operation.layer == layer for operation in view.operations)
