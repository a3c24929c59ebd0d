"""dockerd's own records are compared with the store that has its layers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.audit.dockerd import data_root
from layerstore.testing import Built, docker_tree
from tests.audit.test_damages import everything
from tests.cli.running import Program
from tests.testing import description as d

pytestmark = pytest.mark.root

WHOLE = {**d.WHOLE, "layers": (*d.LAYERS, d.KIT, d.CACHE)}


def served(bare: Path, **description: object) -> Built:
    """A data root whose dockerd has its layers in a layerstore, as a plugin."""
    tree = docker_tree(bare / "docker", **{**WHOLE, **description}, driver="layerstore")
    aside = tree.root / "aside"
    (tree.root / "image").rename(aside)  # a store does not begin where another program has records
    Store.rebuild(tree.home)
    aside.rename(tree.root / "image")
    return tree


def found(tree: Built) -> list[tuple[str, str | None]]:
    """What the audit says beyond notes, with dockerd's records."""
    names = {directory: name for name, directory in tree.layers.items()}
    report = audit(tree.home, docker_root=tree.root)
    return [
        (f.code, names.get(f.layer or "", f.layer)) for f in report.findings if f.severity != "note"
    ]


def test_whole_records_are_clean(bare: Path) -> None:
    """Images, containers, and a build cache: every layer is on some record."""
    tree = served(bare)
    assert [] == found(tree)
    assert str(tree.root) == data_root(str(tree.home))


def test_layers_that_docker_does_not_know(bare: Path) -> None:
    """What nothing names is reported with its size, its age, and what the journal says; nothing changes."""
    tree = served(bare, layers=(*WHOLE["layers"], d.ORPHAN, d.CONDEMNED, d.UNFINISHED))
    with Store.open(tree.home) as store:
        store.create("late", parent=tree.layers["top"])
    before = everything(bare)
    report = audit(tree.home, docker_root=tree.root)
    assert before == everything(bare)
    unknown = {f.layer: f for f in report.findings if f.code == "unknown-to-docker"}
    names = {tree.layers[name] for name in ("orphan", "condemned", "unfinished")}
    assert names | {"late"} == set(unknown)
    late = unknown["late"]
    assert "dockerd has no record; made 0 seconds ago; in the journal: created 20" in late.message
    assert late.bytes and late.path == f"{tree.home}/late" and not late.repairs
    assert "dockerd was removing it" in unknown[tree.layers["condemned"]].message
    assert "dockerd was pulling it" in unknown[tree.layers["unfinished"]].message
    with Store.open(tree.home) as store:
        for layer in unknown:
            store.remove(str(layer))
    assert [] == found(tree)


def test_what_is_held_is_known(bare: Path) -> None:
    """A layer that somebody holds, and all below it, are not told: a build is under way, perhaps."""
    tree = served(bare)
    with Store.open(tree.home) as store:
        store.create("building", parent=tree.layers["top"])
        store.create_read_write("step", parent="building")
        store.get("step", holder="docker")
    assert [] == found(tree)
    with Store.open(tree.home) as store:
        store.put("step", holder="docker")
    assert [("unknown-to-docker", "building"), ("unknown-to-docker", "step")] == found(tree)


def test_records_without_a_layer(bare: Path) -> None:
    """A record whose layer is gone is damage, whichever record it is."""
    tree = served(bare)
    with Store.open(tree.home) as store:
        for name in ("idle", "cache"):
            store.remove(tree.layers[name])
    assert [("record-without-layer", "cache"), ("record-without-layer", "idle")] == sorted(
        found(tree)
    )


def test_a_record_with_another_parent(bare: Path) -> None:
    """The index and dockerd's record of a layer name different parents."""
    tree = served(bare)
    mount = tree.root / "image/layerstore/layerdb/mounts" / tree.containers["web"]
    (mount / "init-id").write_text(tree.layers["idle-init"])
    codes = [code for code, _ in found(tree)]
    assert "recorded-parent-differs" in codes


def test_records_that_cannot_be_read(bare: Path) -> None:
    """One that does not say which layer it is of might name any: no layer is called unknown then."""
    tree = served(bare, layers=(*WHOLE["layers"], d.ORPHAN))
    mount = tree.root / "image/layerstore/layerdb/mounts" / tree.containers["web"]
    (mount / "mount-id").write_text("")
    assert {"damaged-record"} == {code for code, _ in found(tree)}


def test_a_cache_that_cannot_be_read(bare: Path) -> None:
    """What looks like BuildKit's may be on its record; everything else is judged."""
    tree = served(bare, layers=(*WHOLE["layers"], d.ORPHAN))
    (tree.root / "buildkit/snapshots.db").write_bytes(b"x" * 9999)
    assert {("damaged-record", None), ("unknown-to-docker", "orphan")} == set(found(tree))


def test_records_that_are_gone(bare: Path) -> None:
    """Without its records nothing says what dockerd needs, and no layer is called unknown."""
    tree = served(bare)
    shutil.rmtree(tree.root / "image/layerstore/layerdb")
    assert [("lost-records", None)] == found(tree)
    assert data_root(str(tree.home)) is None


def test_the_command_finds_the_records(bare: Path) -> None:
    """By `--docker-root`, or beside a store that lies where the settings let a dockerd have its home."""
    tree = served(bare, layers=(*WHOLE["layers"], d.ORPHAN))
    orphan = tree.layers["orphan"]
    plain = Program(tree.home)("audit", code=0)
    assert orphan not in plain.out
    told = Program(tree.home)("audit", "--docker-root", str(tree.root), code=4)
    assert "unknown-to-docker (1)" in told.out and orphan in told.out
    told = Program(tree.home)("audit", code=4, LAYERSTORE_DOCKER_ROOTS=str(bare))
    assert orphan in told.out
