"""pytest finds the fixtures where layerstore is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import Store
from layerstore.testing import Layer, snapshot

pytestmark = pytest.mark.root


def test_fixtures_are_there(layerstore_home, layerstore_place, docker_tree, podman_tree):
    """Without an import: a place, a store in it, and builders whose trees lie apart."""
    with Store.open(layerstore_home) as store:
        store.create("base")
    trees = [build(layers=[Layer("a")]) for build in (docker_tree, docker_tree, podman_tree)]
    assert 3 == len({tree.home for tree in trees})
    for path in (layerstore_home, *(tree.home for tree in trees)):
        assert path.is_relative_to(layerstore_place)


def test_what_is_mounted_is_unmounted(docker_tree, layerstore_place: Path, request):
    """A mount that a test leaves is no mount any more when its directory is removed."""
    tree = docker_tree(layers=[Layer("a"), Layer("b", "a")])
    assert tree.mount("b").is_mount()


def test_unequal_snapshots_are_explained(layerstore_place: Path, request: pytest.FixtureRequest):
    """An assertion about two snapshots says what differs, and not both of them whole."""
    (layerstore_place / "x").write_text("1")
    before = snapshot(layerstore_place, times=False)
    (layerstore_place / "y").write_text("1")
    hook = request.config.hook.pytest_assertrepr_compare
    after = snapshot(layerstore_place, times=False)
    told = hook(config=request.config, op="==", left=before, right=after)
    assert ["snapshots of trees", "y: only in the second (file)"] in told
