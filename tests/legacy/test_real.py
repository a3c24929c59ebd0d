"""The trees of a real dockerd and of the real containers-storage: everything in them is found, and no more."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.legacy import detecting
from layerstore.verdicts import Plan, Verdict, plan
from tests.docker.daemon import Docker, busybox, docker, docker_on_layerstore, missing
from tests.legacy.trees import snapshot
from tests.testing.podman import containers_storage

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]

needs_docker = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")
needs_storage = pytest.mark.skipif(
    shutil.which("containers-storage") is None,
    reason="needs containers-storage (Debian: containers-storage)",
)
KILLS = 4
"""How often the daemon is killed while it loads an image."""
LARGE = 3
"""Layers of the image that it is loading then."""


@pytest.fixture
def daemon(bare: Path) -> Iterator[Docker]:
    """A dockerd with its own overlay2."""
    with docker(bare / "docker", "overlay2") as running:
        yield running


def planned(path: Path, run_root: str = "/nowhere") -> Plan:
    """The plan of a root."""
    return plan(detecting.detect(str(path)), run_root=run_root)


def dockerfile(*lines: str) -> bytes:
    """A context of a build, that is a Dockerfile alone."""
    text = "".join(f"{line}\n" for line in lines).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return made.getvalue()


def build(daemon: Docker, tag: str, *lines: str, kit: bool = False) -> str:
    """A build by either builder, over the daemon's socket: the client of Debian has no BuildKit."""
    connection = http.client.HTTPConnection("docker")
    with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(daemon.host.removeprefix("unix://"))
        version = 2 if kit else 1
        path = f"/v1.41/build?version={version}&networkmode=none&t={tag}"
        headers = {"Content-Type": "application/x-tar"}
        connection.request("POST", path, dockerfile(*lines), headers)
        with connection.getresponse() as response:
            return response.read().decode()


def populate(daemon: Docker) -> None:
    """Images that share layers, by both builders, a build that fails, containers that run and that do not."""
    daemon("import", "-", "base:1", feed=busybox())
    for said in (
        build(daemon, "one:1", "FROM base:1", "RUN echo a > /data/a", "RUN echo b > /data/b"),
        build(daemon, "two:1", "FROM one:1", "RUN echo c > /data/c"),
        build(daemon, "kit:1", "FROM base:1", "RUN echo d > /data/d", kit=True),
    ):
        assert '"error' not in said, said
    assert '"error' in build(
        daemon, "no:1", "FROM base:1", "RUN echo e > /e", "RUN false", kit=True
    )
    daemon("run", "--network", "none", "-d", "--name", "running", "two:1", "sleep", "1000")
    daemon("create", "--network", "none", "--name", "idle", "kit:1", "cat", "/data/d")


def listed(daemon: Docker) -> set[str]:
    """The directories of every layer that the daemon itself says belongs to an image or a container."""
    names = [*daemon.lines("images", "-aq"), *daemon.lines("ps", "-aq")]
    found = set()
    for one in json.loads(daemon("inspect", *names)):
        for key, value in one["GraphDriver"]["Data"].items():
            if key in ("UpperDir", "LowerDir"):
                found |= {Path(path).parent.name for path in value.split(":")}
    return found


def works(daemon: Docker) -> None:
    """The daemon runs what it has."""
    assert "c" == daemon("run", "--rm", "--network", "none", "two:1", "cat", "/data/c")
    assert "d" == daemon("start", "-a", "idle")
    assert "b" == daemon("run", "--rm", "--network", "none", "one:1", "cat", "/data/b")


def names_in_records(root: Path, driver: str = "overlay2") -> set[str]:
    """The layers that Docker's records name, found by grepping them rather than by reading them."""
    found = set()
    for name in ("cache-id", "mount-id", "init-id"):
        for file in (root / f"image/{driver}/layerdb").rglob(name):
            if "/tmp/" not in str(file.relative_to(root)):
                found.add(file.read_text())
    return found


@needs_docker
def test_everything_of_a_docker_is_found(daemon: Docker) -> None:
    """While it lives, all that it lists is kept; at rest, too; and a plan changes nothing."""
    populate(daemon)
    live = planned(daemon.data)
    assert f"process {daemon.process.pid if daemon.process else 0} (dockerd)" in live.daemon
    kept = {one.layer for one in live.of(Verdict.KEPT)}
    assert listed(daemon) <= kept
    assert () == live.of(Verdict.ORPHANED)
    daemon("kill", "running")
    names = {name for image in live.manifest.images for name in image.names}
    assert {"base:1", "one:1", "two:1", "kit:1"} == names
    assert {"running", "idle"} == {one.name for one in live.manifest.containers}
    daemon.end()
    before = snapshot(daemon.data)
    still = planned(daemon.data)
    assert before == snapshot(daemon.data)
    assert ("", kept) == (still.daemon, {one.layer for one in still.of(Verdict.KEPT)})
    assert len(still.layers) == len(kept), [one for one in still.layers if one.layer not in kept]
    assert [] == [item for item in still.findings if item.severity == "damage"]
    daemon.start()
    works(daemon)


def large_image(daemon: Docker) -> bytes:
    """An image that takes a moment to load, which the daemon has no more."""
    lines = ["FROM base:1"]
    for number in range(LARGE):
        write = f"for i in 1 2 3 4 5 6 7 8; do cat /bin/busybox > /data/{number}.$i; done"
        lines.append(f"RUN {write}")
    assert '"error' not in build(daemon, "large:1", *lines)
    saved = daemon.run("save", "large:1").stdout
    daemon("rmi", "large:1")
    return saved


def kill_while_loading(daemon: Docker, archive: Path, layers: int) -> None:
    """Kill the daemon when it has made so many directories of a load, and is at the last of them."""
    home = daemon.data / daemon.driver
    before = set(os.listdir(home))
    command = ["docker", "-H", daemon.host, "load", "-i", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        end = time.monotonic() + 60
        while len(set(os.listdir(home)) - before) < layers and client.poll() is None:
            assert time.monotonic() < end
        daemon.end(signal.SIGKILL)
        client.wait(60)


@needs_docker
def test_orphans_of_a_docker_on_a_layerstore_are_found(bare: Path) -> None:
    """The same of a daemon whose driver is a layerstore: the store removes the orphans itself."""
    with docker_on_layerstore(bare) as both:
        daemon = both.docker
        daemon("import", "-", "base:1", feed=busybox())
        assert '"error' not in build(daemon, "one:1", "FROM base:1", "RUN echo b > /data/b")
        saved = bare / "large.tar"
        saved.write_bytes(large_image(daemon))
        kill_while_loading(daemon, saved, 2)
        found = planned(daemon.data)
        names = names_in_records(daemon.data, daemon.driver)
        expected = set(os.listdir(both.home)) - {"l", ".layerstore"} - names
        assert expected, "no kill came while a layer was made"
        assert expected == {one.layer for one in found.of(Verdict.ORPHANED)}
        with Store.open(both.home) as store:
            for one in found.of(Verdict.ORPHANED):  # each has been made on what is recorded
                assert one.parent not in expected
                store.remove(one.layer)
        daemon.start()
        assert "b" == daemon("run", "--rm", "--network", "none", "one:1", "cat", "/data/b")
        assert () == planned(daemon.data).of(Verdict.ORPHANED)


@needs_storage
def test_everything_of_containers_storage_is_found(bare: Path) -> None:
    """Every layer that the real program lists is kept or recorded, one that it has no record of is an orphan."""
    graph, run = bare / "graph", bare / "run"
    tool = containers_storage(graph, run)
    base = tool("create-layer").split("\n")[0]
    middle = tool("create-layer", base).split("\n")[0]
    alone = tool("create-layer").split("\n")[0]
    image = tool("create-image", "--name", "one:1", middle).split("\n")[0]
    tool("create-container", "--name", "box", image)
    lost = tool("create-layer", middle).split("\n")[0]
    path = graph / "overlay-layers/layers.json"
    path.write_text(json.dumps([x for x in json.loads(path.read_text()) if x["id"] != lost]))
    found = planned(graph, str(run))
    by_verdict = {verdict: {one.layer for one in found.of(verdict)} for verdict in Verdict}
    (container,) = found.manifest.containers
    assert {base, middle, *container.layers} == by_verdict[Verdict.KEPT]
    assert ({alone}, {lost}) == (by_verdict[Verdict.RECORDED], by_verdict[Verdict.ORPHANED])
    assert (("one:1",),) == tuple(
        tuple(name.rpartition("/")[2] for name in one.names) for one in found.manifest.images
    )
    tool("mount", alone)
    assert alone in {one.layer for one in planned(graph, str(run)).of(Verdict.KEPT)}
    tool("unmount", alone)
    rest = {entry["id"] for entry in json.loads(tool("layers", "--json"))}
    assert {base, middle, alone, *container.layers} == rest
