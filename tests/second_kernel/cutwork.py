"""Runs in the second kernel, on a disk that can lose its power: judges what the last cut left, then works.

    python -m tests.second_kernel.cutwork HOME DEVICE

What is to be judged stands on the DEVICE, as JSON: see `Told`. Every line that this prints leaves the
machine; `tests.crash.reboots` reads it, and takes the power at some moment. What a process does is made
of a seed alone, so that the next boot knows it without having been told.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.db import reserve
from layerstore.fs import ballast
from tests.crash.cutmutants import MUTANTS
from tests.crash.invariants import Violation, judge, mend, require
from tests.crash.model import (
    Apply,
    Compact,
    Create,
    Facts,
    Get,
    Initialize,
    Live,
    Open,
    Put,
    Remove,
    State,
    Verb,
    Write,
    ladder,
)
from tests.crash.powercut import last_synced, lasting
from tests.crash.recorded import Record

SAID: Final = "SAID "
LAYERS: Final = 12
"""From so many on, layers are removed rather than made."""
_D: Final = "docker"


@attrs.frozen
class Told:
    """What the machine outside knows."""

    life: int
    """How often it was booted to work."""
    seed: int
    """Of the work that is to be done now."""
    past: dict[str, Any] | None = None
    """The last life: its number and seed, the state that it began with, and what it said."""
    recover: bool = False
    """Only open the store, again and again, until the power goes."""
    work: bool = True
    """Work, once it is judged, until the power goes."""
    links: dict[str, str] = attrs.Factory(dict)
    mutant: str = ""
    """What is done wrong, of `cutmutants.MUTANTS`."""


# --- states as JSON -----------------------------------------------------------------------------


def state_to_json(state: State) -> dict[str, Any]:
    """A state, for the machine outside to keep."""
    return {
        "layers": {
            name: [facts.parent, list(facts.labels), facts.read_write]
            for name, facts in state.layers.items()
        },
        "holds": [[layer, holder, count] for (layer, holder), count in state.holds.items()],
        "files": {name: dict(files) for name, files in state.files.items()},
    }


def state_from_json(value: dict[str, Any]) -> State:
    """The same, back."""
    return State(
        {
            name: Facts(parent, tuple((key, text) for key, text in labels), read_write)
            for name, (parent, labels, read_write) in value["layers"].items()
        },
        {(layer, holder): count for layer, holder, count in value["holds"]},
        value["files"],
    )


# --- the work -----------------------------------------------------------------------------------


def course(life: int, seed: int, state: State) -> Iterator[Verb]:
    """What a life does, in order and without an end; of the same seed and state the same."""
    chance = random.Random(seed)
    if not state.layers and life == 0:
        yield Initialize()
    yield Open()
    touched: set[str] = set(state.layers)
    applied: set[str] = set()
    mutable: set[str] = set()
    since = number = 0
    while True:
        number += 1
        since += 1
        verb = _one(chance, state, f"{life}x{number}", touched, applied, mutable, since)
        if isinstance(verb, Compact):
            since = 0
        if isinstance(verb, Apply | Get | Write):
            touched.add(verb.layer)
        if isinstance(verb, Apply):
            applied.add(verb.layer)
            mutable.discard(verb.layer)
        if isinstance(verb, Create):
            # Whatever had a child is committed, also when the child is gone.
            mutable.discard(verb.facts.parent or "")
            mutable.add(verb.layer)
        state = verb.states(state)[-1]
        yield verb


def _one(
    chance: random.Random,
    state: State,
    name: str,
    touched: set[str],
    applied: set[str],
    mutable: set[str],
    since: int,
) -> Verb:
    layers = sorted(state.layers)
    held = {layer for layer, _ in state.holds}
    parents = {facts.parent for facts in state.layers.values()}
    free = [layer for layer in layers if layer not in held]
    leaves = [layer for layer in free if layer not in parents]
    fresh = [layer for layer in leaves if layer not in touched]
    content = [layer for layer in free if layer in applied]
    mine = [layer for layer, holder in sorted(state.holds) if holder == _D]
    writable = [layer for layer in mine if layer in mutable]
    able: dict[str, list[str]] = {
        "create": free if len(layers) < LAYERS else [],
        "base": ["new"] if len(layers) < LAYERS // 3 else [],
        "apply": fresh,
        "get": layers if len(mine) < 4 else [],
        "write": writable,
        "put": mine,
        "remove": leaves if len(layers) > 4 else [],
        "record": content,
        "compact": ["all"] if since > 12 else [],
    }
    what = chance.choice([kind for kind, on in able.items() if on for _ in range(_OFTEN[kind])])
    layer = chance.choice(able[what])
    facts = {"create": Facts(layer, (("life", name),)), "base": Facts(labels=(("kind", "base"),))}
    text = "".join(chance.choice("abcdefgh\n") for _ in range(chance.randint(1, 9000)))
    verbs: dict[str, Verb] = {
        "create": Create(f"c{name}", facts["create"]),
        "base": Create(f"b{name}", facts["base"]),
        "apply": Apply(layer, (("etc", f"of {name}\n"), ("much", text))),
        "get": Get(layer, _D),
        "write": Write(layer, f"w{name}", text),
        "put": Put(layer, _D),
        "remove": Remove(layer),
        "record": Record(layer),
        "compact": Compact(keep=0),
    }
    return verbs[what]


_OFTEN: Final = {
    "create": 6,
    "base": 3,
    "apply": 5,
    "get": 3,
    "write": 2,
    "put": 3,
    "remove": 3,
    "record": 1,
    "compact": 1,
}


# --- a boot -------------------------------------------------------------------------------------


def say(value: Any) -> None:
    """Tell the machine outside; it has it when this returns, or a little later."""
    print(f"{SAID}{json.dumps(value)}", flush=True)


def flushes() -> int:
    """How often the disk was told to write out what it has: each is waited for."""
    return int(Path("/sys/block/ubda/stat").read_text().split()[15])


def judged(home: Path, told: Told) -> State:
    """What the cut left, which must be what was acknowledged; the state that the store is in."""
    if told.past is None:
        return State()
    first = state_from_json(told.past["state"])
    said: list[dict[str, Any]] = told.past["said"]
    verbs: list[Verb] = []
    for verb in course(told.past["life"], told.past["seed"], first):
        verbs.append(verb)
        if len(verbs) > len(said):
            break
    when = tuple(verbs)
    new = bool(when) and isinstance(when[0], Initialize) and not said
    settled = mend(home, "initialize" if new else "open")
    allowed = lasting(home, first, (), when, len(said), ladder(first, when)[len(said)])
    in_flight = when[len(said) :]
    return judge(
        home,
        allowed,
        told.links,
        settled,
        last_synced(when, said),
        again=[verb for verb in in_flight if isinstance(verb, Create)],
    )


def work(home: Path, told: Told, state: State) -> None:
    """Until the power goes."""
    live = Live(home)
    for verb in course(told.life, told.seed, state):
        before = flushes()
        value = verb.act(live)
        if isinstance(verb, Create | Apply | Remove):
            require(flushes() > before, f"{verb} answered, and had its disk flush nothing")
        if live.store is not None:
            value["seq"] = live.store.last_seq()
        say({"value": value, "verb": type(verb).__name__})


def main(home: Path, told: Told) -> None:
    """One boot."""
    # As in the other campaigns: what is kept for full disks is not what is looked at.
    ballast.PIECES, ballast.LARGEST, reserve.LARGEST = 2, ballast.SMALLEST, 16 << 12  # type: ignore[misc]
    patch = MUTANTS[told.mutant].patch() if told.mutant else contextlib.nullcontext()
    say({"opening": True})
    with patch:
        while told.recover:
            mend(home, "initialize" if told.past is None or not told.past["said"] else "open")
        state = judged(home, told)
        say({"state": state_to_json(state)})
        if told.work:
            work(home, told, state)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Told(**json.loads(Path(sys.argv[2]).read_bytes().rstrip(b"\0"))))
    except Violation as violation:
        say({"failure": str(violation)})
        time.sleep(1)
    except BaseException:  # noqa: BLE001 - whatever it is, it goes to the campaign
        say({"failure": traceback.format_exc(limit=-10)})
        time.sleep(1)
