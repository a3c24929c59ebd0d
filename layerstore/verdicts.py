"""Owns what each directory of a foreign tree is, and why; it must not change anything, nor advise.

Kept is what an image, a container, the build cache, or a mount in any mount namespace reaches, and
whatever is below such a layer, by the records as by the `lower` files. When in doubt it is kept: where a
record that names a layer cannot be read, nothing is called an orphan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final

import attrs

from layerstore import legacy
from layerstore import model as m
from layerstore.audit import lost, of_view, weight
from layerstore.audit.census import Progress
from layerstore.audit.view import View, finding, look
from layerstore.fs import inuse
from layerstore.legacy import living, shapes
from layerstore.legacy.detecting import CONTAINERS_STORAGE, Found
from layerstore.legacy.manifest import CONDEMNED, HALF, Manifest, Record, Role, Source

_PART: Final = 29
"""Characters of a component in `lower`, with the colon before the next."""
_PAUSE: Final = 0.05


class Verdict(StrEnum):
    """What a directory is to the program that made it."""

    KEPT = "kept"
    """Something that can be named needs it."""
    RECORDED = "recorded"
    """It has a record, and no image, container or mount reaches it."""
    CONDEMNED = "condemned"
    """Its removal, or its making, was interrupted, and is on record."""
    ORPHANED = "orphaned"
    """Nothing names it."""
    UNKNOWN = "unknown"
    """It does not look like a layer of that program, or its record may be the one that is lost."""


@attrs.frozen
class Judged:
    """One directory; `why` completes "…, because"."""

    layer: str
    verdict: Verdict
    why: str
    bytes: int | None = None
    measured: bool = False
    """Whether the bytes were counted, rather than read of its record."""
    parent: str | None = None
    role: Role | None = None
    damage: str | None = None


@attrs.frozen
class Plan:
    """What is there, what each of it is, and what is wrong with it."""

    manifest: Manifest
    layers: tuple[Judged, ...]
    findings: tuple[m.Finding, ...]
    daemon: str = ""
    """The program that has the tree open, in words: what it is making is then recorded nowhere."""
    lost_metadata: bool = False
    """The records look lost, and not the layers: nothing is called an orphan."""

    def of(self, verdict: Verdict) -> tuple[Judged, ...]:
        """The layers with a verdict, in order of names."""
        return tuple(one for one in self.layers if one.verdict is verdict)

    def bytes_of(self, verdict: Verdict) -> int:
        """What they take on the disk, as far as that is known."""
        return sum(one.bytes or 0 for one in self.of(verdict))


def plan(
    found: Found,
    *,
    run_root: str | None = None,
    measure: bool = False,
    trust_records: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Read records, tree and mounts of a foreign tree, and judge each directory. Changes nothing.

    `measure`: count the bytes of every layer, also where a record has them. Raises what `legacy.read`
    raises; OSError where it may not look. `trust_records`: whoever asks knows that the records are not lost,
    however few there are. What looks wrong on a tree that lives is looked at twice.
    """
    daemon = living.daemon(found)
    view, manifest, findings = _look(found, run_root, progress)
    judge = _Judge(view, manifest, inuse.below(found.home), live=bool(daemon))
    if findings or judge.candidates():
        # Records and tree were not read at one moment: what began meanwhile is in neither of the two.
        time.sleep(_PAUSE)
        before = judge.candidates()
        view, manifest, again = _look(found, run_root, None)
        seen = {(item.code, item.layer, item.path) for item in findings}
        findings = [item for item in again if (item.code, item.layer, item.path) in seen]
        judge = _Judge(view, manifest, inuse.below(found.home), live=bool(daemon), spared=before)
    first = None if trust_records else _lost(view, findings, judge)
    judged = sorted(judge.all(lost_metadata=first is not None), key=lambda one: one.layer)
    damage = {item.layer: item.message for item in findings if item.severity is m.Severity.DAMAGE}
    weighed = _Weigher(view, manifest, measure=measure)
    return Plan(
        manifest=manifest,
        layers=tuple(attrs.evolve(weighed(one), damage=damage.get(one.layer)) for one in judged),
        findings=tuple(weight.weighed(view, [*([first] if first else []), *findings], ours=False)),
        daemon=daemon,
        lost_metadata=first is not None,
    )


class Again:
    """One more look, at what was called an orphan: whether it is one still. Nothing is weighed."""

    def __init__(
        self,
        found: Found,
        *,
        before: frozenset[str],
        run_root: str | None = None,
        trust_records: bool = False,
    ) -> None:
        """`before`: the orphans of a plan. Raises what `plan` raises."""
        self._user = living.daemon(found)
        view, manifest, findings = _look(found, run_root, None)
        judge = _Judge(view, manifest, inuse.below(found.home), live=False, spared=before)
        first = None if trust_records else _lost(view, findings, judge)
        self._judged = {one.layer: one for one in judge.all(lost_metadata=first is not None)}
        self._below = {layer: judge.below(layer) & before for layer in judge.unheld()}
        self._above: dict[str, dict[str, None]] = {}
        for layer, others in self._below.items():
            for below in others - {layer}:
                self._above.setdefault(below, {})[layer] = None

    def why_kept(self, layer: str) -> str:
        """Why it is not to be removed as an orphan; empty where it may be."""
        if self._user:
            return self._user
        if layer not in self._judged:
            return "it is gone"
        one = self._judged[layer]
        if one.verdict is not Verdict.ORPHANED:
            return f"{one.verdict}: {one.why}"
        above = next(iter(self._above.get(layer, ())), None)
        return "" if above is None else f"{above} stands on it, and is not removed"

    def went(self, layer: str) -> None:
        """It was removed since: it does not stand on anything any more."""
        for below in self._below.get(layer, ()):
            self._above.get(below, {}).pop(layer, None)


def _lost(view: View, findings: list[m.Finding], judge: _Judge) -> m.Finding | None:
    """The finding that records look lost, also by what nothing names."""
    without = [
        finding("unrecorded-layer", f"{layer} has no record", layer, f"{view.home}/{layer}")
        for layer in judge.candidates()
    ]
    return lost.check(view, [*findings, *without])


def _look(
    found: Found, run_root: str | None, progress: Progress | None
) -> tuple[View, Manifest, list[m.Finding]]:
    """The tree first and the records after it: what is in the tree by then has had time to be recorded."""
    view = look(found.home, None, progress=progress)
    manifest = legacy.read(found, run_root=run_root)
    return view, manifest, list(dict.fromkeys(of_view(view, manifest)))


# --- judging --------------------------------------------------------------------------------------


class _Judge:
    """The verdicts of one look."""

    def __init__(
        self,
        view: View,
        manifest: Manifest,
        users: Mapping[str, tuple[inuse.User, ...]],
        *,
        live: bool,
        spared: Iterable[str] | None = None,
    ) -> None:
        """`spared`: the candidates of a look before; what is none of these is not called an orphan."""
        self._view = view
        self._manifest = manifest
        self._live = live
        self._before = None if spared is None else frozenset(spared)
        self._records = manifest.by_layer()
        self._reasons: dict[str, str] = {}
        self._keep(self._roots(users))
        self._standing: dict[str, str] = {}
        self._stand()

    def _roots(self, users: Mapping[str, tuple[inuse.User, ...]]) -> dict[str, str]:
        """What something that can be named needs, and what that is."""
        found: dict[str, str] = {}
        for image in self._manifest.images:
            name = image.names[0] if image.names else image.id[:19]
            found.update((layer, f"image {name} has it") for layer in image.layers[::-1])
        for container in self._manifest.containers:
            name = container.name or container.id[:12]
            found.update((layer, f"container {name} has it") for layer in container.layers)
        for record in self._manifest.records:
            if record.source is Source.BUILDKIT:
                found.setdefault(record.layer, "it is build cache")
            elif record.source is Source.MOUNTS:
                said = f"a mount has it, {record.name[:12]}, which is of no container"
                found.setdefault(record.layer, said)
            elif record.source is Source.RUNNING:
                found.setdefault(record.layer, "it is recorded as mounted")
            elif record.source is Source.WRITE_SET and self._live:
                found.setdefault(record.layer, f"it is perhaps being pulled ({record.name})")
        for (how, name), who in inuse.mounted(self._view.home).items():
            layer = self._view.who_has(name) if how == "link" else name
            if layer is not None:
                found.setdefault(layer, who)
        for layer, places in self._view.places.items():
            found.setdefault(layer, f"{places[0].keeper} has it mounted")
        for layer, processes in users.items():
            found.setdefault(layer, str(processes[0]))
        for layer in self._view.tree.layers:
            if shapes.shape_of(layer) in self._manifest.kept_shapes:
                found.setdefault(layer, "it looks like build cache, whose records cannot be read")
        return found

    def below(self, layer: str) -> set[str]:
        """What a layer stands on, by its records and by its `lower`."""
        found = {record.parent for record in self._records.get(layer, ()) if record.parent}
        seen = self._view.tree.layers.get(layer)
        if seen is not None and seen.lower:
            for part in seen.lower.split(":"):
                owner = self._view.who_has(part[2:])
                found |= {owner} if owner is not None else set()
        return found

    def _keep(self, roots: Mapping[str, str]) -> None:
        self._reasons.update(self._reached(roots, ()))

    def _reached(self, roots: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
        """These, and everything below them, with the reason of what is above."""
        found = dict(roots)
        passed = set(known)
        pending = list(roots)
        while pending:
            layer = pending.pop()
            if layer in passed:
                continue
            passed.add(layer)
            for below in self.below(layer):
                if below not in found:
                    found[below] = f"it is below {layer}"
                pending.append(below)
        return found

    def _stand(self) -> None:
        """What is recorded only, or not known, and what is below that: nobody asked for it, and it stays."""
        roots = {}
        for layer in self._view.tree.layers:
            if layer in self._reasons:
                continue
            records = [r for r in self._records.get(layer, ()) if r.source not in HALF]
            if records:
                roots[layer] = "no image, container, cache or mount reaches it"
            elif not self._records.get(layer) and not self._is_shaped(layer):
                roots[layer] = "its name is not one that this program gives a layer"
        self._standing = self._reached(roots, self._reasons)

    def _is_shaped(self, layer: str) -> bool:
        shape = shapes.shape_of(layer)
        if self._manifest.kind == CONTAINERS_STORAGE:
            return shape == shapes.DIGEST_LIKE
        return shape is not None

    def unheld(self) -> Iterator[str]:
        """The layers that nothing holds: what is below any other is held itself."""
        return (layer for layer in self._view.tree.layers if layer not in self._reasons)

    def candidates(self) -> tuple[str, ...]:
        """What nothing names, and could be an orphan."""
        return tuple(
            layer
            for layer in self._view.tree.layers
            if layer not in self._reasons
            and layer not in self._standing
            and not any(r.source in CONDEMNED for r in self._records.get(layer, ()))
        )

    def all(self, *, lost_metadata: bool) -> list[Judged]:
        """Each directory of the home with its verdict."""
        orphans = frozenset(self.candidates())
        judged = [
            attrs.evolve(
                self._one(layer, orphans, lost_metadata),
                parent=self._parent(layer),
                role=_role(self._records.get(layer, ())),
            )
            for layer in self._view.tree.layers
        ]
        judged += [
            Judged(name, Verdict.UNKNOWN, "it is no layer") for name in self._view.tree.strangers
        ]
        judged += [
            Judged(name, Verdict.UNKNOWN, f"it cannot be looked at: {why}")
            for name, why in self._view.tree.unreadable.items()
        ]
        return judged

    def _parent(self, layer: str) -> str | None:
        """By its `lower`, else by a record."""
        seen = self._view.tree.layers[layer]
        own = self._view.who_has(seen.lower[2 : _PART - 1]) if seen.lower else None
        records = self._records.get(layer, ())
        return own or next((record.parent for record in records if record.parent), None)

    def _one(self, layer: str, orphans: frozenset[str], lost_metadata: bool) -> Judged:
        records = self._records.get(layer, ())
        if layer in self._reasons:
            return Judged(layer, Verdict.KEPT, self._reasons[layer])
        if layer in self._standing:
            named = any(r.source not in HALF for r in records)
            verdict = Verdict.RECORDED if named else Verdict.UNKNOWN
            return Judged(layer, verdict, self._standing[layer])
        if layer not in orphans:
            return Judged(layer, Verdict.CONDEMNED, f"{records[0].source} says so")
        if lost_metadata:
            return Judged(layer, Verdict.UNKNOWN, "the records look lost, and not the layers")
        if self._before is not None and layer not in self._before:
            return Judged(layer, Verdict.KEPT, "it appeared while it was looked at")
        if self._manifest.hidden:
            trouble = self._manifest.hidden[0]
            said = f"it may be the one whose record cannot be read: {trouble.path}"
            return Judged(layer, Verdict.UNKNOWN, said)
        pulled = next((f", but for an interrupted pull ({r.name})" for r in records), "")
        return Judged(layer, Verdict.ORPHANED, f"nothing names it{pulled}")


def _role(records: Iterable[Record]) -> Role | None:
    """What it is: an image's layer is that, also where the cache knows it."""
    roles = {record.role for record in records}
    order = (Role.IMAGE, Role.CONTAINER, Role.INIT, Role.CACHE)
    return next((role for role in order if role in roles), None)


class _Weigher:
    """Adds bytes to what was judged: recorded ones where there are some, else counted."""

    def __init__(self, view: View, manifest: Manifest, *, measure: bool) -> None:
        self._home = view.home
        self._count: Callable[[str], int | None] = weight.usage
        self._sizes: dict[str, int] = {}
        for record in manifest.records:
            if record.size is not None and not measure:
                self._sizes[record.layer] = record.size

    def __call__(self, one: Judged) -> Judged:
        if one.verdict is Verdict.KEPT and one.layer in self._sizes:
            return attrs.evolve(one, bytes=self._sizes[one.layer])
        return attrs.evolve(one, bytes=self._count(f"{self._home}/{one.layer}"), measured=True)
