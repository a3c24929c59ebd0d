"""Owns bringing index and tree together after an unclean end; it must not delete content.

The tree is listed first and the journal read afterwards; what is in flight is left alone. Each
correction is an operation of its own, whose intent transaction checks the finding again. What is
not understood is left as it is, for the audit to report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from layerstore import burial, decide, projects, recovery, rows
from layerstore import events as e
from layerstore import model as m
from layerstore.audit.tree import Indexed, LayerFiles, Tree, survey
from layerstore.db import statements as sql
from layerstore.errors import DiskFull, LayerstoreError
from layerstore.fs import files, layout, mountinfo
from layerstore.journal import InFlight, Transaction
from layerstore.model import MAX_DEPTH
from layerstore.recovery import Hands

SAFE: Final = {
    "missing-link": "corrected",
    "orphan-link": "corrected",
    "staging-leftover": "corrected",
    "trash-leftover": "corrected",
    "merged-leftover": "corrected",
    "unknown-layer": "adopted",
    "isolated-layer": "restored",
    "unknown-mount": "adopted",
    "lost-mount": "unmounted",
}
"""Which findings of an audit are safe to mend by themselves, and what `Settled.what` says then.

Whatever else an audit finds is left to a repair, that somebody asked for: a layer with such damage is
isolated. After each of these the tree is what a repair makes of it, but for two things: what a repair
sets aside, an open removes, as it holds nothing; and a layer in the trash that the index has was being
removed, where a cut took the intent (ADR 0026)."""


def compare(hands: Hands) -> Iterator[m.Settled]:
    """Compare the whole tree with the index, and settle what can be settled safely."""
    tree, index, busy = _look(hands)
    yield from _finish_removes(hands, tree, index, busy)
    yield from _check_indexed(hands, tree, index, busy)
    yield from _adopt(hands, tree, index, busy)
    yield from _mark_parents(hands, tree, index)
    yield from _drop_links(hands, tree, index)
    yield from _sweep(hands, tree, busy)
    yield from _check_mounts(hands, tree)
    yield from _drop_merged(hands, tree)


def take_in(hands: Hands) -> Iterator[m.Settled]:
    """The part of a comparison that a repair asks for, which sees to the rest of the tree itself.

    Whole layers that the index does not know are taken in, and layers that were set apart and are whole
    again can be used; of these also a link that is missing is made, and the mark that they have children.
    """
    tree, index, busy = _look(hands)
    apart = {
        name: row
        for name, row in index.items()
        if row.damage is not None and _damage(tree, row) is None
    }
    yield from _check_indexed(hands, tree, apart, busy)
    yield from _adopt(hands, tree, index, busy)


def _look(hands: Hands) -> tuple[Tree, dict[str, Indexed], set[str]]:
    """The tree, then the index, and the layers and operations of whatever is in flight."""
    tree = survey(hands.home)
    read = hands.journal.database.read
    index = {row[0]: Indexed(*row) for row in read(sql.SELECT_INDEX)}
    operations = [rows.operation(row) for row in read(sql.SELECT_OPERATIONS)]
    return tree, index, {o.layer for o in operations} | {o.id for o in operations}


def _attempt(
    hands: Hands, what: str, layer: str, message: str, act: Callable[[Hands], bool]
) -> Iterator[m.Settled]:
    """One correction; whatever goes wrong with it stays with it."""
    try:
        if act(hands):
            yield m.Settled(what, layer, message)
    except InFlight:
        pass
    except (LayerstoreError, OSError) as error:
        # What the machine refuses today it may permit tomorrow; what the store refuses, hardly.
        hands.uncompared |= isinstance(error, OSError | DiskFull)
        yield m.Settled("failed", layer, f"{message}: {error}")


def _operation(
    decision: recovery.Decision,
) -> Callable[[Hands], bool]:
    return lambda hands: recovery.run(hands, decision) is not None


def _single(choose: Callable[[Transaction], e.Event | None]) -> Callable[[Hands], bool]:
    """A correction that is one event in one transaction."""

    def act(hands: Hands) -> bool:
        def once() -> bool:
            with hands.journal.transaction(full=hands.full) as transaction:
                event = choose(transaction)
                if event is not None:
                    transaction.append(event)
                return event is not None

        return hands.with_room(once)

    return act


def _finish_removes(
    hands: Hands, tree: Tree, index: dict[str, Indexed], busy: set[str]
) -> Iterator[m.Settled]:
    """A layer that lies in the trash was being removed, and the intent of that was lost."""
    lying = {link: name for name, link in tree.trash.items() if link and name not in busy}
    for layer in list(index.values()):
        if layer.link in lying and layer.id not in tree.layers and layer.id not in busy:

            def decision(tx: Transaction, _: str, layer: Indexed = layer) -> e.Intent | None:
                tx.require_idle(layer.id)
                if tx.layer(layer.id) is None or tx.one(sql.COUNT_CHILDREN, id=layer.id) != (0,):
                    return None
                me = hands.journal.author.owner
                return e.LayerRemoveIntended(
                    layer.id, layer.link, me, mounted=False, probe=False, durable=hands.full
                )

            message = f"the removal of {layer.id} was finished"
            done = list(_attempt(hands, "finished", layer.id, message, _operation(decision)))
            if any(item.what == "finished" for item in done):
                del index[layer.id]
            yield from done


def _check_indexed(
    hands: Hands, tree: Tree, index: dict[str, Indexed], busy: set[str]
) -> Iterator[m.Settled]:
    """Every layer of the index: its directory, its files, its link."""
    for layer in index.values():
        if layer.id in busy:
            continue
        damage = _damage(tree, layer)
        if damage is None and tree.links.get(layer.link, "") == "":
            yield from _restore_link(hands, layer)
        if damage is None and layer.committed and not tree.layers[layer.id].committed:
            yield from _mark_committed(hands, layer.id, layer.link)
        if damage == layer.damage:
            continue
        event = e.LayerIsolated(layer.id, damage) if damage else e.LayerRestored(layer.id)

        def decision(
            tx: Transaction, event: e.Event = event, layer: Indexed = layer
        ) -> e.Event | None:
            tx.require_idle(layer.id)
            return event if tx.layer(layer.id) is not None else None

        what = "isolated" if damage else "restored"
        message = f"{layer.id} cannot be used: {damage}" if damage else f"{layer.id} is whole again"
        yield from _attempt(hands, what, layer.id, message, _single(decision))


def _damage(tree: Tree, layer: Indexed) -> str | None:
    """Why a layer of the index cannot be used as the tree is, or None."""
    if layer.id in tree.unreadable:
        return tree.unreadable[layer.id]
    found = tree.layers.get(layer.id)
    if found is None:
        return "its directory is gone"
    if layout.DIFF not in found.names:
        return "it has no diff directory"
    if found.link != layer.link:
        return files.difference("link", found.link, layer.link)
    if (found.lower or "") != layer.lower or (found.lower is not None) != bool(layer.lower):
        return files.difference("lower", found.lower, layer.lower)
    reads = tree.links.get(layer.link, "")
    if reads and reads != layout.link_target(layer.id):
        return f"l/{layer.link} leads to {reads!r}"
    return None


def _restore_link(hands: Hands, layer: Indexed) -> Iterator[m.Settled]:
    def decision(tx: Transaction, _: str) -> e.Intent | None:
        tx.require_idle(layer.id)
        if tx.layer(layer.id) is None:
            return None
        return e.TreeCorrectIntended(layer.id, "restore-link", layer.link)

    message = f"l/{layer.link} was made anew for {layer.id}"
    yield from _attempt(hands, "corrected", layer.id, message, _operation(decision))


def _mark_committed(hands: Hands, layer: str, link: str) -> Iterator[m.Settled]:
    """Older versions of Docker made no mark, and a power cut can have taken it."""

    def decision(tx: Transaction, _: str) -> e.Intent | None:
        tx.require_idle(layer)
        found = tx.layer(layer)
        if found is None or not found.committed:
            return None
        return e.TreeCorrectIntended(layer, "mark-committed", link)

    message = f"{layer} was marked as one that has children"
    yield from _attempt(hands, "corrected", layer, message, _operation(decision))


def _adopt(
    hands: Hands, tree: Tree, index: dict[str, Indexed], busy: set[str]
) -> Iterator[m.Settled]:
    """Whole layers that the index does not know: the tree decides that they exist."""
    links = [found.link for found in tree.layers.values()]
    unknown = [name for name in tree.layers if name not in index and name not in busy]
    for name in sorted(unknown, key=lambda n: (len(tree.layers[n].lower or ""), n)):
        found = tree.layers[name]
        doubled = links.count(found.link) > 1
        why = tree.broken(name) or ("another directory has the same link" if doubled else "")
        if why:
            yield m.Settled("left", name, f"{name} was left alone: {why}")
            continue
        parent = _parent(tree, found)
        depth = len(found.lower.split(":")) if found.lower else 0
        event = e.LayerAdopted(
            layer=name,
            link=found.link or "",
            parent=parent,
            lower=found.lower or "",
            depth=depth,
            committed=found.committed,
            reason="the index did not know it",
        )

        def decision(tx: Transaction, event: e.LayerAdopted = event) -> e.Event | None:
            tx.require_idle(event.layer)
            above = None if event.parent is None else tx.layer(event.parent)
            parent_known = event.parent is None or above is not None
            known = tx.layer(event.layer) or tx.one(sql.SELECT_LAYER_BY_LINK, link=event.link)
            whole = files.read_link(hands.home, event.layer) == event.link
            fits = parent_known and event.depth <= MAX_DEPTH
            if not whole or not fits or known:
                return None
            project, size = projects.found_at(tx, hands.home, event.layer)
            commits = above is not None and not above.committed
            return attrs.evolve(event, project=project, size=size, commits_parent=commits)

        message = f"{name} was taken into the index"
        yield from _attempt(hands, "adopted", name, message, _single(decision))


def _mark_parents(hands: Hands, tree: Tree, index: dict[str, Indexed]) -> Iterator[m.Settled]:
    """Of layers that were taken in: what took the intent of a create can have taken this, too."""
    parents = {_parent(tree, found) for name, found in tree.layers.items() if name not in index}
    for layer in sorted(parent for parent in parents if parent is not None):
        found = tree.layers[layer]
        if found.link and not found.committed:
            yield from _mark_committed(hands, layer, found.link)


def _parent(tree: Tree, found: LayerFiles) -> str | None:
    first = (found.lower or "").partition(":")[0]
    return tree.owner_of(first[2:]) if first else None


def _drop_links(hands: Hands, tree: Tree, index: dict[str, Indexed]) -> Iterator[m.Settled]:
    """Links that lead nowhere and that no layer knows: what a lost intent of a create leaves."""
    known = {layer.link for layer in index.values()}
    known |= {found.link for found in tree.layers.values() if found.link}
    for link in tree.links:
        path = f"{hands.home}/{layout.short_link(link)}"
        if tree.links[link].removeprefix("../").partition("/")[0] in tree.unreadable:
            continue  # whoever follows it asks
        if link in known or os.path.exists(path) or not os.path.islink(path):
            continue

        def decision(tx: Transaction, _: str, link: str = link) -> e.Intent | None:
            if tx.one(sql.SELECT_LAYER_BY_LINK, link=link) is not None:
                return None
            return e.TreeCorrectIntended(layout.short_link(link), "drop-link", link)

        message = f"l/{link} led nowhere and was removed"
        yield from _attempt(hands, "corrected", f"l/{link}", message, _operation(decision))


def _sweep(hands: Hands, tree: Tree, busy: set[str]) -> Iterator[m.Settled]:
    """What lies in staging or trash and belongs to no operation."""
    for name in sorted(tree.staging):
        if name.partition("-")[0] in busy:
            continue
        intent = e.TreeCorrectIntended(layout.staging(name), "sweep-staging", name)
        message = f"staging/{name} was swept"
        yield from _attempt(
            hands,
            "corrected",
            intent.layer,
            message,
            _operation(_unless_known(hands.home, name, intent)),
        )
    for name in sorted(tree.trash):
        if name not in busy:
            empty = e.TrashEmptyIntended(layout.trash(name), name)
            message = f"trash/{name} was emptied"
            yield from _attempt(
                hands,
                "corrected",
                empty.layer,
                message,
                _operation(_unless_known(hands.home, name, empty)),
            )


def _unless_known(
    home: str, name: str, intent: e.TreeCorrectIntended | e.TrashEmptyIntended
) -> recovery.Decision:
    """The intent, with the project that ends with it: the one of a row, or of the directory."""

    def decision(tx: Transaction, _: str) -> e.Intent | None:
        tx.require_idle(intent.layer)
        if tx.operation(name.partition("-")[0]) is not None:
            return None
        project = tx.project(intent.layer)[0]
        return attrs.evolve(intent, project=project or projects.found_at(tx, home, intent.layer)[0])

    return decision


def _check_mounts(hands: Hands, tree: Tree) -> Iterator[m.Settled]:
    """Mounts that the index does not know get a holder; those that are gone are forgotten."""
    for name, found in tree.layers.items():
        if not found.mounted:
            continue

        def decision(tx: Transaction, name: str = name) -> e.Event | None:
            return decide.found_mount(hands.home, tx, name)

        message = f"{name} was found mounted; its holder is called {decide.UNKNOWN!r}"
        yield from _attempt(hands, "adopted", name, message, _single(decision))
    for row in hands.journal.database.read(sql.SELECT_MOUNTS):
        mount = rows.mount(row)
        if not mountinfo.is_mount_root(f"{hands.home}/{layout.merged(mount.layer)}"):
            yield from burial.end_mount(hands, mount, reason="lost")


def _drop_merged(hands: Hands, tree: Tree) -> Iterator[m.Settled]:
    """Empty mountpoints without a mount: what a cut in a get leaves, the intent of which was lost.

    Its steps ask the kernel, and look through the mount tables, before it goes; one that is not empty
    is left for a repair, which keeps what is in it.
    """
    for name, found in tree.layers.items():
        if layout.MERGED not in found.names or found.mounted:
            continue
        merged = f"{hands.home}/{layout.merged(name)}"

        def decision(
            tx: Transaction, _: str, name: str = name, merged: str = merged
        ) -> e.Intent | None:
            tx.require_idle(name)
            if tx.layer(name) is None or tx.one(sql.SELECT_MOUNT, layer=name) is not None:
                return None
            if os.path.islink(merged) or not os.path.isdir(merged):
                return None
            if mountinfo.is_mount_root(merged) or not files.is_empty(merged):
                return None
            return e.TreeCorrectIntended(name, "drop-merged", layout.MERGED)

        message = f"{layout.merged(name)} was empty and not mounted, and was removed"
        yield from _attempt(hands, "corrected", name, message, _operation(decision))
