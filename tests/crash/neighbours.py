"""Owns the controls by order: every two neighbouring steps of a plan that change or sync the disk, swapped.

The pairs are read from the plans, so that a new step brings new ones. Each is caught by a sweep of kills
or by states of a disk, or is proven to leave nothing else than the order that is written: see `alike`.
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


FAILS, KILL, CUT, WORST = "fails", "kill", "cut", "worst"
CAUGHT: Final = {
    "create:MakeDirectory(stage)>MakeDirectory(diff)": FAILS,
    "create:SyncDirectory(l)>Publish(stage)": CUT,
    # No file system here shows these two: the kernel was told to begin with each file when it was written,
    # and commits a link with the rename behind it. Where it is told nothing, `create-synced-first` is caught.
    "create:MakeSymlink(link)>SyncFileSystem": WORST,
    "create:SyncFileSystem>Publish(stage)": WORST,
    "create:Publish(stage)>SyncDirectory(home)": CUT,
    "remove:Unmount>RemoveDirectory(merged)": FAILS,
    "remove:MoveToTrash(layer)>RemoveSymlink(link)": KILL,
    "apply:Unpack(layer)>ReplaceDirectory(diff)": FAILS,
    "apply:ReplaceDirectory(diff)>SyncDirectory(layer)": CUT,
    "put:Unmount>RemoveDirectory(merged)": FAILS,
}
"""What shows it: nobody dies and it fails all the same, a sweep of kills, states of a disk with btrfs, or
the disk that is computed for `alike`, which may have any part of what nobody synced.
"""
WHERE: Final = {"create:SyncDirectory(l)>Publish(stage)": "create-while-others-sync"}
"""Where, if not in the scenario of its verb."""

SWAPS: Final = _found()

ALIKE: Final = frozenset(SWAPS) - frozenset(CAUGHT)
"""Swaps that nothing can show; `alike` proves that of each."""


def orders(name: str) -> tuple[plan.Steps, plan.Steps]:
    """The steps of a verb as they are written, and with one pair swapped."""
    for planned in PLANS:
        written = plan.forward(_O, planned.intent)
        with SWAPS[name].patch():
            swapped = plan.forward(_O, planned.intent)
        if name.startswith(f"{planned.verb}:") and written != swapped:
            return written, swapped
    raise AssertionError(f"no plan has {name}")


OPERATION: Final = _O
