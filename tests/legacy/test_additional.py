"""Graph roots whose layers stand on those of an additional image store are refused, with a word why."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import verdicts
from layerstore.errors import Refused
from layerstore.fs import syscalls
from layerstore.legacy import additional, containers_storage, detecting
from layerstore.testing import Built, podman_tree, snapshot
from tests.testing import description as d
from tests.testing.podman import Podman

SETTINGS = '[storage]\ndriver = "overlay"\n[storage.options]\nadditionalimagestores = [ "{}" ]\n'


@pytest.fixture
def parted(tmp_path: Path) -> tuple[Built, str]:
    """A graph root whose lowest layer lies in another one, and that layer."""
    made = podman_tree(tmp_path / "storage", **d.WHOLE)
    base = made.layers["base"]
    other = tmp_path / "other"
    (other / "overlay").mkdir(parents=True)
    (made.home / base).rename(other / "overlay" / base)
    path = made.root / "overlay-layers/layers.json"
    kept = [item for item in json.loads(path.read_text()) if item["id"] != base]
    path.write_text(json.dumps(kept))
    return made, base


def test_a_parent_in_a_store_of_the_settings_is_refused(
    tmp_path: Path, parted: tuple[Built, str]
) -> None:
    """The layer, its parent and the other store are named."""
    tree, base = parted
    settings = tmp_path / "storage.conf"
    settings.write_text(SETTINGS.format(tmp_path / "other"))
    manifest = containers_storage.read(str(tree.root))
    with pytest.raises(Refused, match=f"{base}, which lies in the additional image store") as said:
        additional.checked(manifest, (str(tmp_path / "none"), str(settings)))
    assert str(tmp_path / "other") in str(said.value)


@pytest.mark.parametrize(
    "text", [None, "", SETTINGS.format("/nowhere"), "[storage", "storage = 1\n"]
)
def test_a_parent_that_is_nowhere_is_remarked(
    tmp_path: Path, parted: tuple[Built, str], text: str | None
) -> None:
    """It is lost, or in a store that nobody names: the tree can be looked at, and this is said."""
    tree, base = parted
    settings = tmp_path / "storage.conf"
    if text is not None:
        settings.write_text(text)
    manifest = containers_storage.read(str(tree.root))
    (remark,) = additional.checked(manifest, (str(settings),)).remarks
    assert base in remark
    assert "additional image store" in remark


def test_a_whole_tree_is_not_refused(tmp_path: Path) -> None:
    """Settings that name another store matter to nobody who does not use it."""
    tree = podman_tree(tmp_path / "storage", **d.WHOLE)
    other = podman_tree(tmp_path / "other", **d.WHOLE)
    settings = tmp_path / "storage.conf"
    settings.write_text(SETTINGS.format(other.root))
    manifest = containers_storage.read(str(tree.root))
    assert manifest == additional.checked(manifest, (str(settings),))


@pytest.fixture
def settings_of(tmp_path: Path) -> Iterator[Path]:
    """The machine's storage.conf, as this mount namespace sees it: a file of the test's own."""
    if not os.path.exists(additional.CONFIGS[1]):
        pytest.skip("needs podman (Debian: podman), whose settings these are")
    place = next(path for path in additional.CONFIGS if os.path.exists(path))
    own = tmp_path / "storage.conf"
    own.write_bytes(Path(place).read_bytes())
    syscalls.mount(str(own), place, "", syscalls.MS_BIND, "")
    yield own
    syscalls.umount2(place, 0)


@pytest.mark.root
@pytest.mark.crash
@pytest.mark.campaign
def test_a_real_podmans_additional_store_is_refused(
    podman: Podman, settings_of: Path, bare: Path
) -> None:
    """A container on an image of another store: refused where the settings name it, remarked elsewhere."""
    shared = Podman(bare / "shared")
    (bare / "files").mkdir()
    (bare / "files/os").write_text("debian")
    archive = bare / "base.tar"
    subprocess.run(["tar", "-C", bare / "files", "-cf", archive, "."], check=True)
    shared("import", str(archive), "base:1")
    store = f"{shared.place}/root"
    podman("--storage-opt", f"overlay.imagestore={store}", "create", "base:1", "/bin/true")
    before = snapshot(podman.place / "root")
    found = detecting.detect(f"{podman.place}/root")
    run_root = f"{podman.place}/run"
    assert [True] == ["additional image store" in said for said in _planned(found, run_root)]
    settings_of.write_text(SETTINGS.format(store))
    with pytest.raises(Refused, match="which lies in the additional image store"):
        verdicts.plan(found, run_root=run_root)
    own = detecting.detect(store)
    assert () == _planned(own, f"{shared.place}/run")
    assert before == snapshot(podman.place / "root")


def _planned(found: detecting.Found, run_root: str) -> tuple[str, ...]:
    return verdicts.plan(found, run_root=run_root).manifest.remarks
