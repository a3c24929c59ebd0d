"""Owns the controls by order: every two neighbouring steps of a plan that change or sync the disk, swapped.

The pairs are read from the plans, so that a new step brings new ones. Each is caught by a sweep of kills
or by states of a disk, or stands in `ALIKE` with the reason why the order of those two cannot matter.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, Final

import attrs

from layerstore import events as e
from layerstore import plan
from layerstore.fs import layout
from layerstore.fs import steps as s
from tests.crash.mutants import Mutant, _patched

_O, _L, _P = "0" * 32, "a", "p"
_ASKING: Final = s.VerifyLayer | s.ProbeUpper | s.CheckUnmounted
"""Steps that leave nothing behind: what they refuse is refused, a step sooner or later."""


@attrs.frozen
class Planned:
    """A verb's plan, in the configuration that has the most steps, and where that is done."""

    verb: str
    scenario: str
    intent: e.Intent


_CREATE: Final = e.LayerCreateIntended(
    _L, "A" * 26, _P, "P" * 26, "l/" + "P" * 26, 1, False, {}, {}, "", True, False, False
)
PLANS: Final = (
    Planned(
        "create", "create-on-written-while-others-sync", attrs.evolve(_CREATE, sync_parent=True)
    ),
    Planned("create", "create-child", _CREATE),
    Planned(
        "remove",
        "remove-mounted",
        e.LayerRemoveIntended(_L, "A" * 26, "me", True, True, True),
    ),
    Planned("apply", "apply-child", e.LayerApplyIntended(_L, "A" * 26, False, False, True)),
    Planned("put", "put-last-own", e.LayerUnmountIntended(_L, None, "put", False)),
)


def label(step: s.Step, operation: str, layer: str, parent: str) -> str:
    """What a step does to what, in words that are the same for every operation and layer."""
    path = getattr(step, "path", getattr(step, "source", getattr(step, "layer", None)))
    if path is None:
        return type(step).__name__
    stage = layout.staging(operation)
    words = {
        stage: "stage",
        "": "home",
        layout.LINKS: "l",
        layout.TRASH: "trash",
        layer: "layer",
        parent: "parent",
        layout.manifest(layer): "manifest",
    }
    if path in words:
        return f"{type(step).__name__}({words[path]})"
    if path.startswith(f"{layout.LINKS}/"):
        return f"{type(step).__name__}(link)"
    return f"{type(step).__name__}({path.rpartition('/')[2]})"


def _labels(steps: plan.Steps, operation: str, intent: Any) -> list[str]:
    parent = getattr(intent, "parent", None) or ""
    return [label(step, operation, intent.layer, parent or "\0") for step in steps]


def _swap(
    kind: type[Any], first: str, second: str
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Where a plan of this kind has the two side by side, they change places."""
    original = plan._FORWARD[kind]

    def patch() -> contextlib.AbstractContextManager[None]:
        def swapped(operation: str, intent: Any) -> plan.Steps:
            steps = list(original(operation, intent))
            names = _labels(tuple(steps), operation, intent)
            for at in range(len(steps) - 1):
                if names[at : at + 2] == [first, second]:
                    steps[at : at + 2] = [steps[at + 1], steps[at]]
                    break
            return tuple(steps)

        return _patched((plan, "_FORWARD", {**plan._FORWARD, kind: swapped}))

    return patch


def _found() -> dict[str, Mutant]:
    found = {}
    for planned in PLANS:
        steps = plan.forward(_O, planned.intent)
        names = _labels(steps, _O, planned.intent)
        pairs = list(zip(steps, names, strict=True))
        for (one, first), (two, second) in itertools.pairwise(pairs):
            if isinstance(one, _ASKING) or isinstance(two, _ASKING):
                continue
            name = f"{planned.verb}:{first}>{second}"
            patch = _swap(type(planned.intent), first, second)
            what = f"{planned.verb} does {second} before {first}"
            found[name] = Mutant(what, WHERE.get(name, planned.scenario), patch)
    return found


FAILS, KILL, CUT = "fails", "kill", "cut"
CAUGHT: Final = {
    "create:MakeDirectory(stage)>MakeDirectory(diff)": FAILS,
    "create:SyncDirectory(l)>Publish(stage)": CUT,
    "create:Publish(stage)>SyncDirectory(home)": CUT,
    "remove:Unmount>RemoveDirectory(merged)": FAILS,
    "remove:MoveToTrash(layer)>RemoveSymlink(link)": KILL,
    "apply:Unpack(layer)>ReplaceDirectory(diff)": FAILS,
    "apply:ReplaceDirectory(diff)>SyncDirectory(layer)": CUT,
    "put:Unmount>RemoveDirectory(merged)": FAILS,
}
"""What shows it: nobody dies and it fails all the same, a sweep of kills, states of a disk with btrfs."""
WHERE: Final = {"create:SyncDirectory(l)>Publish(stage)": "create-while-others-sync"}
"""Where, if not in the scenario of its verb."""

_UNSEEN = (
    "both are made before anything is synced and before the layer has its name, so that a cut leaves any "
    "part of them in either order; what a kill leaves is taken away by the undo, part or whole"
)
_TWO_SYNCS = "nothing is written between the two, and both are done before the next change"
ALIKE: Final = {
    "create:MakeDirectory(diff)>WriteFile(link)": _UNSEEN,
    "create:WriteFile(link)>MakeDirectory(work)": _UNSEEN,
    "create:MakeDirectory(work)>WriteFile(lower)": _UNSEEN,
    "create:WriteFile(lower)>WriteFile(committed)": _UNSEEN,
    "create:WriteFile(committed)>MakeSymlink(link)": _UNSEEN,
    "create:MakeSymlink(link)>SyncFile(link)": "the one is in l/, and the other syncs a file in staging: "
    "l/ is synced by a step of its own, which is behind both",
    "create:MakeSymlink(link)>SyncFileSystem": "l/ is not synced then; no state of a disk lacked the link, "
    "and the open after a cut makes one that is missing (`restore-link`)",
    "create:SyncFileSystem>Publish(stage)": "the kernel was told to begin with each file when it was "
    "written, and has them in every commit that has the rename; where it is told nothing, "
    "`create-synced-first` is caught",
    "create:SyncFile(link)>SyncFile(lower)": _TWO_SYNCS,
    "create:SyncFile(lower)>SyncMark(parent)": _TWO_SYNCS,
    "create:SyncMark(parent)>SyncDirectory(stage)": _TWO_SYNCS,
    "create:SyncDirectory(stage)>SyncDirectory(l)": _TWO_SYNCS,
    "remove:RemoveSymlink(link)>RemoveFile(manifest)": "the layer is in the trash by then, and recovery "
    "does both from there, however often; neither is synced",
    "remove:RemoveFile(manifest)>SyncDirectory(home)": "the manifest is in another directory than the one "
    "that is synced, and whether it is gone is not promised: without its row it is nothing",
    "apply:SyncDirectory(layer)>MoveAside(stage)": "the content has its place before both; what lies in "
    "staging or in the trash is what recovery reads the digest from, in either of them",
}
"""Swaps that nothing shows, and why nothing can."""

SWAPS: Final = _found()
