"""Owns setting orphans aside, putting them back, and removing them for good; it must not judge them.

One process at a time acts on a quarantine. Whoever comes next settles what a dead one left: a layer
that had left its tree is set aside whole, of one that had not nothing is left here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Set
from datetime import UTC, datetime
from typing import Final

import attrs

from layerstore import legacy
from layerstore.errors import Busy, LayerstoreError, Refused
from layerstore.fs import files, inuse, layout, locks
from layerstore.fs.durable import SyncFailed
from layerstore.fs.perform import Performer
from layerstore.legacy.detecting import Found
from layerstore.orphans import notes, place, plan
from layerstore.orphans.asking import Asking, Chosen, batches, held
from layerstore.orphans.notes import Note
from layerstore.orphans.place import Place
from layerstore.orphans.plan import Ways
from layerstore.verdicts import Judged

_WAIT: Final = 10.0
"""Seconds to wait for another process that acts on the same quarantine."""


@attrs.frozen
class Entry:
    """What lies in a quarantine, by its note; `whole`: nothing of it is left in the tree."""

    note: Note
    path: str
    whole: bool = True


@attrs.frozen
class Done:
    """What came of one layer: `removed`, `restored`, `emptied`, or `left`, and why."""

    layer: str
    outcome: str
    why: str = ""
    bytes: int | None = None
    operation: str = ""


Told = Callable[[Done], None]


def listed(found: Found, quarantine: str) -> tuple[Entry, ...]:
    """What of a tree is set aside, the oldest first. Changes nothing."""
    entries = []
    for name in _names(quarantine):
        note = _note(f"{quarantine}/{name}")
        if note is None or note.home != found.home or note.operation != name:
            continue
        path = f"{quarantine}/{name}/{plan.LAYER}"
        if os.path.lexists(path):
            whole = not _led_to(found.home, note)
            entries.append(Entry(note, path, whole))
    return tuple(sorted(entries, key=lambda entry: (entry.note.at, entry.note.layer)))


def _names(quarantine: str) -> list[str]:
    try:
        return sorted(os.listdir(quarantine))
    except FileNotFoundError:
        return []


def _note(entry: str) -> Note | None:
    try:
        with open(f"{entry}/{plan.NOTE}", "rb", opener=files.open_quietly) as file:
            return notes.load(file.read(1 << 16).decode())
    except (OSError, ValueError):
        return None


def _led_to(home: str, note: Note) -> tuple[str, ...]:
    """The links of a layer that are in its tree."""
    wanted = layout.link_target(note.layer)
    return tuple(
        link
        for link in note.links
        if files.read_symlink(f"{home}/{layout.short_link(link)}") == wanted
    )


@contextlib.contextmanager
def opened(found: Found, quarantine: str) -> Iterator[Quarantine]:
    """The quarantine of a tree, to oneself; what a dead process left there is settled.

    Raises Busy where another process has it, Refused where nothing can be renamed to it.
    """
    with place.reached(found, quarantine) as where:
        hands = Quarantine(found, where, Performer(where.base, ()))
        with hands.words():
            hands.begin()
            lock = f"{where.base}/{where.quarantine}/{plan.LOCK}"
            with locks.alone(lock, timeout=_WAIT) as had:
                if not had:
                    raise Busy(f"Another process is at {where.path}.", hint="Try again.")
                hands.settle()
                yield hands


@attrs.frozen
class Quarantine:
    """One quarantine, locked by this process."""

    _found: Found
    _place: Place
    _performer: Performer

    @contextlib.contextmanager
    def words(self) -> Iterator[None]:
        """Errors name paths as people know them, and not by our descriptor."""
        try:
            yield
        except OSError as error:
            for name in ("filename", "filename2"):
                path = getattr(error, name)
                if isinstance(path, str) and path.startswith(self._place.base):
                    setattr(error, name, self._place.shown + path[len(self._place.base) :])
            raise

    def begin(self) -> None:
        """The directory, if it is not there."""
        if not os.path.isdir(f"{self._place.base}/{self._place.quarantine}"):
            self._run(plan.quarantine(self._place.quarantine), "orphan-begin")

    def entries(self) -> tuple[Entry, ...]:
        return listed(self._found, self._place.path)

    # --- setting aside ----------------------------------------------------------------------------

    def remove(self, chosen: Chosen, asking: Asking, told: Told) -> None:
        """Set orphans aside, each if it is one still. What fails is left, and the rest goes on."""
        for batch in batches(chosen.layers):
            try:
                with held(self._found):
                    self._set_aside(batch, asking, told)
            except Busy as error:
                for one in batch:
                    told(Done(one.layer, "left", str(error)))

    def _set_aside(self, chosen: tuple[Judged, ...], asking: Asking, told: Told) -> None:
        """Write the notes of all, ask about all, and then rename each."""
        links = self._links()
        open_notes = {}
        try:
            for one in chosen:
                note = self._noted(one, links.get(one.layer, ()))
                open_notes[note.operation] = note
                steps = plan.prepare(self._ways(note), notes.dump(note))
                why = self._tried(note, steps, "orphan-prepare")
                if why:
                    del open_notes[note.operation]
                    told(Done(one.layer, "left", why))
            why_kept, went = _asked(asking)
            for note in tuple(open_notes.values()):
                why = why_kept(note.layer)
                if why:
                    self._run(plan.dispose(self._ways(note)), "orphan-stays")
                else:
                    why = self._tried(note, plan.away(self._ways(note)), "orphan-away")
                del open_notes[note.operation]
                if why:
                    told(Done(note.layer, "left", why))
                    continue
                went(note.layer)
                told(Done(note.layer, "removed", bytes=note.bytes, operation=note.operation))
        except SyncFailed:
            raise  # nobody knows what is on the disk: whoever comes next looks
        except BaseException:
            for operation in open_notes:
                self._settle(operation)
            raise

    def _tried(self, note: Note, steps: plan.Steps, name: str) -> str:
        """Why it could not be done, in words; what is half done then is settled."""
        try:
            self._run(steps, name)
        except SyncFailed:
            raise
        except (LayerstoreError, OSError) as error:
            self._settle(note.operation)
            return str(error)
        return ""

    def _noted(self, one: Judged, links: Iterable[str]) -> Note:
        return Note(
            operation=os.urandom(16).hex(),
            layer=one.layer,
            home=self._found.home,
            at=datetime.now(UTC).replace(microsecond=0),
            why=one.why,
            kind=self._found.kind,
            driver=self._found.driver,
            bytes=one.bytes,
            parent=one.parent,
            links=tuple(links),
        )

    def _links(self) -> dict[str, list[str]]:
        """By layers, their names in `l/`, also those that their `link` files do not have."""
        directory = f"{self._found.home}/{layout.LINKS}"
        found: dict[str, list[str]] = {}
        for name in _names(directory):
            target = files.read_symlink(f"{directory}/{name}")
            layer = target[3 : -len("/diff")]
            if layer and target == layout.link_target(layer):
                found.setdefault(layer, []).append(name)
        return found

    # --- putting back -----------------------------------------------------------------------------

    def restore(self, wanted: Iterable[str], told: Told) -> None:
        """Put layers back, as they were. Raises Refused for what is not there, or has no place."""
        entries = self.entries()
        chosen = {entry.note.operation: entry for entry in (_named(entries, w) for w in wanted)}
        there = {entry.note.layer for entry in entries}
        depths = _depths(entries)
        for entry in sorted(chosen.values(), key=lambda entry: depths[entry.note.layer]):
            note = entry.note
            self._check_place_of(note, there)
            with held(self._found):
                try:
                    kept = self._kept_links(note)
                    self._run(plan.back(self._ways(note), kept), "orphan-back")
                except SyncFailed:
                    raise
                except BaseException:
                    self._settle(note.operation)
                    raise
            told(Done(note.layer, "restored", operation=note.operation))

    def _kept_links(self, note: Note) -> tuple[str, ...]:
        directory = f"{self._place.path}/{note.operation}/{plan.LINKS}"
        return tuple(name for name in _names(directory) if name in note.links)

    def _check_place_of(self, note: Note, there: Set[str]) -> None:
        """`there`: what was in the quarantine."""
        home = self._found.home
        taken = [f"{home}/{note.layer}"]
        taken += [f"{home}/{layout.short_link(link)}" for link in self._kept_links(note)]
        for path in taken:
            if os.path.lexists(path):
                raise Refused(
                    f"{note.layer} is not put back: {path} is there.",
                    hint="Whatever made that is not touched.",
                )
        if note.parent in there and not os.path.lexists(f"{home}/{note.parent}"):
            raise Refused(
                f"{note.layer} is not put back: its parent {note.parent} is set aside, too.",
                hint=f"--restore {note.parent} as well.",
            )

    # --- for good ---------------------------------------------------------------------------------

    def empty(self, before: datetime, told: Told, *, run_root: str | None = None) -> None:
        """Remove for good what was set aside before a moment, unless something asks for it by now."""
        entries = self.entries()
        due = [e for e in entries if e.note.at <= before]
        if not due:
            return
        wanted = self._asked_for(run_root)
        used = inuse.below(self._place.path)
        depths = _depths(entries)
        standing: dict[str | None, list[str]] = {}
        for entry in entries:
            standing.setdefault(entry.note.parent, []).append(entry.note.layer)
        for entry in sorted(due, key=lambda e: -depths[e.note.layer]):
            note = entry.note
            above = standing.get(note.layer, ())
            if note.layer in wanted or wanted.intersection(note.links):
                why = "a record or a layer names it by now: --restore puts it back"
            elif above:
                why = f"{above[0]} stands on it, and is here still"
            elif note.operation in used:
                why = str(used[note.operation][0])
            else:
                why = self._dispose(note)
            if why:
                told(Done(note.layer, "left", why))
                continue
            standing[note.parent].remove(note.layer)
            told(Done(note.layer, "emptied", bytes=note.bytes, operation=note.operation))

    def _dispose(self, note: Note) -> str:
        try:
            self._run(plan.dispose(self._ways(note)), "orphan-empty")
        except SyncFailed:
            raise
        except (LayerstoreError, OSError) as error:
            return str(error)
        return ""

    def _asked_for(self, run_root: str | None) -> frozenset[str]:
        """Every layer that is on record, and every link that a layer stands on."""
        manifest = legacy.read(self._found, run_root=run_root)
        if manifest.hidden:
            raise Refused(
                f"Nothing is removed for good: {manifest.hidden[0].path} cannot be read, and may name any layer.",
            )
        found = {record.layer for record in manifest.records}
        found |= {layer for one in manifest.containers for layer in one.layers}
        for name in _names(self._found.home):
            with contextlib.suppress(OSError):
                text = files.read_lower(self._found.home, name) or ""
                found |= {part[2:] for part in text.split(":")}
        return frozenset(found)

    # --- after a death ----------------------------------------------------------------------------

    def settle(self) -> None:
        """Finish what has left the tree, and sweep what has not, or is going."""
        for name in _names(self._place.path):
            operation = name.removeprefix(".").removesuffix(".tmp")
            if notes.OPERATION.fullmatch(operation):
                self._settle(operation)

    def _settle(self, operation: str) -> None:
        going = plan.going(self._place.quarantine, operation)
        if os.path.lexists(f"{self._place.base}/{going}"):
            self._run(plan.sweep(going), "settle:orphan-sweep")
        note = _note(f"{self._place.path}/{operation}")
        if note is None or note.home != self._found.home:
            return  # another tree's, or nobody's that is known: it stays
        ways = self._ways(note)
        tree = f"{self._found.home}/{note.layer}"
        if not os.path.lexists(f"{self._place.base}/{ways.inside}"):
            steps = (*plan.links_back(ways, self._kept_links(note)), *plan.dispose(ways))
            self._run(steps, "settle:orphan-stays")
        elif not os.path.lexists(tree):
            left = _led_to(self._found.home, note)
            self._run(plan.links_follow(ways, left), "settle:orphan-away")

    # --- hands ------------------------------------------------------------------------------------

    def _ways(self, note: Note) -> Ways:
        where = self._place
        return Ways(where.home, where.quarantine, note.operation, note.layer, note.links)

    def _run(self, steps: plan.Steps, name: str) -> None:
        self._performer.run(steps, name=name, first=True)


def _asked(asking: Asking) -> tuple[Callable[[str], str], Callable[[str], None]]:
    """Why a layer is kept, by one look, and how to tell it that one went; where it fails, all are."""
    try:
        look = asking.look()
    except (LayerstoreError, OSError) as error:
        said = str(error)
        return lambda _: said, lambda _: None
    return look.why_kept, look.went


def _named(entries: tuple[Entry, ...], word: str) -> Entry:
    exact = [e for e in entries if word in (e.note.layer, e.note.operation)]
    found = exact or [e for e in entries if word and e.note.layer.startswith(word)]
    if len(found) != 1:
        said = f"{len(found)} that are set aside are meant" if found else "it is not set aside"
        raise Refused(f"{word!r}: {said}.", hint="'layerstore orphans PATH -v' lists what is.")
    return found[0]


def _depths(entries: Iterable[Entry]) -> dict[str, int]:
    """By layers, how many of the others each stands on."""
    parents = {e.note.layer: e.note.parent for e in entries}
    found = {}
    for layer, parent in parents.items():
        at, depth = parent, 0
        while at in parents and depth <= len(parents):
            at, depth = parents[at], depth + 1
        found[layer] = depth
    return found
