"""Orphans that a real dockerd and a real podman leave when they are killed: all are found, and only they;
without them the program works, and with them put back, too.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore.verdicts import Verdict
from tests.cli.running import run
from tests.docker.daemon import Docker, busybox, docker, missing
from tests.legacy.test_real import (
    LARGE,
    build,
    kill_while_loading,
    large_image,
    names_in_records,
    planned,
    populate,
    works,
)
from tests.legacy.trees import snapshot
from tests.testing.podman import Podman

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]

needs_docker = pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")
needs_podman = pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
BIG = "for i in 1 2 3 4 5 6 7 8; do cat /bin/busybox > /data/big.$i; done"


@pytest.fixture
def daemon(bare: Path) -> Iterator[Docker]:
    """A dockerd with its own overlay2."""
    with docker(bare / "docker", "overlay2") as running:
        yield running


def kill_while_building(daemon: Docker, layers: int, *, kit: bool) -> None:
    """Kill the daemon when it has made so many directories of a build."""
    home = daemon.data / daemon.driver
    before = set(os.listdir(home))

    def work() -> None:
        try:
            build(daemon, "no:1", "FROM base:1", f"RUN {BIG}", f"RUN {BIG}", kit=kit)
        except (OSError, ValueError, http.client.HTTPException):
            pass  # its end is the end of the daemon

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + 60
    while len(set(os.listdir(home)) - before) < layers and thread.is_alive():
        assert time.monotonic() < end
    daemon.end(signal.SIGKILL)
    daemon.end_containers()
    thread.join(60)


def unknown_to(daemon: Docker) -> set[str]:
    """The directories that no record names, found without reading one: by a search for their names."""
    names = set(os.listdir(daemon.data / "overlay2")) - {"l", ".layerstore-orphans"}
    cache = (daemon.data / "buildkit/snapshots.db").read_bytes()
    return {n for n in names - names_in_records(daemon.data) if n.encode() not in cache}


@needs_docker
def test_orphans_of_a_killed_docker(daemon: Docker, bare: Path) -> None:
    """Killed while it loads, and while it builds with either builder: all orphans are removed, it runs
    everything that it ran before, and what is put back is as it was.
    """
    populate(daemon)
    daemon("kill", "running")
    archive = bare / "large.tar"
    archive.write_bytes(large_image(daemon))
    for number in range(2):
        kill_while_loading(daemon, archive, number + 2)
        daemon.start()
    kill_while_building(daemon, 3, kit=False)
    daemon.start()
    kill_while_building(daemon, 2, kit=True)
    found, expected = planned(daemon.data), unknown_to(daemon)
    assert expected, "no kill came while a layer was made"
    assert expected == {one.layer for one in found.of(Verdict.ORPHANED)}
    root, home = str(daemon.data), daemon.data / "overlay2"
    before = {name: snapshot(home / name) for name in expected}
    done = run(["orphans", root, "--remove", "--yes"])
    assert 0 == done.code, done.err + done.out
    assert not expected & set(os.listdir(home))
    daemon.start()
    works(daemon)
    daemon.run("load", "-i", str(archive))
    daemon.run("run", "--rm", "--network", "none", "large:1", "cat", f"/data/{LARGE - 1}.8")
    assert 13 == run(["orphans", root, "--remove", "--yes"]).code  # it lives
    daemon.end()
    assert 0 == run(["orphans", root, "--restore", *expected]).code
    after = {name: snapshot(home / name) for name in expected}
    assert {name: but_for_changes(tree) for name, tree in before.items()} == {
        name: but_for_changes(tree) for name, tree in after.items()
    }
    assert expected == {one.layer for one in planned(daemon.data).of(Verdict.ORPHANED)}
    assert 0 == run(["orphans", root, "--remove", "--yes"]).code
    words = ["orphans", root, "--empty", "--older-than", "0", "--early", "--yes"]
    assert 0 == run(words).code
    assert {"lock"} == set(os.listdir(home / ".layerstore-orphans"))
    daemon.start()
    works(daemon)


def but_for_changes(tree: dict[str, tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Without the times of change, which nobody can set: the seventh of each."""
    return [(name, *facts[:6], *facts[7:]) for name, facts in sorted(tree.items())]


# --- podman ---------------------------------------------------------------------------------------


def kill_while(podman: Podman, layers: int, *words: str) -> None:
    """Kill a command, with everything that it started, when it has made so many directories."""
    home = podman.place / "root/overlay"
    before = set(os.listdir(home))
    with subprocess.Popen(
        podman.command(*words), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while len(set(os.listdir(home)) - before) < layers and process.poll() is None:
            assert time.monotonic() < end
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was quicker


def recorded_by(podman: Podman) -> set[str]:
    """The layers that have a record, by the documents as they are."""
    found = set()
    for name in ("layers", "volatile-layers"):
        path = podman.place / f"root/overlay-layers/{name}.json"
        if path.exists():
            found |= {entry["id"] for entry in json.loads(path.read_text())}
    return found


def _lose(podman: Podman, tag: str) -> str:
    """What a power cut does, since podman syncs no directory: the record of an image's top layer is an older one."""
    (image,) = json.loads(podman("inspect", tag))
    top = Path(image["GraphDriver"]["Data"]["UpperDir"]).parent.name
    podman("rmi", "--force", "other:1") if tag != "other:1" else None
    for name in ("layers", "images"):
        path = podman.place / f"root/overlay-{name}/{name}.json"
        gone = (top, image["Id"])
        path.write_text(
            json.dumps([x for x in json.loads(path.read_text()) if x["id"] not in gone])
        )
    return top


@needs_podman
def test_orphans_of_a_killed_podman(podman: Podman, bare: Path) -> None:
    """Killed while it loads and while it builds: what has no record is an orphan, and nothing else; without
    the orphans podman works.
    """
    archive, context = bare / "base.tar", bare / "context"
    archive.write_bytes(busybox())
    context.mkdir()
    (context / "big").write_bytes(os.urandom(8 << 20))
    podman("import", str(archive), "base:1")
    for tag, text in (
        ("one:1", "FROM localhost/base:1\nCOPY big /data/a\nCOPY big /data/b\n"),
        ("other:1", "FROM localhost/base:1\nCOPY big /data/other\n"),
    ):
        (context / "Dockerfile").write_text(text)
        podman("build", "--network", "none", "-t", tag, str(context))
    podman("save", "-o", str(bare / "one.tar"), "one:1")
    podman("rmi", "one:1")
    for layers in (1, 2):
        kill_while(podman, layers, "load", "-i", str(bare / "one.tar"))
    (context / "Dockerfile").write_text(
        "FROM localhost/base:1\nCOPY big /data/c\nCOPY big /data/d\n"
    )
    for layers in (1, 2):
        kill_while(podman, layers, "build", "--network", "none", "-t", "no:1", str(context))
    lost = _lose(podman, "other:1")
    root = podman.place / "root"
    unmounted(root)
    names = {x for x in os.listdir(root / "overlay") if len(x) == 64}
    expected = names - recorded_by(podman)
    assert lost in expected
    found = planned(root, str(podman.place / "run"))
    assert expected == {one.layer for one in found.of(Verdict.ORPHANED)}, found.manifest.troubles
    words = ["orphans", str(root), "--run-root", str(podman.place / "run")]
    done = run([*words, "--remove", "--yes"])
    assert 0 == done.code, done.err + done.out
    assert expected <= {e["layer"] for e in run(["--json", *words]).json["quarantine"]["layers"]}
    podman("load", "-i", str(bare / "one.tar"))
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    podman("run", "--rm", "--network", "none", *limits, "one:1", "sh", "-c", "test -s /data/b")
    assert lost not in recorded_by(podman)
    assert 0 == run([*words, "--restore", lost]).code
    assert lost in os.listdir(root / "overlay")


def unmounted(root: Path) -> None:
    """What a killed program had mounted below its root is unmounted, as a reboot does."""
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4] for line in table]
    for point in reversed(points):
        if point.startswith(f"{root}/overlay/"):
            subprocess.run(["umount", "-l", point], check=False)
