"""Every layout that a version of Docker or podman has had: judged, cleared of orphans, and given them back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore.legacy import detecting
from layerstore.orphans import acting, asking, place
from layerstore.testing import Built, docker_tree, podman_tree
from layerstore.testing.compare import Snapshot, difference, snapshot
from layerstore.testing.containers_storage import VERSIONS as PODMANS
from layerstore.testing.docker import VERSIONS as DOCKERS
from layerstore.verdicts import Plan, Verdict, plan
from tests.testing import description as d

pytestmark = [pytest.mark.crash, pytest.mark.campaign]

LAYOUTS = [
    *(("docker", version, remapped) for version in DOCKERS for remapped in (False, True)),
    *(("podman", version, False) for version in PODMANS),
]


def built(path: Path, kind: str, version: str, remapped: bool) -> Built:
    """A tree with everything that a crash leaves."""
    if kind == "docker":
        whole = {**d.WHOLE, "layers": d.LEFT_BY_DOCKER}
        return docker_tree(path, **whole, version=version, remapped=remapped)
    whole = {**d.WHOLE, "layers": d.LEFT_BY_PODMAN}
    return podman_tree(path, **whole, version=version, volatile=["web"])


def as_it_is(tree: Built) -> Snapshot:
    """All of it, but for the times of the two directories that names come from and go to."""
    home = tree.home.relative_to(tree.root)
    found = snapshot(tree.root, leave_out=(f"{home}/.layerstore-orphans",))
    for name in (f"{home}", f"{home}/l"):
        found[name].pop("mtime")
    return found


def planned(tree: Built) -> tuple[detecting.Found, Plan]:
    """What is what there."""
    found = detecting.detect(str(tree.root))
    return found, plan(found, run_root=str(tree.root.parent / "run"))


def _as_built(home: Path, orphan: str) -> None:
    """Nothing is damaged."""


def _without_link(home: Path, orphan: str) -> None:
    (home / orphan / "link").write_text("")


def _truncated(home: Path, orphan: str) -> None:
    for name in ("link", "lower"):
        file = home / orphan / name
        file.write_text(file.read_text()[:13])


def _without_both(home: Path, orphan: str) -> None:
    for name in ("link", "lower"):
        (home / orphan / name).unlink()


CASES = [
    *((*layout, _as_built) for layout in LAYOUTS),
    *(
        (*layout, damage)
        for layout in (("docker", [*DOCKERS][-1], False), ("podman", PODMANS[-1], False))
        for damage in (_without_link, _truncated, _without_both)
    ),
]


@pytest.mark.parametrize(("kind", "version", "remapped", "damage"), CASES)
def test_orphans_of_every_layout(
    tmp_path: Path, kind: str, version: str, remapped: bool, damage: Callable[[Path, str], None]
) -> None:
    """Exactly the orphans go, also those whose small files a power cut emptied, and come back as they were."""
    tree = built(tmp_path / "tree", kind, version, remapped)
    damage(tree.home, tree.layers["orphan"])
    before = as_it_is(tree)
    found, seen = planned(tree)
    names = {"orphan", "unfinished"} if kind == "docker" else {"orphan"}
    orphans = {tree.layers[name] for name in names}
    assert orphans == {one.layer for one in seen.of(Verdict.ORPHANED)}
    assert [tree.layers["condemned"]] == [one.layer for one in seen.of(Verdict.CONDEMNED)]
    assert {one.layer for one in seen.of(Verdict.UNKNOWN)} <= {"tempdirs"}  # podman's own
    done: list[acting.Done] = []
    again = asking.Asking(found, frozenset(orphans), run_root=str(tmp_path / "run"))
    with acting.opened(found, place.default(found)) as quarantine:
        quarantine.remove(asking.choose(found, seen, ()), again, done.append)
    assert {(name, "removed") for name in orphans} == {(x.layer, x.outcome) for x in done}
    assert not orphans & set(os.listdir(tree.home))
    links = {
        os.readlink(tree.home / "l" / name).split("/")[1] for name in os.listdir(tree.home / "l")
    }
    assert links == set(tree.layers.values()) - orphans
    assert () == planned(tree)[1].of(Verdict.ORPHANED)
    with acting.opened(found, place.default(found)) as quarantine:
        quarantine.restore(orphans, done.append)
    assert not difference(before, as_it_is(tree))
