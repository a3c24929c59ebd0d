"""A store driven at random beside a model of it in plain Python, with crashes as one of the moves.

LAYERSTORE_TEST_SEED=N repeats a run; LAYERSTORE_TEST_LONG=1 makes it twenty times as long.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from layerstore import Store, recovery
from layerstore.audit import audit
from layerstore.errors import (
    HasChildren,
    LayerExists,
    LayerHeld,
    LayerstoreError,
    NotHeld,
    UnknownHolder,
    UnknownLayer,
)
from layerstore.fs import mountinfo
from layerstore.fs.trace import set_trace
from tests.conftest import unmount_below
from tests.index import children

pytestmark = [pytest.mark.root, pytest.mark.crash]

LONG = os.environ.get("LAYERSTORE_TEST_LONG") == "1"
SEED = int(os.environ.get("LAYERSTORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
OWN = "own"
"""The model's word for the holder that is the open store itself."""
POINTS = {"create": 34, "get": 11, "put": 9, "remove": 21}
"""About how many trace points a verb passes."""
NEVER = 10_000
"""A point that no verb reaches: it ends, and its process dies after that."""
DIED = 77
"""How a child leaves at the trace point that was chosen for it."""

NAMES = ("a", "b", "c", "d", "e")
ids = st.sampled_from(NAMES)
holders = st.sampled_from([None, "docker", "cli"])


@attrs.define
class Model:
    """What a store is, without a disk: the rules in a page of Python."""

    parents: dict[str, str | None] = attrs.Factory(dict)
    committed: set[str] = attrs.Factory(set)
    holds: dict[tuple[str, str], int] = attrs.Factory(dict)
    mounts: dict[str, bool] = attrs.Factory(dict)
    """Each mounted layer, and whether it is mounted read-only."""
    files: dict[str, set[str]] = attrs.Factory(dict)

    def copy(self) -> Model:
        return Model(
            dict(self.parents),
            set(self.committed),
            dict(self.holds),
            dict(self.mounts),
            {name: set(files) for name, files in self.files.items()},
        )

    def children(self, layer: str) -> set[str]:
        return {child for child, parent in self.parents.items() if parent == layer}

    def held(self, layer: str) -> int:
        return sum(count for (held, _), count in self.holds.items() if held == layer)

    def known(self, layer: str) -> None:
        if layer not in self.parents:
            raise UnknownLayer(layer)

    def create(self, layer: str, parent: str | None) -> None:
        if layer in self.parents:
            raise LayerExists(layer)
        if parent is not None:
            self.known(parent)
            if self.mounts.get(parent) is False:
                raise LayerHeld(parent, ())
            self.committed.add(parent)
        self.parents[layer] = parent
        self.files[layer] = set()

    def get(self, layer: str, holder: str) -> None:
        self.known(layer)
        if self.parents[layer] is not None and layer not in self.mounts:
            self.mounts[layer] = layer in self.committed
        self.holds[layer, holder] = self.holds.get((layer, holder), 0) + 1

    def put(self, layer: str, holder: str) -> bool:
        self.known(layer)
        if (layer, holder) not in self.holds:
            raise NotHeld(layer, holder)
        self.holds[layer, holder] -= 1
        if not self.holds[layer, holder]:
            del self.holds[layer, holder]
        return self.unmount_unheld(layer)

    def remove(self, layer: str) -> None:
        self.known(layer)
        if self.children(layer):
            raise HasChildren(layer, (), 1)
        others = [holder for held, holder in self.holds if held == layer and holder != OWN]
        if others:
            raise LayerHeld(layer, tuple(others))
        self.holds.pop((layer, OWN), None)
        self.mounts.pop(layer, None)
        self.committed.discard(layer)
        del self.parents[layer], self.files[layer]

    def release(self, holder: str) -> tuple[str, ...]:
        layers = sorted(held for held, by in self.holds if by == holder)
        if not layers:
            raise UnknownHolder(holder)
        for layer in layers:
            del self.holds[layer, holder]
            self.unmount_unheld(layer)
        return tuple(layers)

    def cleanup(self) -> tuple[str, ...]:
        layers = tuple(sorted(self.mounts))
        self.mounts.clear()
        self.holds = {key: count for key, count in self.holds.items() if key[0] not in layers}
        return layers

    def unmount_unheld(self, layer: str) -> bool:
        return not self.held(layer) and self.mounts.pop(layer, None) is not None

    def legal(self, verb: str, alone: bool) -> Iterator[tuple[str, str | None, str | None]]:
        """Layer, parent and holder of each call that another process would not be refused."""
        for layer in NAMES:
            if verb == "create" and layer not in self.parents:
                parents = [name for name in self.parents if self.mounts.get(name) is not False]
                yield from ((layer, parent, None) for parent in (None, *parents))
            elif verb == "get" and layer in self.parents:
                yield from ((layer, None, holder) for holder in (None, "docker", "cli"))
            elif verb == "put":
                held = [by for name, by in self.holds if name == layer and by != OWN]
                yield from ((layer, None, holder) for holder in held)
            elif verb == "remove" and layer in self.parents and not self.children(layer):
                holders = {by for name, by in self.holds if name == layer}
                yield from (
                    (layer, None, None) for _ in [0] if holders <= ({OWN} if alone else set())
                )

    def end(self) -> None:
        """The open store ended, well or not: its own holds end with it."""
        for layer, holder in list(self.holds):
            if holder == OWN:
                del self.holds[layer, holder]
                self.unmount_unheld(layer)


def outcome(act: Any, *arguments: Any, **named: Any) -> Any:
    """What a call returned, or the kind of error that it was refused with."""
    try:
        return act(*arguments, **named)
    except LayerstoreError as error:
        return type(error)


def observe(store: Store) -> Model:
    """The index of a store, as a Model; the files are those of the tree."""
    layers = list(store.layers())
    me = store._me
    return Model(
        parents={layer.id: layer.parent for layer in layers},
        committed={layer.id for layer in layers if layer.committed},
        holds={(h.layer, OWN if h.holder == me else h.holder): h.count for h in store.holders()},
        mounts={mount.layer: mount.read_only for mount in store.mounts()},
        files={layer.id: set(os.listdir(store.home / layer.id / "diff")) for layer in layers},
    )


class Machine(RuleBasedStateMachine):
    """The store, the model, and what may happen to both."""

    moves = 0
    crashes = 0

    @initialize()
    def begin(self) -> None:
        base = os.path.realpath(os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm"))
        self.base = Path(tempfile.mkdtemp(prefix="layerstore-", dir=base))
        self.home = self.base / "home"
        Store.initialize(self.home)
        self.store = Store.open(self.home, timeout=5)
        self.model = Model()
        self.number = 0
        self.create("a", None)
        self.create("b", "a")

    @rule(layer=ids, parent=st.none() | ids)
    def create(self, layer: str, parent: str | None) -> None:
        found = outcome(self.store.create, layer, parent=parent)
        expected = outcome(self.model.create, layer, parent)
        assert expected == (None if getattr(found, "id", None) == layer else found)

    @rule(layer=ids, holder=holders, write=st.booleans())
    def get(self, layer: str, holder: str | None, write: bool) -> None:
        path = outcome(self.store.get, layer, holder=holder)
        expected = outcome(self.model.get, layer, holder or OWN)
        assert expected == (None if isinstance(path, Path) else path)
        if not isinstance(path, Path):
            return
        below = self.lowers(layer)
        assert self.model.files[layer] | below == set(os.listdir(path))
        base = self.model.parents[layer] is None
        if write and not (layer in self.model.committed if base else self.model.mounts[layer]):
            self.number += 1
            (path / f"{layer}{self.number}").write_text("content")
            self.model.files[layer].add(f"{layer}{self.number}")

    def lowers(self, layer: str) -> set[str]:
        """The names of the files that the layers below have."""
        parent = self.model.parents[layer]
        return set() if parent is None else self.model.files[parent] | self.lowers(parent)

    @rule(layer=ids, holder=holders)
    def put(self, layer: str, holder: str | None) -> None:
        found = outcome(self.store.put, layer, holder=holder)
        assert outcome(self.model.put, layer, holder or OWN) == found

    @rule(layer=ids)
    def remove(self, layer: str) -> None:
        found = outcome(self.store.remove, layer)
        assert outcome(self.model.remove, layer) == found

    @rule(holder=st.sampled_from(["docker", "cli"]))
    def release(self, holder: str) -> None:
        found = outcome(self.store.release, holder)
        assert outcome(self.model.release, holder) == found

    @rule()
    def cleanup(self) -> None:
        assert self.model.cleanup() == self.store.cleanup()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.model.end()
        self.store = Store.open(self.home, timeout=5)
        assert () == self.store.settled

    @rule(data=st.data(), alone=st.booleans())
    def crash_in_create(self, data: st.DataObject, alone: bool) -> None:
        self.crash(data, "create", alone)

    @rule(data=st.data(), alone=st.booleans())
    def crash_in_get(self, data: st.DataObject, alone: bool) -> None:
        self.crash(data, "get", alone)

    @rule(data=st.data(), alone=st.booleans())
    def crash_in_put(self, data: st.DataObject, alone: bool) -> None:
        self.crash(data, "put", alone)

    @rule(data=st.data(), alone=st.booleans())
    def crash_in_remove(self, data: st.DataObject, alone: bool) -> None:
        self.crash(data, "remove", alone)

    def crash(self, data: st.DataObject, verb: str, alone: bool) -> None:
        """Another process dies inside a verb; with `alone` nobody else has the store open then."""
        legal = sorted(self.model.legal(verb, alone), key=str)
        if not legal:
            return
        layer, parent, holder = data.draw(st.sampled_from(legal))
        point = data.draw(st.sampled_from([*range(POINTS[verb] + 1), *[NEVER] * 5]))
        if alone:
            self.store.close()
            self.model.end()
        before = self.model.copy()
        theirs = self.model.copy()  # the other process is another owner, and has no holds yet
        theirs.holds = {
            (held, by if by != OWN else "parent"): n for (held, by), n in theirs.holds.items()
        }
        arguments: dict[str, tuple[Any, ...]] = {
            "create": (layer, parent),
            "get": (layer, holder or OWN),
            "put": (layer, holder or OWN),
            "remove": (layer,),
        }
        expected = outcome(getattr(theirs, verb), *arguments[verb])
        theirs.end()
        theirs.holds = {
            (held, by if by != "parent" else OWN): n for (held, by), n in theirs.holds.items()
        }
        ended = children.run(lambda: self.die(verb, layer, parent, holder, point))
        assert (0, DIED) == (ended.signal, ended.code) or ended.result == kind_of(expected)
        if alone:
            self.store = Store.open(self.home, timeout=5)
        else:
            self.store.recover()
        type(self).crashes += ended.code == DIED
        after = observe(self.store)
        assert after == theirs or (ended.code == DIED and after == before), (verb, layer, point)
        self.model = after

    def die(
        self, verb: str, layer: str, parent: str | None, holder: str | None, point: int
    ) -> str | None:
        """In a child: open the store, and leave at the chosen trace point of the verb."""
        passed = -1

        def leave(_: str) -> None:
            nonlocal passed
            passed += 1
            if passed == point:
                os._exit(DIED)

        store = Store.open(self.home, timeout=5)
        named = {"create": {"parent": parent}, "remove": {}}.get(verb, {"holder": holder})
        set_trace(leave)
        return kind_of(outcome(getattr(store, verb), layer, **named))

    @invariant()
    def the_index_is_the_model(self) -> None:
        type(self).moves += 1
        assert self.model == observe(self.store)
        for layer in self.model.parents:
            mounted = mountinfo.is_mount_root(f"{self.home}/{layer}/merged")
            assert (layer, layer in self.model.mounts) == (layer, mounted)

    @invariant()
    def the_audit_is_clean(self) -> None:
        report = audit(self.home)
        assert report.clean, report.findings

    def teardown(self) -> None:
        set_trace(None)
        if hasattr(self, "base"):
            try:
                self.store.close()
            finally:
                unmount_below(self.base)
                shutil.rmtree(self.base)


def kind_of(found: Any) -> str | None:
    """An outcome as a word, for a child to tell: the name of a refusal, or that it went well."""
    return found.__name__ if isinstance(found, type) else "done"


def drive(*, examples: int, phases: Collection[Phase]) -> None:
    """Run the machine so many times."""
    options = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )
    hypothesis.seed(SEED)(Machine)
    Machine.moves = Machine.crashes = 0
    try:
        run_state_machine_as_test(Machine, settings=options)
    except BaseException as error:
        error.add_note(f"LAYERSTORE_TEST_SEED={SEED} repeats this run")
        raise


def test_the_store_is_its_model() -> None:
    """Whatever is done in whatever order, crashes included, the store says what the model says."""
    drive(examples=2000 if LONG else 100, phases=[Phase.explicit, Phase.generate, Phase.shrink])
    print(f"{Machine.moves} moves, {Machine.crashes} crashes, seed {SEED}")
    assert Machine.crashes > 30


@pytest.mark.parametrize("omitted", ["settle_operations", *["unmount_unheld"] * LONG])
def test_the_machine_would_notice(omitted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one act of recovery left out, the same machine finds the store different from its model."""
    monkeypatch.setattr(recovery, omitted, lambda hands, **_: iter(()))
    with pytest.raises((AssertionError, LayerstoreError, OSError)):
        drive(examples=1000, phases=[Phase.generate])
