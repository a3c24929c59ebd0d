"""What each directory of a foreign tree is called, and that an orphan is never one that something holds."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore.legacy import detecting
from layerstore.verdicts import Plan, Verdict, plan
from tests.cli.running import run
from tests.legacy.trees import (
    BASE,
    CACHE,
    GONE,
    LONE,
    MID,
    SIDE,
    TOP,
    DockerTree,
    docker_tree,
    hexed,
    podman_tree,
    put_layer,
    snapshot,
    snapshots,
    write,
)  # fmt: skip

ORPHAN, UNDER, BOX = hexed("orphan"), hexed("under the orphan"), hexed("layer of box")


def planned(path: Path, *, measure: bool = False, trust_records: bool = False) -> Plan:
    """The plan of what lies at a path, whose run root is empty."""
    found, run_root = detecting.detect(str(path)), str(path / "run")
    return plan(found, run_root=run_root, measure=measure, trust_records=trust_records)


def verdicts(path: Path) -> dict[str, Verdict]:
    """Every entry of a tree, with its verdict."""
    return {one.layer: one.verdict for one in planned(path).layers}


def orphans(path: Path) -> set[str]:
    """What is called an orphan."""
    return {name for name, verdict in verdicts(path).items() if verdict is Verdict.ORPHANED}


def test_each_layer_of_docker_has_its_verdict(tmp_path: Path) -> None:
    """Images and containers keep, a record alone is said, what is being removed is condemned, the rest orphans."""
    docker_tree(tmp_path)
    kept = (BASE, MID, TOP, SIDE, BOX, f"{BOX}-init")
    assert dict.fromkeys(kept, Verdict.KEPT) | {
        LONE: Verdict.RECORDED,
        GONE: Verdict.CONDEMNED,
        ORPHAN: Verdict.ORPHANED,
        UNDER: Verdict.ORPHANED,
        "notes": Verdict.UNKNOWN,
    } == verdicts(tmp_path)


def test_each_layer_of_podman_has_its_verdict(tmp_path: Path) -> None:
    """The same of containers/storage, whose volatile layers are records as well."""
    podman_tree(tmp_path)
    assert dict.fromkeys((BASE, MID, TOP, hexed("box")), Verdict.KEPT) | {
        LONE: Verdict.RECORDED,
        GONE: Verdict.CONDEMNED,
        ORPHAN: Verdict.ORPHANED,
    } == verdicts(tmp_path)


def test_a_plan_says_why_and_how_much(tmp_path: Path) -> None:
    """Kept layers have the bytes of their record unless they are to be counted; orphans are counted."""
    docker_tree(tmp_path)
    found = planned(tmp_path)
    by_name = {one.layer: one for one in found.layers}
    assert (64, False) == (by_name[MID].bytes, by_name[MID].measured)
    assert by_name[ORPHAN].measured
    assert (by_name[ORPHAN].bytes or 0) >= 4096 or os.statvfs(tmp_path).f_bsize < 4096
    assert "image one:1 has it" == by_name[MID].why
    assert "container box has it" == by_name[BOX].why
    assert MID == by_name[TOP].parent
    assert [("half-made-layer", "notes")] == [(item.code, item.layer) for item in found.findings]
    assert all(one.measured for one in planned(tmp_path, measure=True).layers)


# --- what holds a layer ---------------------------------------------------------------------------


def _as_parent_of_an_image(tree: DockerTree) -> None:
    """By its `lower` alone an image's layer stands on it: the record of its parent is lost."""
    stands = hexed("stands")
    put_layer(tree.home, stands, ORPHAN)
    tree.layer(stands, directory=False)
    tree.image(stands, name="stands:1")


def _as_a_mount_of_no_container(tree: DockerTree) -> None:
    record = tree.layerdb / "mounts" / hexed("build step")
    write(record / "mount-id", ORPHAN)
    write(record / "parent", tree.chains[SIDE])


@pytest.mark.parametrize("hold", [_as_parent_of_an_image, _as_a_mount_of_no_container])
def test_what_a_record_reaches_is_no_orphan(
    tmp_path: Path, hold: Callable[[DockerTree], None]
) -> None:
    """What something stands on is kept, whatever the records say of it, and all that is below."""
    tree = docker_tree(tmp_path)
    assert {ORPHAN, UNDER} == orphans(tmp_path)
    hold(tree)
    found = verdicts(tmp_path)
    assert {Verdict.KEPT} == {found[ORPHAN], found[UNDER]}


def _overlay(home: Path) -> str:
    place = home / ORPHAN
    lowers = ":".join(f"{home}/{layer}/diff" for layer in (UNDER, SIDE, BASE))
    options = f"lowerdir={lowers},upperdir={place}/diff,workdir={place}/work"
    return f"mount -t overlay overlay -o {options} {place}/merged"


def _below(home: Path) -> str:
    """Read-only, at a place of its own, under a name that is not the layout's."""
    lowers = ":".join(f"{home}/{layer}/diff" for layer in (ORPHAN, UNDER))
    return f"mount -t overlay overlay -o lowerdir={lowers} {home}/notes"


def _bind(home: Path) -> str:
    return f"mount --bind {home}/{ORPHAN}/diff {home}/notes"


@pytest.mark.root
@pytest.mark.parametrize("command", [_overlay, _below, _bind])
def test_what_is_mounted_in_another_namespace_is_no_orphan(
    bare: Path, command: Callable[[Path], str]
) -> None:
    """A mount that only another mount namespace has keeps what it is of, and every layer below it."""
    # A mount of another tree's layer of that name keeps it, too, and other tests have such trees.
    tree = docker_tree(bare, f"driver-{os.getpid()}")
    (tree.home / ORPHAN / "merged").mkdir()
    mount = f"{command(tree.home)} && echo up && read x"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        assert b"up\n" == process.stdout.readline()
        assert set() == orphans(bare)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.wait()
    assert {ORPHAN, UNDER} == orphans(bare)


def test_what_a_process_has_open_is_no_orphan(tmp_path: Path) -> None:
    """A process that works in a layer keeps it, and the plan says which."""
    tree = docker_tree(tmp_path)
    file = next((tree.home / ORPHAN / "diff").iterdir())
    with file.open() as held, subprocess.Popen(["sleep", "60"], stdin=held) as process:
        try:
            found = {one.layer: one for one in planned(tmp_path).layers}
            assert Verdict.KEPT is found[ORPHAN].verdict
            assert f"process {process.pid} " in found[ORPHAN].why
            assert Verdict.KEPT is found[UNDER].verdict
        finally:
            process.kill()


def test_build_cache_is_no_orphan(tmp_path: Path) -> None:
    """What only BuildKit's database names is kept; what it does not name, of the same shape, is an orphan."""
    tree = docker_tree(tmp_path)
    known = "bymsxel322jxffza7eofsqo5k"
    for layer in (known, CACHE):
        put_layer(tree.home, layer, SIDE)
    assert {ORPHAN, UNDER} == orphans(tmp_path)  # no database: nothing is known of that shape
    path = write(tmp_path / "buildkit/snapshots.db", "")
    path.write_bytes(snapshots())
    assert {ORPHAN, UNDER, CACHE} == orphans(tmp_path)
    path.write_bytes(b"\0" * 32768)
    assert {ORPHAN, UNDER} == orphans(tmp_path)


@pytest.mark.parametrize("name", ["cache-id", "mount-id"])
def test_a_record_that_is_lost_makes_orphans_unknown(tmp_path: Path, name: str) -> None:
    """Where a record no longer says whose it is, the orphan may be that one."""
    tree = docker_tree(tmp_path)
    (file,) = [
        f for f in tree.layerdb.rglob(name) if name == "mount-id" or f.parent == tree.record_of(MID)
    ]
    file.write_text("")
    found = verdicts(tmp_path)
    assert Verdict.UNKNOWN is found[ORPHAN]
    assert Verdict.ORPHANED not in found.values()


@pytest.mark.parametrize("damage", ["lower", "l"])
def test_a_damaged_tree_still_keeps_what_is_needed(tmp_path: Path, damage: str) -> None:
    """Without `l/`, or with an empty `lower` in the middle, the chain of an image is kept by its records."""
    tree = docker_tree(tmp_path)
    if damage == "lower":
        (tree.home / MID / "lower").write_text("")
    else:
        for link in (tree.home / "l").iterdir():
            link.unlink()
    found = verdicts(tmp_path)
    assert {Verdict.KEPT} == {found[layer] for layer in (BASE, MID, TOP, SIDE, BOX)}
    assert planned(tmp_path).findings


def test_lost_records_make_no_orphans(tmp_path: Path) -> None:
    """An emptied layers.json, or a layerdb that is gone, is no licence: unless somebody says that it is right."""
    podman = podman_tree(tmp_path / "podman")
    (podman.root / "overlay-layers/layers.json").write_text("[]")
    docker = docker_tree(tmp_path / "docker")
    for path in sorted(docker.layerdb.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for root in (podman.root, docker.root):
        found = planned(root)
        assert found.lost_metadata
        assert () == found.of(Verdict.ORPHANED)
    assert planned(podman.root, trust_records=True).of(Verdict.ORPHANED)
    # A container that has no mount any more says by itself that a record is lost.
    assert not planned(docker.root, trust_records=True).of(Verdict.ORPHANED)


def test_a_pull_in_flight_is_kept_while_the_daemon_lives(tmp_path: Path) -> None:
    """What a write set names is an orphan of an interrupted pull, unless somebody has the databases open."""
    tree = docker_tree(tmp_path)
    write(tree.layerdb / "tmp/write-set-1/cache-id", ORPHAN)
    database = write(tmp_path / "volumes/metadata.db", "x")
    found = {one.layer: one for one in planned(tmp_path).layers}
    assert Verdict.ORPHANED is found[ORPHAN].verdict
    assert "write-set-1" in found[ORPHAN].why
    with database.open() as held, subprocess.Popen(["sleep", "60"], stdin=held) as process:
        try:
            live = planned(tmp_path)
            assert f"process {process.pid} " in live.daemon
            assert {ORPHAN, UNDER} <= {one.layer for one in live.of(Verdict.KEPT)}
        finally:
            process.kill()


def test_records_that_disagree_are_findings(tmp_path: Path) -> None:
    """A record without a directory, another parent, a missing layer of an image: each has its code."""
    tree = docker_tree(tmp_path)
    tree.layer(hexed("nowhere"), BASE, directory=False)
    (tree.record_of(TOP) / "parent").write_text(tree.chains[BASE])
    (tree.record_of(SIDE) / "cache-id").unlink()
    found = {(item.code, item.layer) for item in planned(tmp_path).findings}
    assert {
        ("record-without-layer", hexed("nowhere")), ("recorded-parent-differs", TOP),
        ("missing-record", None), ("damaged-record", None),
    } <= found  # fmt: skip


@pytest.mark.parametrize("make", [docker_tree, podman_tree])
def test_planning_changes_nothing(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Not a byte, a time or an attribute is another one after a plan."""
    make(tmp_path)
    before = snapshot(tmp_path)
    planned(tmp_path, measure=True)
    assert before == snapshot(tmp_path)


# --- the commands ---------------------------------------------------------------------------------


def test_orphans_are_listed(tmp_path: Path) -> None:
    """One line for each, the counts of the rest on stderr, and 4 to say that there are some."""
    docker_tree(tmp_path)
    done = run(["orphans", str(tmp_path)])
    assert 4 == done.code, done.err
    assert {ORPHAN, UNDER} == {line.split()[0] for line in done.out.splitlines()}
    assert "6 kept" in done.err
    document = json.loads(run(["orphans", "--json", str(tmp_path / "overlay2")]).out)
    assert 2 == document["summary"]["orphaned"]["layers"]
    assert {ORPHAN, UNDER, GONE, LONE, "notes"} == {one["layer"] for one in document["layers"]}


def test_a_plan_is_told(tmp_path: Path) -> None:
    """A plan says what there is of each verdict, and why; as JSON it has every layer."""
    docker_tree(tmp_path)
    done = run(["adopt", "--plan", str(tmp_path)])
    assert (0, "") == (done.code, done.err)
    assert "one:1, two:1" in done.out
    for word in (
        "kept",
        "recorded",
        "condemned",
        "orphaned",
        "unknown",
        LONE,
        GONE,
        ORPHAN,
        "notes",
    ):
        assert word in done.out
    assert MID not in done.out
    document = json.loads(run(["adopt", "--plan", "--json", str(tmp_path)]).out)
    assert 11 == len(document["layers"])
    assert ("docker", None, False) == tuple(
        document[name] for name in ("kind", "daemon", "lost_metadata")
    )


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    """A path without a tree is an error with a hint."""
    done = run(["orphans", str(tmp_path)])
    assert 10 == done.code
    assert "hint" in done.err


def test_many_layers_take_seconds(tmp_path: Path) -> None:
    """Five hundred layers on one are planned in a second or two, not in the square of it."""
    tree = docker_tree(tmp_path)
    names = {tree.layer(hexed(f"layer {number}"), BASE) for number in range(500)}
    since = time.monotonic()
    found = planned(tmp_path)
    took = time.monotonic() - since
    assert names == {one.layer for one in found.of(Verdict.RECORDED)} - {LONE}
    assert took < 20
