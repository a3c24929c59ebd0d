"""Manifests of layers: what is recorded, when it stands, when it counts no more."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from layerstore import Reader, Store
from layerstore.audit import audit
from layerstore.errors import InvalidArgument, LayerHeld, UnknownLayer
from layerstore.fs import layout, manifest
from layerstore.model import Severity
from layerstore.testing import hooked
from tests.crash.model import archive_of
from tests.index import children

pytestmark = pytest.mark.root

FILES = {"etc": "of an archive\n", "zero": "0" * 5000}


def made(store: Store, layer: str, parent: str | None = None, **files: str) -> None:
    """A layer that an archive was applied to."""
    store.create(layer, parent=parent)
    store.apply_diff(layer, io.BytesIO(archive_of(files or FILES)))


def on_disk(home: Path) -> list[str]:
    """The manifests that there are as files."""
    place = home / layout.MANIFESTS
    return sorted(os.listdir(place)) if place.exists() else []


def said(home: Path) -> list[tuple[str, str | None]]:
    """What the whole audit finds, notes too."""
    return [(item.code, item.layer) for item in audit(home, content=True).findings]


def test_what_a_layer_holds_is_recorded_once(home: Path) -> None:
    """The row says what the file is; a second time nothing is written."""
    with Store.open(home) as store:
        made(store, "a")
        assert store.manifest("a") is None
        found = store.record_manifest("a")
        last = store.last_seq()
        assert found == store.manifest("a") == store.record_manifest("a")
        assert last == store.last_seq()
    path = home / layout.manifest("a")
    assert (2, path.stat().st_size) == (found.files, found.bytes)
    kept = list(manifest.read(str(path), found.digest))
    assert ["etc", "zero"] == [entry.path for entry in kept]
    assert 0o600 == path.stat().st_mode & 0o777
    assert [] == said(home)


def test_a_layer_that_may_change_is_refused(home: Path) -> None:
    """One that nothing was applied to, one that is held, and one that is not there."""
    with Store.open(home) as store:
        store.create("new")
        made(store, "base")
        made(store, "child", "base")
        with pytest.raises(InvalidArgument, match="may still change"):
            store.record_manifest("new")
        store.get("child")
        with pytest.raises(LayerHeld):
            store.record_manifest("child")
        with pytest.raises(UnknownLayer):
            store.record_manifest("nobody")
        assert store.record_manifest("base").files == 2
    assert ["base"] == on_disk(home)


CHANGES: dict[str, tuple[Callable[[Store], object], bool]] = {
    "mounted read-write": (lambda store: store.get("child"), False),
    "a base that is held": (lambda store: store.get("lone"), False),
    "removed": (lambda store: store.remove("child"), False),
    "dropped": (lambda store: store.drop_manifest("child"), False),
    "built upon": (lambda store: (store.create("x", parent="child"), store.get("child")), True),
    "a base that is built upon": (lambda store: store.get("base"), True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_stands_until_the_layer_can_change(home: Path, name: str) -> None:
    """It is gone before anybody can write, with its file; what is mounted read-only keeps it."""
    change, stands = CHANGES[name]
    layer = {"a base that is held": "lone", "a base that is built upon": "base"}.get(name, "child")
    with Store.open(home) as store:
        made(store, "base")
        made(store, "child", "base")
        made(store, "lone")
        for one in ("base", "child", "lone"):
            store.record_manifest(one)
        change(store)
        assert stands == (store.manifest(layer) is not None if store.exists(layer) else False)
        assert stands == (layer in on_disk(home))
    assert [] == said(home)


def test_a_manifest_that_was_dropped_can_be_recorded_again(home: Path) -> None:
    """After a mount that wrote something, the new one says what is there then."""
    with Store.open(home) as store:
        made(store, "base")
        made(store, "child", "base")
        before = store.record_manifest("child")
        with store.mounted("child") as path:
            (path / "etc").write_text("written\n")
        after = store.record_manifest("child")
        assert before.digest != after.digest
        kinds = [row["kind"] for row in store.rows(layer="child")]
        assert 1 == kinds.count("manifest.dropped.v1")
        store.drop_manifest("child")
        assert not store.drop_manifest("child")
    assert [] == said(home)


def test_an_apply_records_by_setting(home: Path) -> None:
    """With `record_applied` every layer that an archive made is recorded."""
    with Store.open(home) as store:
        store.record_applied = True
        made(store, "base")
        assert store.manifest("base") is not None
    assert [] == said(home)


@pytest.mark.parametrize(
    "point", ["manifest:drop:before", "manifest:drop:after", "manifest:file:after"]
)
def test_a_drop_that_is_killed(home: Path, point: str) -> None:
    """Killed anywhere before the mount, the manifest stands or is gone, and nothing is found."""
    with Store.open(home) as store:
        made(store, "base")
        made(store, "child", "base")
        store.record_manifest("child")

    def die() -> None:
        with Store.open(home) as store, hooked(lambda at: os._exit(77) if at == point else None):
            store.get("child")

    assert 77 == children.run(die).code
    with Store.open(home) as store:
        assert (point == "manifest:drop:before") == (store.manifest("child") is not None)
        if point == "manifest:drop:after":
            assert ["unrecorded-manifest"] == [code for code, _ in said(home)]
        store.record_manifest("child")
    assert [] == said(home)


def test_a_rebuild_sets_manifests_aside(home: Path) -> None:
    """The new journal knows nothing of them, and they are not deleted."""
    with Store.open(home) as store:
        made(store, "base")
        store.record_manifest("base")
    Store.rebuild(home)
    with Reader.open(home) as reader:
        assert reader.manifest("base") is None
    assert [] == on_disk(home)
    assert [] != list((home / layout.QUARANTINE).glob("*/manifests/base"))
    assert {Severity.NOTE} == {item.severity for item in audit(home, content=True).findings}


def test_compaction_keeps_them(home: Path) -> None:
    """Manifests are in the snapshot that older events are replaced by."""
    with Store.open(home) as store:
        made(store, "base")
        found = store.record_manifest("base")
        store.compact(keep=0)
        assert found == store.manifest("base")
        assert attrs.evolve(found) == found
    assert [] == said(home)


def test_a_layer_that_changes_while_it_is_looked_at_is_not_judged(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mounted read-write in the middle of an audit has no manifest when it was read."""
    with Store.open(home) as store:
        made(store, "base")
        made(store, "child", "base")
        store.record_manifest("child")
        read = manifest.read

        def meanwhile(path: str, digest: str) -> object:
            with store.mounted("child") as merged:
                (merged / "etc").write_text("written\n")
            return read(path, digest) if os.path.exists(path) else iter(())

        monkeypatch.setattr(manifest, "read", meanwhile)
        report = audit(home, content=True)
    assert () == tuple(item for item in report.findings if item.layer == "child")
    assert 0 == report.checked["manifests"]
