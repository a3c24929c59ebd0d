"""Everything that can be wrong with a tree or a store, each as a function that does it.

The trees are made by the library, so that they are whole to begin with. Both the tests of the audit
and those of whatever repairs walk this table.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs

from layerstore import Store
from layerstore.db import engine
from layerstore.fs import layout
from layerstore.fs.trace import set_trace
from tests.audit import contents

STORE, TREE, PODMAN, DOCKER = "store", "tree", "podman", "docker"
"""Ours; the same without our database; with `layers.json` beside it; with Docker's layerdb."""

CHAIN = {"base": None, "mid": "base", "top": "mid", "side": "base", "alone": None, "lone": None}
"""Every layer of the trees, with its parent. `alone` and `lone` have nothing to do with the others."""
LINK = "B" * 26
"""A link that no layer has."""


@attrs.frozen
class Damage:
    """One thing that goes wrong."""

    name: str
    code: str
    """What the audit calls it."""
    do: Callable[[Path], object]
    touches: frozenset[str]
    """Damages that touch the same do not combine: one may hide the other."""
    kinds: tuple[str, ...]
    note: bool = False
    """It is no damage, only worth a word."""
    lost: bool = False
    """It looks like lost metadata."""
    content: bool = False
    """It is in what a layer holds, which an audit reads where it is asked to."""


def make(place: Path, kind: str) -> Path:
    """A whole tree of a kind below `place`; its home."""
    home = place / {STORE: "home", TREE: "tree", PODMAN: "overlay", DOCKER: "overlay2"}[kind]
    Store.initialize(home)
    with Store.open(home) as store:
        for layer, parent in CHAIN.items():
            store.create(layer, parent=parent)
            (home / layer / "diff" / f"of-{layer}").write_text(layer)
    if kind != STORE:
        shutil.rmtree(home / layout.OWN)
    if kind == PODMAN:
        _podman(home)
    if kind == DOCKER:
        for layer in CHAIN:
            record = place / f"image/overlay2/layerdb/sha256/{layer}"
            record.mkdir(parents=True)
            (record / "cache-id").write_text(layer)
            files = {f"of-{layer}": layer.encode()}
            (record / "tar-split.json.gz").write_bytes(contents.split(files))
    return home


def _podman(home: Path) -> None:
    for layer, parent in CHAIN.items():
        for name in ("merged", "work", *(() if parent else ("empty",))):
            (home / layer / name).mkdir(exist_ok=True, mode=0o700)
    records = [{"id": layer, "parent": parent or ""} for layer, parent in CHAIN.items()]
    (home.parent / "overlay-layers").mkdir()
    records_of(home).write_text(json.dumps(records))


def records_of(home: Path) -> Path:
    """Where podman keeps its records of a tree."""
    return home.parent / "overlay-layers/layers.json"


# --- small tools ----------------------------------------------------------------------------------


def link_of(home: Path, layer: str) -> str:
    """The link of a layer of a whole tree, by `l/`: its file may be damaged already."""
    for entry in sorted((home / "l").iterdir()):
        if entry.is_symlink() and os.readlink(entry) == f"../{layer}/diff":
            return entry.name
    raise AssertionError(f"{layer} has no link")


def short(home: Path, layer: str) -> Path:
    """`l/<LINK>` of a layer."""
    return home / "l" / link_of(home, layer)


def relink(path: Path, target: str) -> None:
    """Let a link lead elsewhere."""
    path.unlink()
    path.symlink_to(target)


def edit(home: Path, statement: str) -> None:
    """Change the database behind the library's back, in another process."""
    pid = os.fork()
    if pid == 0:
        connection = engine.driver.connect(str(home / layout.DATABASE))
        connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def dying(home: Path, work: Callable[[Store], object], *, at: str = "") -> None:
    """Open the store in a process that dies with it open, or at a trace point."""
    pid = os.fork()
    if pid == 0:

        def hook(point: str) -> None:
            if at in point:
                os.kill(os.getpid(), signal.SIGKILL)

        store = Store.open(home)
        if at:
            set_trace(hook)
        work(store)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def overlay(home: Path, layer: str, *lowers: str) -> None:
    """Mount a layer by hand, upon these."""
    (home / layer / "merged").mkdir(exist_ok=True)
    top = f"{home}/{layer}"
    below = ":".join(f"{home}/{lower}/diff" for lower in lowers)
    options = f"lowerdir={below},upperdir={top}/diff,workdir={top}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, f"{top}/merged"]
    subprocess.run(command, check=True, capture_output=True)


def held(home: Path, layer: str, holder: str = "docker") -> None:
    """Mounted, and held by a name that outlives this."""
    with Store.open(home) as store:
        store.get(layer, holder=holder)


def unmounted(home: Path, layer: str) -> None:
    """Held, and unmounted behind the store's back."""
    held(home, layer)
    subprocess.run(["umount", f"{home}/{layer}/merged"], check=True)


def hand_made(home: Path, layer: str) -> None:
    """A whole base layer that no index knows."""
    (home / layer / "diff").mkdir(parents=True)
    (home / layer / "link").write_text(LINK[:-1] + "C")
    (home / "l" / (LINK[:-1] + "C")).symlink_to(f"../{layer}/diff")


def moved_while_mounted(home: Path) -> None:
    """In the trash, with a mount upon it."""
    overlay(home, "side", "base")
    (home / "side").rename(home / layout.TRASH / ("0" * 32))


# --- the table ------------------------------------------------------------------------------------


def _any(name: str, code: str, do: Callable[[Path], object], touches: str, **more: bool) -> Damage:
    return Damage(name, code, do, frozenset(touches.split()), (STORE, TREE), **more)


def _ours(name: str, code: str, do: Callable[[Path], object], touches: str, **more: bool) -> Damage:
    return Damage(name, code, do, frozenset(touches.split()), (STORE,), **more)


def _theirs(name: str, code: str, do: Callable[[Path], object], **more: bool) -> Damage:
    return Damage(name, code, do, frozenset({"records"}), (PODMAN,), **more)


def _write(path: str, text: str) -> Callable[[Path], object]:
    return lambda home: (home / path).write_text(text)


def _mkdir(path: str) -> Callable[[Path], object]:
    return lambda home: (home / path).mkdir(parents=True)


def _records(change: Callable[[list[dict[str, str]]], object]) -> Callable[[Path], object]:
    def do(home: Path) -> None:
        records = json.loads(records_of(home).read_text())
        change(records)
        records_of(home).write_text(json.dumps(records))

    return do


def _as_directory(home: Path) -> None:
    (home / "mid/link").unlink()
    (home / "mid/link").mkdir()


def _file_for_link(home: Path) -> None:
    path = short(home, "side")
    path.unlink()
    path.write_text("../side/diff")


def _deep(home: Path) -> str:
    return ":".join(
        f"l/{number:026}".translate(str.maketrans("0189", "ABCD")) for number in range(500)
    )


def _file_for_diff(home: Path) -> None:
    shutil.rmtree(home / "alone/diff")
    (home / "alone/diff").write_text("")


def _unheld(home: Path) -> None:
    held(home, "side")
    edit(home, "DELETE FROM holds")


def _empty_link_in_a_new_layer(home: Path) -> None:
    (home / "newer/diff").mkdir(parents=True)
    (home / "newer/link").write_text("")


def _without_database(home: Path) -> None:
    for path in (home / layout.OWN).glob("journal.db*"):
        path.unlink()


def _pages_garbled(home: Path) -> None:
    """All but the first page: it can be opened, and not be read."""
    edit(home, "PRAGMA user_version")
    with open(home / layout.DATABASE, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def _without_layers(home: Path) -> None:
    for layer in CHAIN:
        shutil.rmtree(home / layer)


LINKS = [
    _any(
        "link to nothing", "orphan-link", lambda h: (h / "l" / LINK).symlink_to("../no/diff"), "lB"
    ),
    _any(
        "second link",
        "doubled-link",
        lambda h: (h / "l" / LINK).symlink_to("../side/diff"),
        "lB side",
    ),
    _any(
        "link that leads out", "outside-link", lambda h: (h / "l" / LINK).symlink_to("/etc"), "lB"
    ),
    _any(
        "link into a layer",
        "outside-link",
        lambda h: (h / "l" / LINK).symlink_to("../side/work"),
        "lB",
    ),
    _any("file in l", "not-a-link", _write(f"l/{LINK}", ""), "lB"),
    _any(
        "odd name in l", "not-a-link", lambda h: (h / "l/short").symlink_to("../mid/diff"), "lodd"
    ),
    _any("link gone", "missing-link", lambda h: short(h, "mid").unlink(), "mid"),
    _any(
        "l gone",
        "missing-links",
        lambda h: shutil.rmtree(h / "l"),
        "l lB lodd lmode mid side top alone base",
    ),
    _any(
        "link to another layer",
        "wrong-link",
        lambda h: relink(short(h, "side"), "../alone/diff"),
        "side alone",
    ),
    _any("link to outside", "wrong-link", lambda h: relink(short(h, "side"), "/tmp"), "side"),
    _any("file instead of a link", "wrong-link", _file_for_link, "side"),
    _any("l open to all", "wrong-mode", lambda h: (h / "l").chmod(0o777), "lmode"),
    _any("l of another", "wrong-owner", lambda h: os.chown(h / "l", 1234, 0), "lmode"),
]

FILES = [
    _any("link file gone", "missing-link-file", lambda h: (h / "mid/link").unlink(), "mid"),
    _any("link file empty", "empty-link-file", _write("mid/link", ""), "mid"),
    _any("link file garbled", "garbled-link-file", _write("mid/link", "../../etc"), "mid"),
    _any(
        "link file with a newline",
        "garbled-link-file",
        lambda h: (h / "mid/link").write_text(link_of(h, "mid") + "\n"),
        "mid",
    ),
    _any("link file is a directory", "garbled-link-file", _as_directory, "mid"),
    _any(
        "link file of another",
        "wrong-link-file",
        lambda h: (h / "mid/link").write_text(link_of(h, "alone")),
        "mid alone",
    ),
    _any("lower file gone", "missing-lower-file", lambda h: (h / "top/lower").unlink(), "top"),
    _any("lower file empty", "empty-lower-file", _write("top/lower", ""), "top"),
    _any("lower file garbled", "garbled-lower-file", _write("top/lower", "l"), "top"),
    _any(
        "lower with an empty part",
        "garbled-lower-file",
        lambda h: (h / "top/lower").write_text(f"l/{link_of(h, 'mid')}::"),
        "top mid",
    ),
    _any("lower names nobody", "unknown-lower", _write("top/lower", f"l/{LINK}"), "top lB"),
    _any(
        "layer dropped from the chain",
        "wrong-lower-file",
        lambda h: (h / "top/lower").write_text(f"l/{link_of(h, 'mid')}"),
        "top mid",
    ),
    _any(
        "below itself",
        "lower-cycle",
        lambda h: (h / "top/lower").write_text(f"l/{link_of(h, 'top')}"),
        "top",
    ),
    _any(
        "two below each other",
        "lower-cycle",
        lambda h: (h / "mid/lower").write_text(
            f"l/{link_of(h, 'top')}:{(h / 'top/lower').read_text()}"
        ),
        "mid top",
    ),
    _any("too deep", "too-deep", lambda h: (h / "top/lower").write_text(_deep(h)), "top"),
]

LAYERS = [
    _any("only a directory", "half-made-layer", _mkdir("new"), "new"),
    _any(
        "empty link in a new layer",
        "half-made-layer",
        _empty_link_in_a_new_layer,
        "newer",
    ),
    _any("diff gone", "missing-diff", lambda h: shutil.rmtree(h / "alone/diff"), "alone"),
    _ours("diff is a file", "missing-diff", _file_for_diff, "alone"),
    _any("work gone", "missing-work", lambda h: shutil.rmtree(h / "top/work"), "topwork"),
    _any("merged left", "merged-leftover", _mkdir("side/merged"), "sidemerged"),
    _any("merged.1 left", "merged-leftover", _mkdir("side/merged.1"), "sidemerged"),
    _any(
        "committed without a child",
        "committed-without-child",
        _write("lone/committed", ""),
        "lonemark",
        note=True,
    ),
    _any("temporary file in a layer", "temporary-file", _write("lone/.tmp-link1", ""), "lonetmp"),
    _any("temporary file in the home", "temporary-file", _write(".tmp-lower2", ""), "hometmp"),
    _any("probe left", "probe-directory", _mkdir("metacopy-check12/merged"), "probe"),
    _any("pivot_root left", "half-unpacked", _mkdir("lone/diff/.pivot_root7"), "lonepivot"),
    _any("extraction left", "half-unpacked", _mkdir("lone/diff/temp-docker-extract7"), "lonepivot"),
    _any("volatile left", "volatile-work", _mkdir("top/work/work/incompat/volatile"), "topwork"),
    _any("layer open to all", "wrong-mode", lambda h: (h / "lone").chmod(0o777), "lonemode"),
    _any(
        "link file open to all", "wrong-mode", lambda h: (h / "lone/link").chmod(0o666), "lonelink"
    ),
    _any(
        "lower file of another",
        "wrong-owner",
        lambda h: os.chown(h / "side/lower", 1234, 0),
        "sideowner",
    ),
    _any("stranger", "stranger", _write("some file", ""), "stranger", note=True),
    _ours("directory gone", "missing-layer", lambda h: shutil.rmtree(h / "alone"), "alone"),
    _ours("directory without a row", "unknown-layer", lambda h: hand_made(h, "found"), "found"),
]

MOUNTS = [
    _ours(
        "dead holder",
        "dead-holder",
        lambda h: dying(h, lambda s: s.get("side")),
        "side sidemerged owner",
    ),
    _ours(
        "mount without a hold",
        "unheld-mount",
        _unheld,
        "side sidemerged index",
    ),
    _ours(
        "unmounted behind its back", "lost-mount", lambda h: unmounted(h, "side"), "side sidemerged"
    ),
    _ours(
        "mounted behind its back",
        "unknown-mount",
        lambda h: overlay(h, "side", "base"),
        "side sidemerged",
    ),
    _any(
        "mounted upon another chain",
        "mount-differs",
        lambda h: overlay(h, "side", "alone", "base"),
        "side sidemerged alone",
    ),
    _ours(
        "removed while mounted",
        "mount-of-removed-layer",
        moved_while_mounted,
        "side sidemerged sideowner lB",
    ),
    _ours(
        "hold without a mount",
        "hold-without-mount",
        lambda h: edit(h, "INSERT INTO holds VALUES ('side', 'docker', 1, 'x', 1, 1)"),
        "side sidemerged index",
    ),
]

RECORDS = [
    _ours(
        "operation in flight",
        "unsettled-operation",
        lambda h: dying(h, lambda s: s.create("late"), at="create:intent:after"),
        "owner late",
    ),
    _ours("killed", "dead-owner", lambda h: dying(h, lambda s: None), "owner"),
    _ours(
        "index changed",
        "projection-differs",
        lambda h: edit(h, "UPDATE layers SET depth = 7 WHERE id = 'lone'"),
        "index",
    ),
    _ours(
        "hold of nobody",
        "broken-reference",
        lambda h: edit(h, "INSERT INTO holds VALUES ('ghost', 'docker', 1, 'x', 1, 1)"),
        "index",
    ),
    _ours(
        "event garbled",
        "damaged-journal",
        lambda h: edit(h, "UPDATE events SET data = '{' WHERE seq = 3"),
        "index",
    ),
    _ours(
        "quota id of nobody",
        "leaked-project",
        lambda h: edit(h, "INSERT INTO projects VALUES (7, 'ghost', 4096, 1)"),
        "index",
    ),
    _ours(
        "older schema",
        "old-schema",
        lambda h: edit(h, "UPDATE alembic_version SET version_num = '0003'"),
        "database",
    ),
    _ours("staging left", "staging-leftover", _mkdir(f"{layout.STAGING}/{'1' * 32}"), "staging"),
    _ours("trash left", "trash-leftover", _mkdir(f"{layout.TRASH}/{'2' * 32}/diff"), "trash"),
    _ours(
        "quarantine",
        "quarantine-content",
        _mkdir(f"{layout.QUARANTINE}/{'3' * 32}/x"),
        "quarantine",
        note=True,
    ),
    _ours(
        "database gone",
        "lost-database",
        _without_database,
        "database",
        lost=True,
    ),
    _ours(
        "database empty",
        "lost-database",
        lambda h: [p.write_bytes(b"") for p in (h / layout.OWN).glob("journal.db*")],
        "database",
        lost=True,
    ),
    _ours(
        "database garbled",
        "damaged-database",
        lambda h: [p.write_bytes(b"x" * 9999) for p in (h / layout.OWN).glob("journal.db")],
        "database",
        lost=True,
    ),
    _ours("pages garbled", "damaged-database", _pages_garbled, "database", lost=True),
    _ours(
        "description gone",
        "lost-database",
        lambda h: (h / layout.STORE_FILE).unlink(),
        "database",
        lost=True,
    ),
    _ours(
        "index emptied",
        "lost-metadata",
        lambda h: edit(h, "DELETE FROM layers"),
        "database",
        lost=True,
    ),
    _ours(
        "tree gone",
        "lost-metadata",
        _without_layers,
        "database",
        lost=True,
    ),
]

PODMANS = [
    _theirs(
        "layers.json empty", "lost-database", lambda h: records_of(h).write_text(""), lost=True
    ),
    _theirs("layers.json gone", "lost-database", lambda h: records_of(h).unlink(), lost=True),
    _theirs(
        "layers.json garbled",
        "lost-database",
        lambda h: records_of(h).write_text('[{"id"'),
        lost=True,
    ),
    _theirs(
        "layers.json without layers",
        "lost-metadata",
        lambda h: records_of(h).write_text("[]"),
        lost=True,
    ),
    _theirs("record gone", "unrecorded-layer", _records(lambda r: r.pop(2))),
    _theirs(
        "directory of a record gone", "record-without-layer", lambda h: shutil.rmtree(h / "alone")
    ),
    _theirs(
        "temporary records left",
        "temporary-file",
        lambda h: (records_of(h).parent / ".tmp-layers.json1").write_text("["),
    ),
    _theirs(
        "data of nobody",
        "orphan-data",
        lambda h: (records_of(h).parent / "gone.tar-split.gz").write_bytes(b""),
    ),
    _theirs("two records", "doubled-record", _records(lambda r: r.append(r[0]))),
    _theirs("parent cycle", "record-cycle", _records(lambda r: r[0].update(parent="top"))),
    _theirs(
        "parent removed from a record",
        "recorded-parent-differs",
        _records(lambda r: r[2].update(parent="")),
    ),
    Damage(
        "layerdb empty",
        "lost-database",
        lambda h: shutil.rmtree(h.parent / "image/overlay2/layerdb"),
        frozenset({"records"}),
        (DOCKER,),
        lost=True,
    ),
]

CONTENTS = [
    *(
        Damage(
            name,
            code,
            contents.damaged(do),
            frozenset({"base"}),
            (STORE, DOCKER) if theirs else (STORE,),
            content=True,
        )
        for name, (code, do, theirs) in contents.DAMAGES.items()
    ),
    *(
        Damage(name, "lost-manifest", do, frozenset({"base"}), (STORE,), content=True)
        for name, do in {
            "manifest gone": contents.manifest_of(lambda path: path.unlink()),
            "manifest empty": contents.manifest_of(lambda path: path.write_bytes(b"")),
        }.items()
    ),
    Damage(
        "tar-split garbled",
        "lost-manifest",
        lambda h: next(h.parent.glob("image/*/layerdb/sha256/base/tar-*")).write_bytes(b"no"),
        frozenset({"base"}),
        (DOCKER,),
        content=True,
    ),
    _ours("manifest of nobody", "unrecorded-manifest", contents.forgotten, "manifests", note=True),
]

ALL = [*LINKS, *FILES, *LAYERS, *MOUNTS, *RECORDS, *PODMANS, *CONTENTS]
COMBINED = [damage for damage in [*LINKS, *FILES, *LAYERS] if TREE in damage.kinds]
"""Those that can be done together, to a store and to a tree of others."""
