"""Owns sequences of verbs: every one of up to three that can be done one after the other.

An alphabet of a few verbs on a few layers: what is wrong about three verbs in a row that is not
wrong about one shows there, if anywhere. A sequence is named by its verbs, `create+get+remove`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.crash.model import (
    Apply,
    Compact,
    Create,
    Facts,
    Get,
    Open,
    Put,
    Remove,
    State,
    Verb,
    ladder,
)
from tests.crash.scenarios import TEMPLATES, Scenario

TEMPLATE: Final = "chain"
LONGEST: Final = 3
_FILES: Final = (("etc", "of an archive\n"),)
_NAMES: Final = ("x", "y", "z")


def _made(state: State) -> list[str]:
    """What the sequence created, oldest first."""
    return [name for name in _NAMES if name in state.layers]


def _unheld(state: State, layers: list[str]) -> list[str]:
    held = {layer for layer, _ in state.holds}
    return [layer for layer in layers if layer in state.layers and layer not in held]


def _childless(state: State, layers: list[str]) -> list[str]:
    parents = {facts.parent for facts in state.layers.values()}
    return [layer for layer in layers if layer not in parents]


def _create(state: State, past: tuple[Verb, ...]) -> Verb | None:
    """Upon the newest layer that nobody holds."""
    used = {verb.layer for verb in past if isinstance(verb, Create)}
    name = next(name for name in _NAMES if name not in used)
    return Create(name, Facts(_unheld(state, ["base", "mid", *_made(state)])[-1]))


def _base(state: State, past: tuple[Verb, ...]) -> Verb | None:
    del state
    used = {verb.layer for verb in past if isinstance(verb, Create)}
    return Create(next(name for name in _NAMES if name not in used))


def _apply(state: State, past: tuple[Verb, ...]) -> Verb | None:
    """To the newest layer that is as it was created; or to nothing."""
    touched = {verb.layer for verb in past if isinstance(verb, Apply | Get)}
    fresh = [
        layer for layer in _childless(state, _unheld(state, _made(state))) if layer not in touched
    ]
    return Apply(fresh[-1], _FILES) if fresh else None


def _get(state: State, past: tuple[Verb, ...]) -> Verb | None:
    """Of the newest layer, by a holder that outlives its process."""
    del past
    there = [layer for layer in ("mid", *_made(state)) if layer in state.layers]
    return Get(there[-1], "docker") if there else None


def _put(state: State, past: tuple[Verb, ...]) -> Verb | None:
    del past
    held = [layer for layer, _ in state.holds]
    return Put(held[-1], "docker") if held else None


def _remove(state: State, past: tuple[Verb, ...]) -> Verb | None:
    """The newest layer that nobody holds and nothing is built on."""
    del past
    free = _childless(state, _unheld(state, ["mid", *_made(state)]))
    return Remove(free[-1]) if free else None


def _compact(state: State, past: tuple[Verb, ...]) -> Verb | None:
    del state
    return None if any(isinstance(verb, Compact) for verb in past) else Compact(keep=0)


ALPHABET: Final[dict[str, Callable[[State, tuple[Verb, ...]], Verb | None]]] = {
    "create": _create,
    "base": _base,
    "apply": _apply,
    "get": _get,
    "put": _put,
    "remove": _remove,
    "compact": _compact,
}


def _first() -> State:
    template = TEMPLATES[TEMPLATE]
    return template.expect(ladder(State(), template.verbs)[-1][-1])


def _walk(
    state: State, names: tuple[str, ...], verbs: tuple[Verb, ...]
) -> Iterator[tuple[str, tuple[Verb, ...]]]:
    if names:
        yield "+".join(names), verbs
    if len(names) == LONGEST:
        return
    for name, choose in ALPHABET.items():
        verb = choose(state, verbs)
        if verb is not None:
            after = verb.states(state)[-1]
            yield from _walk(after, (*names, name), (*verbs, verb))


def sequences() -> dict[str, Scenario]:
    """All of them, by name."""
    return {
        name: Scenario(name, TEMPLATE, (Open(),), verbs) for name, verbs in _walk(_first(), (), ())
    }


def chosen(name: str) -> Scenario:
    """One by its name."""
    return sequences()[name]
