"""Every damage is named, and nothing is changed by that."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore.audit import audit
from layerstore.audit.codes import CODES
from layerstore.fs import layout
from layerstore.model import Severity
from layerstore.testing.compare import Snapshot, snapshot
from tests.audit import damages
from tests.audit.damages import ALL, CHAIN, COMBINED, Damage

pytestmark = pytest.mark.root

CASES = [(damage, kind) for damage in ALL for kind in damage.kinds]


def everything(home: Path) -> Snapshot:
    """Everything about a tree, the store's own files and all times included, without a trace.

    Not the access times of the store's own files, which SQLite reads, nor those of links, which
    readlink(2) sets. As root SQLite gives the log to the owner that it has, which is seen in ctime.
    """
    found = snapshot(home, top=True, untouched=True)
    for name, entry in found.items():
        if "journal.db-" in name:
            entry["ctime"] = 0
        if layout.OWN in name.split("/") or "link" in entry:
            entry["atime"] = 0
    return found


def aged(home: Path) -> None:
    """Let whatever reads without care change an access time: relatime updates one that is old."""
    for path in [home, *home.rglob("*")]:
        if layout.OWN not in path.parts and "merged" not in path.parts:
            status = path.lstat()
            os.utime(path, ns=(0, status.st_mtime_ns), follow_symlinks=False)


def mounts() -> bytes:
    """The mount table."""
    return Path("/proc/self/mountinfo").read_bytes()


@pytest.mark.parametrize("kind", [damages.STORE, damages.TREE, damages.PODMAN, damages.DOCKER])
def test_whole_tree_is_clean(bare: Path, kind: str) -> None:
    """Of a tree that is whole the audit has nothing to say."""
    home = damages.make(bare, kind)
    report = audit(home, any_tree=True, content=True)
    assert () == report.findings
    assert ("layerstore" if kind == damages.STORE else "overlay2") == report.kind
    assert len(CHAIN) == report.checked["layers"]


@pytest.mark.parametrize(("damage", "kind"), CASES, ids=[f"{d.name}, {k}" for d, k in CASES])
def test_damage_is_named(bare: Path, damage: Damage, kind: str) -> None:
    """Each damage alone is named by its code, with what is known about it, and left as it is."""
    home = damages.make(bare, kind)
    damage.do(home)
    aged(home)
    before = everything(bare), mounts()
    report = audit(home, any_tree=True, content=damage.content)
    assert before == (everything(bare), mounts())
    named = [item for item in report.findings if item.code == damage.code]
    assert named, [item.code for item in report.findings]
    assert damage.lost == report.lost_metadata
    assert damage.lost == (report.findings[0].code == "lost-metadata")
    if damage.note:
        assert report.clean
    else:
        assert not report.clean
    for item in report.findings:
        assert CODES[item.code].severity == item.severity or item.code == "unknown-layer"
        assert CODES[item.code].weighs == (item.bytes is not None)


TOGETHER = st.lists(st.sampled_from(COMBINED), min_size=2, max_size=3, unique=True).filter(
    lambda some: all(a.touches.isdisjoint(b.touches) for a, b in itertools.combinations(some, 2))
)


@given(some=TOGETHER, kind=st.sampled_from([damages.STORE, damages.TREE]))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_damages_together(some: list[Damage], kind: str) -> None:
    """Two or three damages at once are all named, and the tree is left as it is."""
    base = os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="layerstore-", dir=base))
    try:
        home = damages.make(place, kind)
        for damage in some:
            damage.do(home)
        before = everything(place)
        report = audit(home, any_tree=True)
        assert before == everything(place)
        assert {damage.code for damage in some} <= {item.code for item in report.findings}
    finally:
        shutil.rmtree(place)


def test_every_damage_has_a_code() -> None:
    """The table of damages knows only codes that exist, and no severity is without a damage."""
    assert {damage.code for damage in ALL} <= set(CODES)
    assert set(Severity) == {CODES[damage.code].severity for damage in ALL}
