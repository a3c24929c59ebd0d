"""Owns the table of everything that can be wrong with a tree or a store; how each is done is in
`damaging`.

    home = make(place, TREE)
    named("link file gone").do(home)  # or: inflict("link file gone", any_home)

The tests of the audit, and those of whatever repairs, walk this table.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from layerstore.fs import layout
from layerstore.testing import damaging as by
from layerstore.testing.damaging import DOCKER, LINK, TREE, Damage, cast

LINKS = [
    by.anywhere(
        "link to nothing", "orphan-link", lambda h: (h / "l" / LINK).symlink_to("../no/diff"), "lB"
    ),
    by.anywhere(
        "second link",
        "doubled-link",
        lambda h: (h / "l" / LINK).symlink_to(f"../{h.name('side')}/diff"),
        "lB side",
    ),
    by.anywhere(
        "link that leads out", "outside-link", lambda h: (h / "l" / LINK).symlink_to("/etc"), "lB"
    ),
    by.anywhere(
        "link into a layer",
        "outside-link",
        lambda h: (h / "l" / LINK).symlink_to(f"../{h.name('side')}/work"),
        "lB",
    ),
    by.anywhere("file in l", "not-a-link", by.writing(f"l/{LINK}", ""), "lB"),
    by.anywhere(
        "odd name in l",
        "not-a-link",
        lambda h: (h / "l/short").symlink_to(f"../{h.name('mid')}/diff"),
        "lodd",
    ),
    by.anywhere("link gone", "missing-link", lambda h: by.short(h, "mid").unlink(), "mid"),
    by.anywhere(
        "l gone",
        "missing-links",
        lambda h: shutil.rmtree(h / "l"),
        "l lB lodd lmode mid side top alone base",
    ),
    by.anywhere(
        "link to another layer",
        "wrong-link",
        lambda h: by.relink(by.short(h, "side"), f"../{h.name('alone')}/diff"),
        "side alone",
    ),
    by.anywhere(
        "link to outside", "wrong-link", lambda h: by.relink(by.short(h, "side"), "/tmp"), "side"
    ),
    by.anywhere("file instead of a link", "wrong-link", by.file_for_link, "side"),
    by.anywhere("l open to all", "wrong-mode", lambda h: (h / "l").chmod(0o777), "lmode"),
    by.anywhere("l of another", "wrong-owner", lambda h: os.chown(h / "l", 1234, 0), "lmode"),
]

FILES = [
    by.anywhere("link file gone", "missing-link-file", lambda h: (h / "mid/link").unlink(), "mid"),
    by.anywhere("link file empty", "empty-link-file", by.writing("mid/link", ""), "mid"),
    by.anywhere(
        "link file garbled", "garbled-link-file", by.writing("mid/link", "../../etc"), "mid"
    ),
    by.anywhere(
        "link file with a newline",
        "garbled-link-file",
        lambda h: (h / "mid/link").write_text(by.link_of(h, "mid") + "\n"),
        "mid",
    ),
    by.anywhere("link file is a directory", "garbled-link-file", by.as_directory, "mid"),
    by.anywhere(
        "link file of another",
        "wrong-link-file",
        lambda h: (h / "mid/link").write_text(by.link_of(h, "alone")),
        "mid alone",
    ),
    by.anywhere(
        "lower file gone", "missing-lower-file", lambda h: (h / "top/lower").unlink(), "top"
    ),
    by.anywhere("lower file empty", "empty-lower-file", by.writing("top/lower", ""), "top"),
    by.anywhere("lower file garbled", "garbled-lower-file", by.writing("top/lower", "l"), "top"),
    by.anywhere(
        "lower with an empty part",
        "garbled-lower-file",
        lambda h: (h / "top/lower").write_text(f"l/{by.link_of(h, 'mid')}::"),
        "top mid",
    ),
    by.anywhere(
        "lower names nobody", "unknown-lower", by.writing("top/lower", f"l/{LINK}"), "top lB"
    ),
    by.anywhere(
        "layer dropped from the chain",
        "wrong-lower-file",
        lambda h: (h / "top/lower").write_text(f"l/{by.link_of(h, 'mid')}"),
        "top mid",
    ),
    by.anywhere(
        "below itself",
        "lower-cycle",
        lambda h: (h / "top/lower").write_text(f"l/{by.link_of(h, 'top')}"),
        "top",
    ),
    by.anywhere(
        "two below each other",
        "lower-cycle",
        lambda h: (h / "mid/lower").write_text(
            f"l/{by.link_of(h, 'top')}:{(h / 'top/lower').read_text()}"
        ),
        "mid top",
    ),
    by.anywhere("too deep", "too-deep", lambda h: (h / "top/lower").write_text(by.deep()), "top"),
]

LAYERS = [
    by.anywhere("only a directory", "half-made-layer", by.making("new"), "new"),
    by.anywhere(
        "empty link in a new layer",
        "half-made-layer",
        by.empty_link_in_a_new_layer,
        "newer",
    ),
    by.anywhere("diff gone", "missing-diff", lambda h: shutil.rmtree(h / "alone/diff"), "alone"),
    by.in_stores("diff is a file", "missing-diff", by.file_for_diff, "alone"),
    by.anywhere("work gone", "missing-work", lambda h: shutil.rmtree(h / "top/work"), "topwork"),
    by.anywhere("merged left", "merged-leftover", by.making("side/merged"), "sidemerged"),
    by.anywhere("merged.1 left", "merged-leftover", by.making("side/merged.1"), "sidemerged"),
    by.anywhere(
        "committed without a child",
        "committed-without-child",
        by.writing("lone/committed", ""),
        "lonemark",
        note=True,
    ),
    by.anywhere(
        "temporary file in a layer", "temporary-file", by.writing("lone/.tmp-link1", ""), "lonetmp"
    ),
    by.anywhere(
        "temporary file in the home", "temporary-file", by.writing(".tmp-lower2", ""), "hometmp"
    ),
    by.anywhere("probe left", "probe-directory", by.making("metacopy-check12/merged"), "probe"),
    by.anywhere(
        "pivot_root left", "half-unpacked", by.making("lone/diff/.pivot_root7"), "lonepivot"
    ),
    by.anywhere(
        "extraction left", "half-unpacked", by.making("lone/diff/temp-docker-extract7"), "lonepivot"
    ),
    by.anywhere(
        "volatile left", "volatile-work", by.making("top/work/work/incompat/volatile"), "topwork"
    ),
    by.anywhere("layer open to all", "wrong-mode", lambda h: (h / "lone").chmod(0o777), "lonemode"),
    by.anywhere(
        "link file open to all", "wrong-mode", lambda h: (h / "lone/link").chmod(0o666), "lonelink"
    ),
    by.anywhere(
        "lower file of another",
        "wrong-owner",
        lambda h: os.chown(h / "side/lower", 1234, 0),
        "sideowner",
    ),
    by.anywhere("stranger", "stranger", by.writing("some file", ""), "stranger", note=True),
    by.in_stores("directory gone", "missing-layer", lambda h: shutil.rmtree(h / "alone"), "alone"),
    by.in_stores(
        "directory without a row", "unknown-layer", lambda h: by.hand_made(h, "found"), "found"
    ),
]

MOUNTS = [
    by.in_stores(
        "dead holder",
        "dead-holder",
        lambda h: by.dying(h, lambda s: s.get(h.name("side"))),
        "side sidemerged owner",
    ),
    by.in_stores(
        "mount without a hold",
        "unheld-mount",
        by.unheld,
        "side sidemerged index",
    ),
    by.in_stores(
        "unmounted behind its back",
        "lost-mount",
        lambda h: by.unmounted(h, "side"),
        "side sidemerged",
    ),
    by.in_stores(
        "mounted behind its back",
        "unknown-mount",
        lambda h: by.overlay(h, "side", "base"),
        "side sidemerged",
    ),
    by.anywhere(
        "mounted upon another chain",
        "mount-differs",
        lambda h: by.overlay(h, "side", "alone", "base"),
        "side sidemerged alone",
    ),
    by.in_stores(
        "removed while mounted",
        "mount-of-removed-layer",
        by.moved_while_mounted,
        "side sidemerged sideowner lB",
    ),
    by.in_stores(
        "hold without a mount",
        "hold-without-mount",
        lambda h: by.edit(
            h, f"INSERT INTO holds VALUES ('{h.name('side')}', 'docker', 1, 'x', 1, 1)"
        ),
        "side sidemerged index",
    ),
]

RECORDS = [
    by.in_stores(
        "operation in flight",
        "unsettled-operation",
        lambda h: by.dying(h, lambda s: s.create("late"), at="create:intent:after"),
        "owner late",
    ),
    by.in_stores("killed", "dead-owner", lambda h: by.dying(h, lambda _: None), "owner"),
    by.in_stores(
        "index changed",
        "projection-differs",
        lambda h: by.edit(h, f"UPDATE layers SET depth = 7 WHERE id = '{h.name('lone')}'"),
        "index",
    ),
    by.in_stores(
        "hold of nobody",
        "broken-reference",
        lambda h: by.edit(h, "INSERT INTO holds VALUES ('ghost', 'docker', 1, 'x', 1, 1)"),
        "index",
    ),
    by.in_stores(
        "event garbled",
        "damaged-journal",
        lambda h: by.edit(h, "UPDATE events SET data = '{' WHERE seq = 3"),
        "index",
    ),
    by.in_stores(
        "quota id of nobody",
        "leaked-project",
        lambda h: by.edit(h, "INSERT INTO projects VALUES (7, 'ghost', 4096, 1)"),
        "index",
    ),
    by.in_stores(
        "older schema",
        "old-schema",
        lambda h: by.edit(h, "UPDATE alembic_version SET version_num = '0003'"),
        "database",
    ),
    by.in_stores(
        "staging left", "staging-leftover", by.making(f"{layout.STAGING}/{'1' * 32}"), "staging"
    ),
    by.in_stores(
        "trash left", "trash-leftover", by.making(f"{layout.TRASH}/{'2' * 32}/diff"), "trash"
    ),
    by.in_stores(
        "quarantine",
        "quarantine-content",
        by.making(f"{layout.QUARANTINE}/{'3' * 32}/x"),
        "quarantine",
        note=True,
    ),
    by.in_stores(
        "database gone",
        "lost-database",
        by.without_database,
        "database",
        lost=True,
    ),
    by.in_stores(
        "database empty",
        "lost-database",
        lambda h: [p.write_bytes(b"") for p in (h / layout.OWN).glob("journal.db*")],
        "database",
        lost=True,
    ),
    by.in_stores(
        "database garbled",
        "damaged-database",
        lambda h: [p.write_bytes(b"x" * 9999) for p in (h / layout.OWN).glob("journal.db")],
        "database",
        lost=True,
    ),
    by.in_stores("pages garbled", "damaged-database", by.pages_garbled, "database", lost=True),
    by.in_stores(
        "description gone",
        "lost-database",
        lambda h: (h / layout.STORE_FILE).unlink(),
        "database",
        lost=True,
    ),
    by.in_stores(
        "index emptied",
        "lost-metadata",
        lambda h: by.edit(h, "DELETE FROM layers"),
        "database",
        lost=True,
    ),
    by.in_stores(
        "tree gone",
        "lost-metadata",
        by.without_layers,
        "database",
        lost=True,
    ),
]

PODMANS = [
    by.in_podmans(
        "layers.json empty", "lost-database", lambda h: by.records_of(h).write_text(""), lost=True
    ),
    by.in_podmans(
        "layers.json gone", "lost-database", lambda h: by.records_of(h).unlink(), lost=True
    ),
    by.in_podmans(
        "layers.json garbled",
        "lost-database",
        lambda h: by.records_of(h).write_text('[{"id"'),
        lost=True,
    ),
    by.in_podmans(
        "layers.json without layers",
        "lost-metadata",
        lambda h: by.records_of(h).write_text("[]"),
        lost=True,
    ),
    by.in_podmans(
        "record gone", "unrecorded-layer", by.records(lambda every, of: every.remove(of("top")))
    ),
    by.in_podmans(
        "directory of a record gone", "record-without-layer", lambda h: shutil.rmtree(h / "alone")
    ),
    by.in_podmans(
        "temporary records left",
        "temporary-file",
        lambda h: (by.records_of(h).parent / ".tmp-layers.json1").write_text("["),
    ),
    by.in_podmans(
        "data of nobody",
        "orphan-data",
        lambda h: (by.records_of(h).parent / "gone.tar-split.gz").write_bytes(b""),
    ),
    by.in_podmans(
        "two records", "doubled-record", by.records(lambda every, of: every.append(of("base")))
    ),
    by.in_podmans(
        "parent cycle",
        "record-cycle",
        by.records(lambda _, of: of("base").update(parent=of("top")["id"])),
    ),
    by.in_podmans(
        "parent removed from a record",
        "recorded-parent-differs",
        by.records(lambda _, of: of("top").update(parent="")),
    ),
    Damage(
        "layerdb empty",
        "lost-database",
        lambda h: shutil.rmtree(h.parent / f"image/{os.path.basename(h)}/layerdb"),
        frozenset({"records"}),
        (DOCKER,),
        lost=True,
    ),
]

ALL = [*LINKS, *FILES, *LAYERS, *MOUNTS, *RECORDS, *PODMANS]
COMBINED = [damage for damage in [*LINKS, *FILES, *LAYERS] if TREE in damage.kinds]
"""Those that can be done together, to a store and to a tree of others."""


def named(name: str) -> Damage:
    """The damage with this name; ValueError lists what there is."""
    for damage in ALL:
        if damage.name == name:
            return damage
    raise ValueError(f"no damage is called {name!r}; there are: {', '.join(d.name for d in ALL)}")


def inflict(name: str, home: Path, **parts: str) -> Damage:
    """Do one damage to any whole tree, on layers that fit; `parts` says which, such as `mid="web"`.

    Returns it: its `code` is what an audit of the tree says. Raises ValueError where no layer fits.
    """
    damage = named(name)
    damage.do(cast(home, **parts))
    return damage
