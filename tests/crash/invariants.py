"""Owns the verdict on a home after a death and an open: what must hold, whatever died where.

It runs in a process of its own, on a store that nobody has open. `judge` mends the home as a user
would, `check` compares it with the states that are allowed, and `use` works with every layer.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from layerstore import Reader, Store, archives, repair_steps, replay
from layerstore import events as e
from layerstore import model as m
from layerstore.audit import audit
from layerstore.errors import LayerHeld, NoStore, StoreCopied, StoreDamaged
from layerstore.fs import layout, mountinfo
from tests.crash import recorded
from tests.crash.model import Create, Facts, State, archive_of

OWN_NAMES = {
    "store.json",
    "place.json",
    "store.lock",
    "journal.db",
    "journal.db.before-0001",
    "journal.db-wal",
    "journal.db-shm",
    "write.lock",
    "archive",
    "compact.lock",
    "probes.json",
    "userxattr",
    "staging",
    "trash",
    "quarantine",
    "owners",
    "ballast",
    "images",
    "manifests",
}


class Violation(AssertionError):
    """An invariant does not hold."""


def require(holds: bool, message: str) -> None:
    """Raise Violation with the message unless it holds."""
    if not holds:
        raise Violation(message)


def mend(home: Path, how: str) -> tuple[m.Settled, ...]:
    """Open and close the store, as a user does after a death; what recovery settled.

    `how`: where an initialization, a rebuild, an adoption or a repair died, its user does that again.
    """
    try:
        store = Store.open(home, timeout=20)
    except NoStore:
        if how != "initialize":
            raise
        Store.initialize(home)
        store = Store.open(home, timeout=20)
    except StoreCopied:
        if how != "adopt":
            raise
        Store.adopt(home, this_is="copy")
        store = Store.open(home, timeout=20)
    except StoreDamaged:
        if how != "rebuild":
            raise
        Store.rebuild(home)
        store = Store.open(home, timeout=20)
    settled = store.settled
    if how == "repair":
        # What an open set apart must be whole after it: the audit says so.
        settled = tuple(item for item in settled if item.what != "isolated")
        store.repair()
    store.close()
    return settled


def judge(
    home: Path,
    allowed: Sequence[State],
    links: Mapping[str, str],
    settled: Sequence[m.Settled],
    last_seq: int,
    *,
    lost: Sequence[str] = (),
    foreign: Sequence[str] = (),
    again: Sequence[Create] = (),
    known: Counter[str] | None = None,
) -> State:
    """Everything that must hold once the home was mended; the state that it is in.

    `known`: how often a home that is the same in every respect was judged before; what was worked
    with already is worked with again every eighth time. None: every time.

    `lost`: layers that may be mounted in the index alone, until somebody gets them. `foreign`:
    directories that somebody else made meanwhile. `again`: the create that was in flight.
    """
    failed = [item for item in settled if item.what in ("failed", "isolated")]
    require(not failed, f"recovery could not settle: {failed}")
    found = check(home, allowed, links, last_seq, lost=lost, foreign=foreign)
    if known is not None:
        like = _likeness(home, (again, sorted(foreign)))
        known[like] += 1
        if known[like] % SELDOM != 1:
            return found
    use(home, found, again)
    found = found.without_holds(
        lambda layer, _: layer in lost and not mountinfo.is_mount_root(f"{home}/{layer}/merged")
    )
    # The audit and the fold of the journal had their turn.
    return check(home, [found], links, last_seq, whole=False, foreign=foreign)


SELDOM: Final = 8
"""A home that is the same as one before is worked with so seldom, and looked at every time."""


def _likeness(home: Path, more: object) -> str:
    """What a home is, without times, names of operations, and links that are made up each time."""
    with Reader.open(home) as reader:
        links = {layer.link: f"<{layer.id}>" for layer in reader.layers()}
        found = [_telling(reader, str(table)) for (table,) in reader.select(_TABLES)]
    entries: list[object] = []
    for top, directories, names in os.walk(home):
        if Path(top) == home:
            directories.remove(layout.OWN)
        directories.sort()
        for name in sorted((*directories, *names)):
            path = os.path.join(top, name)
            status = os.lstat(path)
            content = ""
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                content = repr(Path(path).read_bytes())
            kept = [
                (key, b"" if key.endswith(".overlay.uuid") else os.getxattr(path, key))
                for key in _attributes(path)
            ]
            facts = (status.st_mode, status.st_uid, status.st_gid)
            entries.append((os.path.relpath(path, home), *facts, content, kept))
        directories[:] = [d for d in directories if not os.path.ismount(os.path.join(top, d))]
    texts = [repr((found, more)), *map(repr, entries)]
    for link, name in links.items():
        texts = [text.replace(link, name) for text in texts]
    text = "\n".join([texts[0], *sorted(texts[1:])])
    return hashlib.sha256(text.encode()).hexdigest()


def _attributes(path: str) -> list[str]:
    return [] if os.path.islink(path) else sorted(os.listxattr(path))


_TABLES: Final = """SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
    AND name NOT IN ('events', 'owners', 'operations', 'meta', 'alembic_version') ORDER BY name"""
_MADE_UP: Final = {"created_at", "created_seq", "since_at", "since_seq", "owner", "mount_id"}
"""Columns that are another value each time, and that nothing depends on."""


def _telling(reader: Reader, table: str) -> object:
    names = [str(row[1]) for row in reader.select(f"PRAGMA table_info({table})")]
    wanted = ", ".join(name for name in names if name not in _MADE_UP)
    return (table, wanted, reader.select(f"SELECT {wanted} FROM {table} ORDER BY 1, 2"))


def check(
    home: Path,
    allowed: Sequence[State],
    links: Mapping[str, str],
    last_seq: int = 0,
    *,
    whole: bool = True,
    lost: Sequence[str] = (),
    foreign: Sequence[str] = (),
) -> State:
    """The one allowed state that the home is in."""
    if whole:
        _check_audit(home, lost, foreign)
    with Reader.open(home) as reader:
        _check_records(reader, last_seq)
        if whole:
            _check_fold(reader)
        found = _state_of(home, reader)
        _check_layers(home, reader, foreign)
        _check_applied(home, reader)
        _check_quarantine(home, reader)
        _check_mounts(home, reader, lost)
        for one in reader.layers():
            if one.id in links:
                require(one.link == links[one.id], f"{one.id} has another link")
    _check_own(home)
    wrong = recorded.differences(home) if whole else []
    require(not wrong, "; ".join(wrong))
    wanted = [state.after_death() for state in allowed]
    require(
        found in wanted, f"the store is\n  {found}\nand may be\n  " + "\n  ".join(map(str, wanted))
    )
    for (layer, holder), count in found.holds.items():
        require(not holder.startswith(m.OWNER_PREFIX), f"{layer}: {holder} holds it {count} times")
    return found


def _check_audit(home: Path, lost: Sequence[str], foreign: Sequence[str]) -> None:
    """The audit has nothing to say but notes."""
    bad = [
        finding
        for finding in audit(home, archives=True).findings
        if finding.severity is not m.Severity.NOTE
        and not (finding.code == "lost-mount" and finding.layer in lost)
        and not (finding.code == "unknown-layer" and finding.layer in foreign)
    ]
    require(not bad, "audit: " + "; ".join(f"{f.code}: {f.message}" for f in bad))


def _check_records(reader: Reader, last_seq: int) -> None:
    """The database is whole, nothing is in flight, nobody is open, and nothing was forgotten."""
    rows = reader.select("PRAGMA integrity_check")
    require(rows == [("ok",)], f"integrity_check: {rows}")
    require(not reader.operations(), f"in flight: {reader.operations()}")
    require(not reader.owners(), f"not closed: {reader.owners()}")
    require(reader.last_seq() >= last_seq, f"event {last_seq} was acknowledged and is gone")
    _check_past(reader)


def _check_past(reader: Reader) -> None:
    """Every event is there once, wherever it lies, from the first that is kept to the newest; only where
    an older database was put back are numbers passed by."""
    told = [(row["seq"], row["epoch"]) for row in reader.rows()]
    for (before, epoch), (seq, now) in itertools.pairwise(told):
        # A database that was put back goes on above every number that may have been given out.
        follows = seq == before + 1 or (now != epoch and seq > before)
        require(follows, f"event {seq} of epoch {now} comes after {before} of {epoch}")
    require(told[-1][0] == reader.last_seq(), f"the newest event is not {told[-1][0]}")
    kept = archives.counted(str(reader.home), archives.cut_of(reader.select))
    if kept:
        require(kept[0].first == told[0][0], f"the oldest archive is {kept[0].path}")
        reader.state_at(kept[0].first)


def _check_fold(reader: Reader) -> None:
    """The journal, folded anew, is the index. (The audit says so too; this is not the audit.)"""
    scratch = reader.fold()
    try:
        for name, query in replay.FOLDED.items():
            folded, stored = scratch.execute(query).fetchall(), reader.select(query)
            require(folded == stored, f"{name}: the journal folds to {folded}, not {stored}")
    finally:
        scratch.close()


def _state_of(home: Path, reader: Reader) -> State:
    """What the index says there is, and what the directories of the layers hold."""
    layers = {
        layer.id: Facts(layer.parent, tuple(sorted(layer.labels.items())), layer.read_write)
        for layer in reader.layers()
    }
    holds = {(hold.layer, hold.holder): hold.count for hold in reader.holders()}
    return State(layers, holds, {layer: files_in(home / layer / "diff") for layer in layers})  # type: ignore[arg-type]


def files_in(directory: Path) -> dict[str, str]:
    """The names and texts of the files in a directory; what is no file shows as such."""
    return {
        entry.name: Path(entry.path).read_text() if entry.is_file() else "(no file)"
        for entry in os.scandir(directory)
    }


def _check_layers(home: Path, reader: Reader, foreign: Sequence[str]) -> None:
    """Tree and index have the same layers and links, and a parent is committed in both."""
    layers = {layer.id: layer for layer in reader.layers()}
    for name in foreign:
        require((home / name).exists(), f"{name}, which another made, is gone")
        content = files_in(home / name / "diff")
        require(content == {"precious": "of another\n"}, f"{name} of another has now {content}")
    names = set(os.listdir(home)) - {layout.LINKS, layout.OWN, *foreign}
    require(names == set(layers), f"in the tree: {sorted(names)}, in the index: {sorted(layers)}")
    links = {layer.link for layer in layers.values()}
    require(set(os.listdir(home / "l")) == links, "l/ has other names than the index")
    for layer in layers.values():
        target = os.readlink(home / "l" / layer.link)
        require(target == f"../{layer.id}/diff", f"l/{layer.link} reads {target}")
        if layer.parent is not None:
            parent = layers[layer.parent]
            require(parent.committed, f"{parent.id} has a child and is not committed in the index")
            mark = (home / parent.id / "committed").exists()
            require(mark, f"{parent.id} has a child and no file that says so")


def _check_applied(home: Path, reader: Reader) -> None:
    """A digest is that of an archive of the files that are there; what broke off left none."""
    for layer in reader.layers():
        if layer.diff_id is not None:
            archive = archive_of(files_in(home / layer.id / "diff"))
            digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
            require(layer.diff_id == digest, f"{layer.id} is not what was applied")
            require(layer.size == reader.diff_size(layer.id), f"{layer.id}: {layer.size} bytes")
        elif layer.applied:
            require(files_in(home / layer.id / "diff") == {}, f"{layer.id} has half of something")


def _check_quarantine(home: Path, reader: Reader) -> None:
    """What a repair set aside stands with its note, until it is taken back or removed for good; a
    repair that was undone left nothing there."""
    intents: dict[str, e.RepairIntended] = {}
    standing: dict[str, e.RepairIntended] = {}
    for entry in reader.events(kind="repair."):
        assert entry.operation is not None
        if isinstance(entry.event, e.RepairIntended):
            intents[entry.operation] = entry.event
            continue
        intent = intents[entry.operation]
        if isinstance(entry.event, e.RepairUndone):
            place = home / layout.quarantine(entry.operation)
            require(not place.exists(), f"{place} is left of a repair that was undone")
            continue
        standing.pop(intent.undoes, None)
        standing.pop(intent.path.removeprefix(f"{layout.QUARANTINE}/"), None)
        if intent.aside:
            standing[entry.operation] = intent
    for operation, intent in standing.items():
        path = home / repair_steps.set_aside_at(operation, intent.path)
        require(path.is_symlink() or path.exists(), f"{path}, which a repair set aside, is gone")
        require((path.parent / "NOTE").exists(), f"{path} has no note")
        same = intent.put == "file" and path.is_file() and path.read_text() == intent.content
        require(not same, f"{path} is not what was there before the repair")


def _check_mounts(home: Path, reader: Reader, lost: Sequence[str]) -> None:
    """Kernel and index have the same mounts: those of layers with a parent that somebody holds."""
    points = set(mounts_below(home))
    held = {str(hold.layer) for hold in reader.holders()}
    indexed = {str(mount.layer): mount for mount in reader.mounts()}
    for layer in lost:
        if f"{home}/{layer}/merged" not in points and layer in indexed:
            del indexed[layer]
            held.discard(layer)
    wanted = {str(home / layer / "merged") for layer in indexed}
    require(points == wanted, f"the kernel has {sorted(points)}, the index {sorted(wanted)}")
    stacked = {layer.id for layer in reader.layers() if layer.parent is not None}
    require(set(indexed) == held & stacked, f"mounted: {sorted(indexed)}, held: {sorted(held)}")
    for layer, mount in indexed.items():
        merged = home / layer / "merged"
        require(mountinfo.is_mount_root(str(merged)), f"{merged} is no mount root")
        read_only = bool(os.statvfs(merged).f_flag & os.ST_RDONLY)
        require(read_only == mount.read_only, f"{layer}: read-only in one view only")
        for name, text in files_in(home / layer / "diff").items():
            require((merged / name).read_text() == text, f"{layer}: its mount shows another {name}")
    for layer in stacked - set(indexed) - set(lost):
        require(not (home / layer / "merged").exists(), f"{layer}/merged is left")


def _check_own(home: Path) -> None:
    """Nothing is left in the store's own directories."""
    own = home / layout.OWN
    for name in ("staging", "trash", "owners"):
        left = sorted(os.listdir(own / name))
        require(not left, f"{name}/ is not empty: {left}")
    if (home / layout.ARCHIVES).exists():
        known = {Path(archive.path).name for archive in archives.listed(str(home))}
        left = sorted(set(os.listdir(home / layout.ARCHIVES)) - known)
        require(not left, f"archive/ has {left}")
    strangers = sorted(set(os.listdir(own)) - OWN_NAMES)
    require(not strangers, f"left in {layout.OWN}: {strangers}")


def use(home: Path, state: State, again: Sequence[Create] = ()) -> None:
    """Work with every layer: hold it; build on one, another each time, and remove what was built.

    `again`: what was in flight. Where it did not happen, its caller asks for it again.
    """
    with Store.open(home, timeout=20) as store:
        for layer in state.layers:
            path = store.get(layer)
            require(files_in(path).items() >= state.files[layer].items(), f"{layer}: content")
            store.put(layer)
        wanted = [(verb.layer, verb.facts.parent) for verb in again]
        if state.layers:
            layers = sorted(state.layers)
            parent = layers[store.last_seq() % len(layers)]
            wanted.append((f"after-{parent}", parent))
        for name, parent_or_none in wanted:
            if name not in state.layers:
                _build(store, name, parent_or_none)


def _build(store: Store, layer: str, parent: str | None) -> None:
    """Create a layer and remove it; refused just where the parent is mounted read-write."""
    mount = None if parent is None else store.mount(parent)
    read_write = mount is not None and not mount.read_only
    try:
        made = store.create(layer, parent=parent)
    except LayerHeld:
        require(read_write, f"nothing can be built on {parent}")
    else:
        require(not read_write, f"{parent} is mounted read-write and got a child")
        store.remove(made.id)


def mounts_below(home: Path) -> list[str]:
    """Every mountpoint below a directory, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        if point.startswith(f"{home}/"):
            found.append(point)
    return found
