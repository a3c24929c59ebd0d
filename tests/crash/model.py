"""Owns what a store must be after each verb: the smallest model that a verdict can be checked with.

A verb is a value. It says which states it may leave when its process dies inside it, and it can be
done to a real store. What was acknowledged is decided by the lines that left the process before it
died; what was in flight may have happened or not, and nothing in between.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from layerstore import Store
from layerstore.db import engine
from layerstore.errors import LayerstoreError
from layerstore.fs import layout, trace
from layerstore.images import import_image, records
from layerstore.images.model import chain_ids
from layerstore.testing import die, hooked
from tests.crash import shim
from tests.fs.archive.trees import END, entry
from tests.images.build import docker, sha, tar

ME = "me"
"""The hold of the open store itself: it ends with the process."""


@attrs.frozen
class Facts:
    """What a create says about a layer."""

    parent: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    read_write: bool = False


@attrs.frozen
class State:
    """Layers, counted holds, and the files that each layer's own `diff` has."""

    layers: Mapping[str, Facts] = attrs.field(factory=dict)
    holds: Mapping[tuple[str, str], int] = attrs.field(factory=dict)
    files: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)

    def with_layer(self, layer: str, facts: Facts) -> State:
        return attrs.evolve(
            self, layers={**self.layers, layer: facts}, files={**self.files, layer: {}}
        )

    def without_layer(self, layer: str) -> State:
        return State(
            {name: facts for name, facts in self.layers.items() if name != layer},
            {key: count for key, count in self.holds.items() if key[0] != layer},
            {name: files for name, files in self.files.items() if name != layer},
        )

    def with_file(self, layer: str, name: str, text: str) -> State:
        return attrs.evolve(
            self, files={**self.files, layer: {**self.files.get(layer, {}), name: text}}
        )

    def with_hold(self, layer: str, holder: str, change: int) -> State:
        holds = dict(self.holds)
        count = holds.pop((layer, holder), 0) + change
        return attrs.evolve(self, holds={**holds, (layer, holder): count} if count > 0 else holds)

    def without_holds(self, chosen: Callable[[str, str], bool]) -> State:
        return attrs.evolve(
            self, holds={key: n for key, n in self.holds.items() if not chosen(*key)}
        )

    def mounted(self) -> set[str]:
        """Layers that are mounted: a base layer never is."""
        return {layer for layer, _ in self.holds if self.layers[layer].parent is not None}

    def after_death(self) -> State:
        return self.without_holds(lambda _, holder: holder == ME)


@attrs.define
class Live:
    """The process that verbs are done in."""

    home: Path
    server: socket.socket | None = None
    """Where descriptors go that must outlive this process."""
    say: Callable[[Any], None] = lambda _: None
    """Tells the server something at once."""
    store: Store | None = None
    kept: list[int] = attrs.Factory(list)

    @property
    def opened(self) -> Store:
        assert self.store is not None
        return self.store


@attrs.frozen
class Verb:
    """Something that is done to a store."""

    def states(self, before: State) -> list[State]:
        """The states that it passes through, in order; the last one is where it ends."""
        return [before]

    def act(self, live: Live) -> dict[str, Any]:
        """Do it. What it was told belongs to the acknowledgement."""
        raise NotImplementedError


@attrs.frozen
class Open(Verb):
    durability: str = "full"
    compact_above: int = 100_000
    maps: tuple[str, ...] = ()
    """Of uids and gids alike."""

    def act(self, live: Live) -> dict[str, Any]:
        live.store = Store.open(
            live.home,
            timeout=20,
            durability=self.durability,
            compact_above=self.compact_above,
            uid_maps=self.maps,
            gid_maps=self.maps,
        )
        return {}


@attrs.frozen
class Close(Verb):
    def states(self, before: State) -> list[State]:
        return [before.after_death()]

    def act(self, live: Live) -> dict[str, Any]:
        live.opened.close()
        return {}


@attrs.frozen
class Initialize(Verb):
    def act(self, live: Live) -> dict[str, Any]:
        Store.initialize(live.home)
        return {}


@attrs.frozen
class Rebuild(Verb):
    """`db rebuild`: labels and holders are only in the journal; what is mounted gets a holder."""

    def states(self, before: State) -> list[State]:
        layers = {name: Facts(parent=facts.parent) for name, facts in before.layers.items()}
        holds = {(layer, "unknown"): 1 for layer in before.after_death().mounted()}
        return [State(layers, holds, before.files)]

    def act(self, live: Live) -> dict[str, Any]:
        Store.rebuild(live.home)
        return {}


SAVED = f"{layout.DATABASE}.before-0001"
"""Where a copy of the database lies from before an upgrade; here as if there had been one."""


@attrs.frozen
class Save(Verb):
    def act(self, live: Live) -> dict[str, Any]:
        path = os.fspath(live.home / layout.DATABASE)
        engine.vacuum_into(path, os.fspath(live.home / SAVED), timeout=20)
        return {}


@attrs.frozen
class Restore(Verb):
    """`db restore` of what Save saved: what was made since is taken in, and what was removed dropped."""

    since: tuple[str, ...]

    def states(self, before: State) -> list[State]:
        layers = {
            name: Facts(parent=facts.parent) if name in self.since else facts
            for name, facts in before.layers.items()
        }
        holds = {(layer, "unknown"): 1 for layer in before.mounted()}
        return [State(layers, holds, before.files)]

    def act(self, live: Live) -> dict[str, Any]:
        Store.restore(live.home, live.home / SAVED)
        return {}


@attrs.frozen
class Adopt(Verb):
    """`db adopt-copy` of a home whose mounts and holders are the original's."""

    def states(self, before: State) -> list[State]:
        return [before.without_holds(lambda layer, holder: True)]

    def act(self, live: Live) -> dict[str, Any]:
        Store.adopt(live.home, this_is="copy")
        return {}


@attrs.frozen
class Create(Verb):
    layer: str
    facts: Facts = Facts()

    def states(self, before: State) -> list[State]:
        return [before.with_layer(self.layer, self.facts)]

    def act(self, live: Live) -> dict[str, Any]:
        store = live.opened
        make = store.create_read_write if self.facts.read_write else store.create
        made = make(self.layer, parent=self.facts.parent, labels=dict(self.facts.labels))
        return {"layer": made.id, "link": made.link}


@attrs.frozen
class CreateAndCompact(Create):
    """A create after which the store compacts its journal by itself."""

    def act(self, live: Live) -> dict[str, Any]:
        made = super().act(live)
        assert live.opened.status().archives, "nothing was compacted"
        return made


@attrs.frozen
class Get(Verb):
    layer: str
    holder: str | None = None

    def states(self, before: State) -> list[State]:
        return [before.with_hold(self.layer, self.holder or ME, 1)]

    def act(self, live: Live) -> dict[str, Any]:
        path = live.opened.get(self.layer, holder=self.holder)
        assert path.is_dir(), path
        return {}


@attrs.frozen
class GetLost(Get):
    """A get of what the journal has mounted and the kernel has not: that mount, and whoever held
    it, come to their end first."""

    def states(self, before: State) -> list[State]:
        ended = before.without_holds(lambda layer, _: layer == self.layer)
        return [ended, ended.with_hold(self.layer, self.holder or ME, 1)]


@attrs.frozen
class Put(Verb):
    layer: str
    holder: str | None = None

    def states(self, before: State) -> list[State]:
        return [before.with_hold(self.layer, self.holder or ME, -1)]

    def act(self, live: Live) -> dict[str, Any]:
        live.opened.put(self.layer, holder=self.holder)
        return {}


@attrs.frozen
class Remove(Verb):
    layer: str

    def states(self, before: State) -> list[State]:
        # The first thing that goes is this process's own hold.
        dropped = before.without_holds(lambda layer, who: (layer, who) == (self.layer, ME))
        return [dropped, before.without_layer(self.layer)]

    def act(self, live: Live) -> dict[str, Any]:
        live.opened.remove(self.layer)
        return {}


@attrs.frozen
class Cleanup(Verb):
    """Unmounts everything, one layer after the other."""

    def states(self, before: State) -> list[State]:
        found, now = [before], before
        for name in sorted(before.mounted()):
            now = now.without_holds(lambda layer, _, name=name: layer == name)  # type: ignore[misc]
            found.append(now)
        return found

    def act(self, live: Live) -> dict[str, Any]:
        live.opened.cleanup()
        return {}


@attrs.frozen
class Release(Verb):
    """Ends the holds of a name, one layer after the other."""

    holder: str

    def states(self, before: State) -> list[State]:
        found, now = [before], before
        for name in sorted(layer for layer, holder in before.holds if holder == self.holder):
            now = now.with_hold(name, self.holder, -before.holds[(name, self.holder)])
            found.append(now)
        return found

    def act(self, live: Live) -> dict[str, Any]:
        live.opened.release(self.holder)
        return {}


@attrs.frozen
class Compact(Verb):
    """Move events to an archive: what the store is does not change by it."""

    keep: int
    keep_archives: int | None = None

    def act(self, live: Live) -> dict[str, Any]:
        done = live.opened.compact(keep=self.keep, keep_archives=self.keep_archives)
        assert done.events, "there was nothing to move"
        return {}


@attrs.frozen
class Repair(Verb):
    """Mend what an audit finds: what the store is does not change by it."""

    taken_in: tuple[tuple[str, Facts], ...] = ()
    """Layers that the index gets by it."""

    def states(self, before: State) -> list[State]:
        for layer, facts in self.taken_in:
            before = before.with_layer(layer, facts)
        return [before]

    def act(self, live: Live) -> dict[str, Any]:
        outcome = live.opened.repair()
        bad = [item for item in outcome.done if item.outcome != "done"]
        assert outcome.done and not bad and not outcome.left, outcome
        return {"repairs": [item.operation for item in outcome.done if item.operation]}


@attrs.frozen
class TakeBack(Verb):
    """Take back the repairs of this store, the last one first."""

    def act(self, live: Live) -> dict[str, Any]:
        done = [
            entry.operation
            for entry in live.opened.events(kind="repair.done")
            if entry.operation is not None
        ]
        assert done
        for operation in reversed(done):
            back = live.opened.undo_repair(operation)
            assert "done" == back.outcome, back
        return {}


@attrs.frozen
class EmptyQuarantine(Verb):
    def act(self, live: Live) -> dict[str, Any]:
        emptied = live.opened.empty_quarantine()
        assert emptied and not [item for item in emptied if item.message], emptied
        return {}


@attrs.frozen
class Refused(Verb):
    """Something that must be refused, and change nothing."""

    verb: Verb

    def act(self, live: Live) -> dict[str, Any]:
        try:
            self.verb.act(live)
        except LayerstoreError as error:
            return {"refused": error.code}
        raise AssertionError(f"{self.verb} was not refused")


@attrs.frozen
class Write(Verb):
    """Write a file into a layer, through its mount where it has one."""

    layer: str
    name: str
    text: str

    def states(self, before: State) -> list[State]:
        texts = ("", self.text[: len(self.text) // 2], self.text)
        return [before.with_file(self.layer, self.name, text) for text in texts]

    def act(self, live: Live) -> dict[str, Any]:
        path = _content(live, self.layer) / self.name
        path.write_text(self.text)
        return {}


@attrs.frozen
class Apply(Verb):
    """Apply an archive of some files, in the form in which they are packed again."""

    layer: str
    files: tuple[tuple[str, str], ...] = ()

    def states(self, before: State) -> list[State]:
        for name, text in self.files:
            before = before.with_file(self.layer, name, text)
        return [before]

    def act(self, live: Live) -> dict[str, Any]:
        archive = archive_of(dict(self.files))
        made = live.opened.apply_diff(self.layer, io.BytesIO(archive))
        assert made.diff_id == f"sha256:{hashlib.sha256(archive).hexdigest()}", made
        return {"layer": made.id, "link": made.link}


Files = tuple[tuple[str, str], ...]


@attrs.frozen
class Fetch(Verb):
    """Put an image's archive beside the home, to import it."""

    layers: tuple[Files, ...]

    def act(self, live: Live) -> dict[str, Any]:
        layers = [archive_of(dict(files)) for files in self.layers]
        tar(live.home.parent / "image.tar", docker(layers, tags=["web:1"]))
        return {}


@attrs.frozen
class Import(Verb):
    """Import that image: for each layer a create and an apply."""

    layers: tuple[Files, ...]

    def states(self, before: State) -> list[State]:
        found = []
        parent = None
        for layer, files in zip(self.ids(), self.layers, strict=True):
            before = before.with_layer(layer, Facts(parent))
            found.append(before)
            for name, text in files:
                before = before.with_file(layer, name, text)
            found.append(before)
            parent = layer
        return found

    def ids(self) -> list[str]:
        return chain_ids([sha(archive_of(dict(files))) for files in self.layers])

    def act(self, live: Live) -> dict[str, Any]:
        done = import_image(live.opened, live.home.parent / "image.tar")
        assert self.ids() == [layer.id for layer in done.chain], done
        (record,) = records.of_layer(live.opened, done.layer)
        assert (done.config_digest, ("web:1",)) == (record.digest, record.names)
        return {"layer": done.layer, "link": live.opened.layer(done.layer).link}


@attrs.frozen
class KeepOpen(Verb):
    """Open a file below the layer's mount, so that it is busy: until this process dies, or longer."""

    layer: str
    longer: bool

    def act(self, live: Live) -> dict[str, Any]:
        descriptor = os.open(_content(live, self.layer), os.O_RDONLY | os.O_DIRECTORY)
        live.kept.append(descriptor)
        if self.longer:
            assert live.server is not None
            socket.send_fds(live.server, [b"x"], [descriptor])
            os.close(live.kept.pop())
        return {}


@attrs.frozen
class Accomplice(Verb):
    """Another process opens the store, does this, and is killed at this point.

    `stands`: what of it stays done, once it is settled.
    """

    verbs: tuple[Verb, ...]
    point: str
    stands: tuple[Verb, ...] = ()

    def states(self, before: State) -> list[State]:
        for verb in self.stands:
            before = verb.states(before)[-1]
        return [before]

    def act(self, live: Live) -> dict[str, Any]:
        pid = os.fork()
        if pid == 0:
            try:
                other = Live(live.home)
                Open().act(other)
                with hooked(lambda point: die() if point == self.point else None):
                    for verb in self.verbs:
                        verb.act(other)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"{self.point} was never passed"
        return {}


@attrs.frozen
class Meanwhile(Verb):
    """A verb that must fail, because of what somebody else does at one point of it."""

    verb: Verb
    point: str
    """A pattern, as the shell knows them."""
    other: Callable[[Path], None]
    error: str
    """The code of the error that it must raise."""
    makes: str = ""
    """The layer that the other makes, which nobody may touch."""

    def act(self, live: Live) -> dict[str, Any]:
        outer = trace.current()

        def hook(point: str) -> None:
            if fnmatchcase(point, self.point):
                apart(lambda: self.other(live.home))
                live.say({"foreign": self.makes})
            if outer is not None:
                outer(point)

        try:
            with hooked(hook):
                self.verb.act(live)
        except (LayerstoreError, OSError) as error:
            said = getattr(error, "code", type(error).__name__)
            assert said == self.error, error
            return {"refused": said}
        raise AssertionError(f"{self.verb} was not refused")


def apart(work: Callable[[], None]) -> None:
    """Do something in another process, which no fault is meant for."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            shim.disarm()
            trace.set_trace(None)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"another process failed: {status}"


def archive_of(files: Mapping[str, str]) -> bytes:
    """The archive that an Apply of these files is given."""
    return b"".join(entry(name, text.encode()) for name, text in sorted(files.items())) + END


def _content(live: Live, layer: str) -> Path:
    merged = live.home / layer / "merged"
    return merged if merged.is_dir() else live.home / layer / "diff"


def ladder(before: State, verbs: tuple[Verb, ...]) -> list[list[State]]:
    """For each verb the states that a death inside it may leave, and at the end the last state."""
    found = []
    for verb in verbs:
        passed = verb.states(before)
        found.append([before, *passed])
        before = passed[-1]
    return [*found, [before]]


def line(value: Any) -> bytes:
    """One line for a pipe."""
    return json.dumps(value).encode() + b"\n"
