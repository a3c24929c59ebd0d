"""The trees of a real dockerd and of the real containers-storage are adopted, and still theirs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Reader, Store, adopting, releasing, showing
from layerstore.audit import audit
from layerstore.errors import Refused
from layerstore.fs import layout
from layerstore.testing import Snapshot, assert_same, snapshot
from tests.cli.running import run
from tests.docker.daemon import Docker, busybox, docker
from tests.legacy.test_real import listed, needs_docker, needs_storage, populate, works
from tests.testing.podman import Podman, containers_storage

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]


@pytest.fixture
def daemon(bare: Path) -> Iterator[Docker]:
    """A dockerd with its own overlay2."""
    with docker(bare / "docker", "overlay2") as running:
        yield running


@pytest.fixture
def shown(bare: Path) -> Iterator[Path]:
    """A place for mounts, which are ended."""
    place = bare / "shown"
    place.mkdir()
    yield place
    subprocess.run(["umount", "-q", str(place)], check=False)


def seen_at(reader: Reader, layer: str, place: Path) -> Snapshot:
    """What a layer holds with all below it, as it is shown."""
    showing.show(reader, layer, str(place))
    try:
        return snapshot(place)
    finally:
        subprocess.run(["umount", place], check=True)


def chains(daemon: Docker) -> dict[str, list[str]]:
    """The layers of each image and container by the daemon's own words: the topmost, and those below it."""
    found = {}
    for name in (*daemon.lines("images", "-aq"), *daemon.lines("ps", "-aq")):
        (one,) = json.loads(daemon("inspect", name))
        data = one["GraphDriver"]["Data"]
        below = data["LowerDir"].split(":") if data.get("LowerDir") else []
        found[Path(data["UpperDir"]).parent.name] = [Path(path).parent.name for path in below]
    return found


def assert_index(daemon: Docker, wanted: dict[str, list[str]], names: set[str]) -> None:
    """The index has the layers that the daemon listed, each upon the same ones."""
    with Reader.open(daemon.data / "overlay2") as reader:
        assert names <= {layer.id for layer in reader.layers()}
        for layer, below in wanted.items():
            assert below == [one.id for one in reader.ancestors(layer)]


@needs_docker
def test_a_docker_is_adopted_and_works_on(daemon: Docker, shown: Path) -> None:
    """Every layer is there with parent and content; it runs what it ran; released it is as it was."""
    populate(daemon)
    with pytest.raises(Refused, match="dockerd"):
        adopting.adopt(str(daemon.data))
    wanted, names = chains(daemon), listed(daemon)
    (box,) = json.loads(daemon("inspect", "running"))
    merged = box["GraphDriver"]["Data"]["MergedDir"]
    assert daemon.process is not None
    theirs = snapshot(Path(f"/proc/{daemon.process.pid}/root{merged}"))
    daemon("kill", "running")
    daemon.end()
    home = daemon.data / "overlay2"
    before = snapshot(daemon.data, top=True)
    done = adopting.adopt(str(daemon.data))
    assert (0, {}) == (done.damaged, done.left)
    assert_same(before, snapshot(daemon.data, top=True, leave_out={f"overlay2/{layout.OWN}"}))
    assert_index(daemon, wanted, names)
    assert audit(home).clean, audit(home).findings
    with Reader.open(home) as reader:
        layer = Path(merged).parent.name
        assert "running" == reader.layer(layer).labels["names"]
        assert_same(theirs, seen_at(reader, layer, shown))
    releasing.release(home)
    assert_same(before, snapshot(daemon.data, top=True))
    adopting.adopt(str(daemon.data))
    daemon.start()
    works(daemon)
    daemon("run", "--network", "none", "--name", "more", "two:1", "cat", "/data/c")
    daemon("rmi", "-f", "kit:1")
    daemon("rm", "running")
    wanted, names = chains(daemon), listed(daemon)
    daemon.end()
    assert {"unknown-layer", "missing-layer"} <= {item.code for item in audit(home).findings}
    done = adopting.adopt(str(daemon.data))
    assert done.found > 0
    assert done.vanished > 0
    assert_index(daemon, wanted, names)
    assert audit(home).clean, audit(home).findings
    releasing.release(home)
    assert not (home / layout.OWN).exists()
    daemon.start()
    assert "c" == daemon("start", "-a", "more")


@needs_docker
def test_a_docker_is_taken_over(daemon: Docker) -> None:
    """Its containers' layers are mounted to be written to, and new ones are built on its images."""
    populate(daemon)
    daemon("kill", "running")
    daemon.end()
    home = daemon.data / "overlay2"
    adopting.adopt(str(daemon.data), take_over=True)
    with Store.open(home) as store:
        (two,) = [x for x in store.layers() if "two:1" in x.labels.get("names", "").split(",")]
        (box,) = [x for x in store.layers() if "idle" in x.labels.get("names", "").split(",")]
        store.create("mine", parent=two.id)
        with store.mounted("mine") as path:
            assert "c\n" == (path / "data/c").read_text()
        with store.mounted(box.id) as path:
            (path / "data/mine").write_text("x")
        store.remove("mine")
    assert audit(home).clean, audit(home).findings


@needs_storage
def test_a_graph_root_is_adopted_and_works_on(bare: Path, shown: Path) -> None:
    """The same of containers/storage, whose index is beside the graph."""
    graph, run = bare / "graph", bare / "run"
    tool = containers_storage(graph, run)
    base = tool("create-layer").split("\n")[0]
    middle = tool("create-layer", base).split("\n")[0]
    image = tool("create-image", "--name", "one:1", middle).split("\n")[0]
    box = tool("create-container", "--name", "box", image).split("\n")[0]
    for layer in (base, middle):
        (Path(tool("mount", layer)) / f"of-{layer[:8]}").write_text(layer)
        tool("unmount", layer)
    recorded = {one["id"]: one.get("parent") for one in json.loads(tool("layers", "--json"))}
    before = snapshot(graph, top=True)
    done = adopting.adopt(str(graph), run_root=str(run))
    assert (str(bare / "layerstore"), {}) == (done.home, done.left)
    assert_same(before, snapshot(graph, top=True))
    with Reader.open(done.home) as reader:
        assert recorded == {layer.id: layer.parent for layer in reader.layers()}
        ours = {layer: seen_at(reader, layer, shown) for layer in recorded}
    assert audit(done.home).clean, audit(done.home).findings
    for layer, content in ours.items():
        path = Path(tool("mount", layer))
        names = {name for name in content if "/" not in name}
        assert names == {one.name for one in path.iterdir()}
        assert all((path / name).read_bytes() == content[name]["data"] for name in names)
        tool("unmount", layer)
    tool("delete-container", box)
    tool("create-layer", middle)
    again = adopting.adopt(str(graph), run_root=str(run))
    assert (1, 1) == (again.found, again.vanished)
    before = snapshot(graph, top=True)
    releasing.release(Path(done.home))
    assert_same(before, snapshot(graph, top=True))
    assert not Path(done.home).exists()
    tool("create-layer", middle)


@needs_docker  # its busybox is what the images are made of
@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_a_podman_is_adopted_and_works_on(bare: Path, podman: Podman, shown: Path) -> None:
    """What podman mounts of an image and of a container is what is shown of them, and both run afterwards."""
    (bare / "bb.tar").write_bytes(busybox())
    podman("import", str(bare / "bb.tar"), "bb")
    (bare / "given").write_text("given\n")
    (bare / "Dockerfile").write_text("FROM bb\nCOPY given /given\n")
    podman("build", "--network", "none", "--pull=never", "-t", "built", str(bare))
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    write = ("built", "/bin/sh", "-c", "echo mine > /data/mine; rm -f /given")
    podman("run", "--network", "none", *limits, "--name", "box", *write)
    theirs = {
        "localhost/built:latest": snapshot(Path(podman("image", "mount", "built"))),
        "box": snapshot(Path(podman("mount", "box"))),
    }
    assert {"data/mine", "given"} & set(theirs["box"]) == {"data/mine"}
    podman("image", "umount", "built")
    podman("umount", "box")
    graph, run = podman.place / "root", podman.place / "run"
    before = snapshot(graph, top=True)
    done = adopting.adopt(str(graph), run_root=str(run))
    assert_same(before, snapshot(graph, top=True))
    with Reader.open(done.home) as reader:
        for name, content in theirs.items():
            (layer,) = [x for x in reader.layers() if name in x.labels.get("names", "").split(",")]
            assert_same(content, seen_at(reader, layer.id, shown))
    assert audit(done.home).clean, audit(done.home).findings
    podman("start", "-a", "box")
    podman("run", "--network", "none", *limits, "--name", "more", "built", "/bin/cat", "/given")
    podman("rm", "box")
    again = adopting.adopt(str(graph), run_root=str(run))
    assert (1, 1) == (again.found, again.vanished)
    before = snapshot(graph, top=True)
    releasing.release(Path(done.home))
    assert_same(before, snapshot(graph, top=True))
    podman("start", "-a", "more")


@needs_docker  # its busybox is what the image is made of
@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_the_way_out_of_a_graph_root(bare: Path, podman: Podman) -> None:
    """An image that podman saves is layers in a store, which are mounted as podman mounts it."""
    (bare / "bb.tar").write_bytes(busybox())
    podman("import", str(bare / "bb.tar"), "bb")
    (bare / "given").write_text("given\n")
    (bare / "Dockerfile").write_text("FROM bb\nCOPY given /given\n")
    podman("build", "--network", "none", "--pull=never", "-t", "built", str(bare))
    podman("save", "-o", str(bare / "built.tar"), "built")
    # A directory that the archive has no entry of gets its time when it is made.
    theirs = snapshot(Path(podman("image", "mount", "built")), times=False)
    podman("image", "umount", "built")
    home = bare / "store"
    assert 0 == run(["--home", str(home), "init"]).code
    done = run(["--home", str(home), "import", str(bare / "built.tar")])
    assert 0 == done.code, done.err
    with Store.open(home) as store, store.mounted(done.out.strip()) as path:
        assert_same(theirs, snapshot(path, times=False))
