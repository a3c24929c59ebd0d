"""Owns the findings about the directory `l/` and what is in it that no layer has; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from layerstore import model as m
from layerstore.audit.view import View, finding
from layerstore.fs import files, layout
from layerstore.model import LINK_PATTERN


def check(view: View) -> Iterator[m.Finding]:
    """The links that no layer has. What a layer's own link should be, `layers` looks at."""
    if view.tree.links_facts is None:
        if view.tree.layers:
            yield finding(
                "missing-links",
                f"the directory {layout.LINKS}/ is gone: no layer with a parent can be mounted",
                path=f"{view.home}/{layout.LINKS}",
            )
        return
    for link, reads in view.tree.links.items():
        owner = view.known.get(link)
        if owner is None and (found := _unowned(view, link, reads)) is not None:
            yield found
    for name in view.tree.bad_links:
        short = layout.short_link(name)
        said = f"{short} is no link id, and is left alone"
        yield finding("not-a-link", said, path=f"{view.home}/{short}")


def _unowned(view: View, link: str, reads: str) -> m.Finding | None:
    """What a link is that no index and no `link` file knows."""
    short = layout.short_link(link)
    path = f"{view.home}/{short}"
    if reads == files.NOT_A_LINK:
        return finding("not-a-link", f"{short} is no symbolic link", path=path)
    target = layout.linked_layer(reads)
    if target is None:
        said = f"{short} reads {reads!r}, which is outside of the layout"
        return finding("outside-link", said, path=path)
    if view.in_flight(target) or target in view.busy:
        return None
    if target not in view.tree.layers:
        said = f"{short} reads {reads!r} and is no layer's link"
        return finding("orphan-link", said, path=path)
    own = view.tree.layers[target].link
    row = view.row(target)
    if row is None and not (own and LINK_PATTERN.fullmatch(own)):
        return None  # it is this link that its file should name, and that is said of the file
    if row is None and view.tree.links.get(own or "") != reads:
        return None  # its file names another one, which does not lead to it
    said = f"{short} leads to {target}, whose link is {row.link if row is not None else own}"
    return finding("doubled-link", said, target, path)
