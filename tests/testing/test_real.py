"""What the builders write is what the real programs have: they take it for their own, and theirs has the
same names and fields.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store, legacy
from layerstore.audit import audit
from layerstore.legacy import bbolt, detecting
from layerstore.legacy.manifest import Manifest, Source
from layerstore.testing import (
    Built,
    Container,
    File,
    Image,
    Layer,
    Symlink,
    docker_tree,
    podman_tree,
)
from tests.docker.daemon import Docker, busybox, docker, docker_on_layerstore, missing, saved
from tests.testing import description as d
from tests.testing.podman import Podman

pytestmark = [
    pytest.mark.root,
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]

IDS = re.compile(r"[0-9a-f]{64}|[0-9a-z]{25}|[A-Z2-7]{26}|(?<=write-set-)\w+")
CLASSIC = "FROM bb\nRUN echo a > /a\nCOPY given /given\n"
KIT = "FROM bb AS one\nCOPY given /k\nRUN echo k > /k2\nFROM scratch\nCOPY --from=one /k2 /k2\n"


def build_with_buildkit(run: Docker, place: Path) -> None:
    """By the interface itself: Debian's client needs another package for it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in (("Dockerfile", KIT), ("given", "given\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    (place / "context.tar").write_bytes(made.getvalue())
    url = "http://docker/v1.41/build?version=2&t=kit&networkmode=none"
    send = ["-X", "POST", "-H", "Content-Type: application/x-tar"]
    send += ["--data-binary", f"@{place}/context.tar", url]
    socket = run.host.removeprefix("unix://")
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", socket, *send],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert b"Successfully tagged kit" in done.stdout, done.stdout[-500:]


def live(run: Docker, place: Path) -> None:
    """Images that share layers, a build cache, containers that run and do not."""
    run("import", "-", "bb", feed=busybox())
    context = place / "context"
    context.mkdir()
    (context / "given").write_text("given\n")
    (context / "Dockerfile").write_text(CLASSIC)
    run("build", "--network", "none", "-t", "classic", str(context))
    build_with_buildkit(run, place)
    run("run", "--network", "none", "--name", "stopped", "classic", "/bin/sh", "-c", "echo x > /x")
    run("run", "-d", "--network", "none", "--name", "running", "classic", "/bin/sleep", "1000")


@pytest.fixture
def real(bare: Path) -> Iterator[tuple[Docker, Manifest]]:
    """A dockerd with all that, and what the readers say of it while it runs."""
    with docker(bare / "real", "overlay2") as run:
        live(run, bare)
        yield run, legacy.read(detecting.detect(str(run.data)))
        run("rm", "-f", "running")


def test_what_a_dockerd_has_is_read(real: tuple[Docker, Manifest]) -> None:
    """Every layer, image, container and snapshot that it lists is read, with its parent; nothing is left
    over; and what the kernel shows of a running container is the chain that was read.
    """
    run, manifest = real
    assert () == manifest.troubles
    directories = {p.name for p in (run.data / "overlay2").iterdir()} - {"l"}
    assert directories == set(manifest.by_layer())
    listed = set(run.lines("images", "-aq", "--no-trunc"))
    assert listed == {image.id for image in manifest.images}
    for image in manifest.images:
        about = json.loads(run("image", "inspect", image.id))[0]
        assert len(about["RootFS"].get("Layers", [])) == len(image.layers)
        data = about["GraphDriver"]["Data"]
        if image.layers:
            assert Path(data["UpperDir"]).parent.name == image.layers[-1]
        lower = [p.split("/")[-2] for p in (data.get("LowerDir") or "").split(":") if p]
        assert lower == list(image.layers[-2::-1])
    by_layer = manifest.by_layer()
    owners = {p.name: p.readlink().parts[1] for p in (run.data / "overlay2/l").iterdir()}
    for name, records in by_layer.items():
        file = run.data / "overlay2" / name / "lower"
        first = file.read_text().split(":")[0].removeprefix("l/") if file.exists() else ""
        parents = {record.parent for record in records if record.parent}
        assert parents == ({owners[first]} if first else set())
    states = {container.name: container.running for container in manifest.containers}
    assert {"stopped": False, "running": True} == states
    web = next(c for c in manifest.containers if c.name == "running")
    mounted = run.data / "overlay2" / web.layers[0] / "merged"
    assert (mounted / "given").read_text() == "given\n"


def shape(root: Path, *parts: str) -> set[str]:
    """The names in a tree, every id replaced by how long it is; content of layers apart."""
    found = set()
    for part in parts:
        for top, directories, names in os.walk(root / part):
            relative = os.path.relpath(top, root)
            if re.search(r"/(diff|merged|work)$", relative):
                directories[:] = []
                names = []  # noqa: PLW2901
            for name in (".", *names):
                path = os.path.normpath(f"{relative}/{name}")
                found.add(IDS.sub(lambda m: f"<{len(m[0])}>", path))
    return found


def keys(document: Path, below: str = "") -> set[str]:
    """The fields of a document, two levels deep."""
    value: Any = json.loads(document.read_text())
    value = value[0] if isinstance(value, list) else value
    return {f"{k}.{n}" for k, v in value.items() if isinstance(v, dict) for n in v} | set(value)


PARTS = ("overlay2", "image/overlay2/layerdb", "image/overlay2/imagedb")


def test_a_built_data_root_looks_like_a_real_one(real: tuple[Docker, Manifest], bare: Path) -> None:
    """The same names, but for what only a running one has; the fields of its documents are real ones; its
    database of snapshots has the same fields.
    """
    run, _ = real
    tree = docker_tree(bare / "built", **{**d.WHOLE, "layers": (*d.LAYERS, d.KIT, d.CACHE)})
    built, theirs = shape(tree.root, *PARTS), shape(run.data, *PARTS)
    theirs = {name for name in theirs if "merged" not in name}
    optional = {"image/overlay2/imagedb/metadata/sha256/<64>/parent"}
    assert set() == built - theirs
    assert theirs - built <= optional | {name for name in theirs if name.endswith("/committed")}
    for pattern in (
        "containers/*/config.v2.json",
        "containers/*/hostconfig.json",
        "image/overlay2/imagedb/content/sha256/*",
        "image/overlay2/repositories.json",
    ):
        ours, others = (sorted(root.glob(pattern)) for root in (tree.root, run.data))
        if pattern.endswith("repositories.json"):
            assert [list(json.loads(file.read_text())) for file in ours] == [
                list(json.loads(file.read_text())) for file in others
            ]
        else:  # what is written of an image depends on who made it
            assert keys(ours[0]) <= set().union(*map(keys, others))
    fields = [snapshot_fields(root) for root in (tree.root, run.data)]
    assert fields[0] <= fields[1]


def snapshot_fields(root: Path) -> set[frozenset[bytes]]:
    """Which fields BuildKit's snapshots have together."""
    buckets = bbolt.read(f"{root}/buildkit/snapshots.db").buckets()
    return {frozenset(bucket.values()) for _, bucket in buckets}


def test_a_dockerd_takes_a_built_data_root_for_its_own(bare: Path) -> None:
    """It lists the images and containers, saves layers with the digests that were recorded, starts with a
    build cache, and can remove everything.
    """
    shell = Layer("shell", files={"bin/busybox": File(Path("/bin/busybox").read_bytes(), 0o755)})
    base = Layer("sh", parent="shell", files={"bin/sh": Symlink("busybox"), "etc/os": "old"})
    layers = (shell, base, *(d.KIT_ON_SHELL, d.CACHE_ON_KIT))
    tree = docker_tree(
        bare / "docker/data",
        layers=layers,
        images=[Image("sh:1", "sh")],
        containers=[Container("web", "sh:1", {"tmp/x": "1"})],
    )
    with docker(bare / "docker", "overlay2") as run:
        assert [tree.images["sh:1"]] == run.lines("images", "-q", "--no-trunc")
        found = saved(run.run("save", "sh:1").stdout)
        assert (tree.diff_ids["shell"], tree.diff_ids["sh"]) == found.diff_ids == found.archives
        assert "web" == run("ps", "-a", "--format", "{{.Names}}")
        assert ["A /tmp", "A /tmp/x"] == sorted(run.lines("diff", "web"))
        words = ("--rm", "--network", "none", "sh:1", "/bin/sh", "-c", "read a < /etc/os; echo $a")
        assert "old" == run("run", *words)
        run("rm", "web")
        run("rmi", "sh:1")
    assert () == audit(tree.home, any_tree=True).findings


def test_podman_takes_a_built_graph_root_for_its_own(bare: Path, podman: Podman) -> None:
    """It lists the images, mounts them with the content that was described, and builds on them."""
    tree = podman_tree(podman.place, **{**d.WHOLE, "containers": ()})
    shutil.rmtree(tree.root / "libpod")  # its own program begins it
    listed = set(podman("images", "-aq", "--no-trunc").split())
    assert {f"sha256:{identity}" for identity in tree.images.values()} == listed
    where = Path(podman("image", "mount", "localhost/app:1"))
    assert ("new", False) == ((where / "etc/os").read_text(), (where / "srv/gone").exists())
    podman("image", "umount", "localhost/app:1")
    (bare / "Dockerfile").write_text("FROM localhost/app:1\nCOPY given /given\n")
    (bare / "given").write_text("given\n")
    podman("build", "--network", "none", "--pull=never", "-t", "more", str(bare))
    manifest = legacy.read(detecting.detect(str(tree.root)))
    more = next(i for i in manifest.images if i.names == ("localhost/more:latest",))
    assert [tree.layers["base"], tree.layers["app"]] == list(more.layers[:2])


def test_what_podman_has_is_read(bare: Path, podman: Podman) -> None:
    """Images that share layers and containers: every directory has a record, and is shaped as a built one."""
    (bare / "bb.tar").write_bytes(busybox())
    podman("import", str(bare / "bb.tar"), "bb")
    (bare / "given").write_text("given\n")
    (bare / "Dockerfile").write_text("FROM bb\nCOPY given /given\n")
    podman("build", "--network", "none", "--pull=never", "-t", "built", str(bare))
    podman("create", "--network", "none", "--name", "web", "built", "/bin/true")
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    sleep = ("--name", "running", "built", "/bin/sleep", "1000")
    podman("run", "-d", "--network", "none", *limits, *sleep)
    found = detecting.detect(f"{podman.place}/root")
    manifest = legacy.read(found, run_root=f"{podman.place}/run")
    assert () == manifest.troubles
    directories = {p.parent.name for p in (podman.place / "root/overlay").glob("*/link")}
    assert directories == {record.layer for record in manifest.records}
    (running,) = [r.layer for r in manifest.records if r.source is Source.RUNNING]
    assert "given\n" == (podman.place / "root/overlay" / running / "merged/given").read_text()
    listed = set(podman("images", "-aq", "--no-trunc").split())
    assert {f"sha256:{image.id}" for image in manifest.images} == listed
    containers = {container.name: container for container in manifest.containers}
    assert {"web", "running"} == set(containers)
    assert (running,) == containers["running"].layers
    lowers = (podman.place / "root/overlay" / running / "lower").read_text().split(":")
    chain = [(podman.place / "root/overlay" / lower).readlink().parts[1] for lower in lowers]
    image = next(i for i in manifest.images if i.names == ("localhost/built:latest",))
    assert list(image.layers[::-1]) == chain
    tree: Built = podman_tree(bare / "other", **d.WHOLE)
    parts = ("overlay", "overlay-layers", "overlay-images")
    ours, theirs = (shape(root, *parts) for root in (tree.root, podman.place / "root"))
    plain = {
        name for name in ours | theirs if "=" not in name
    }  # names in base64 are as long as they are
    assert set() == (ours ^ theirs) & plain - {"overlay-layers/volatile-layers.json"}
    for name in ("layers", "images", "containers"):
        built, real = (
            root / f"overlay-{name}/{name}.json" for root in (tree.root, podman.place / "root")
        )
        loose = {k for k in keys(built) | keys(real) if "." in k or k == "names-history"}
        assert keys(built) - loose == keys(real) - loose


def test_what_dockerd_does_not_know_after_a_kill(bare: Path) -> None:
    """Of a dockerd on a layerstore that was killed: a layer that its driver made and it never recorded is
    reported, and nothing else; a record whose layer is gone, too.
    """
    with docker_on_layerstore(bare) as both:
        both.docker("import", "-", "bb", feed=busybox())
        both.docker("run", "--network", "none", "--name", "web", "bb", "/bin/true")
        assert () == audit(both.home, docker_root=both.docker.data).findings
        both.docker.end(9)
        with Store.open(both.home) as store:
            top = next(layer.id for layer in store.layers() if layer.parent is None)
            store.create("made-and-not-recorded", parent=top)
            gone = next(x.id for x in store.layers() if x.read_write and not x.id.endswith("-init"))
            store.remove(gone)
        report = audit(both.home, docker_root=both.docker.data)
        found = {(f.code, f.layer) for f in report.findings if f.severity != "note"}
        expected = {("unknown-to-docker", "made-and-not-recorded"), ("record-without-layer", gone)}
        assert expected <= found <= expected | {("unknown-to-docker", f"{gone}-init")}
