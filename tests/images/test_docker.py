"""Images of the real programs, there and back: docker, skopeo, containers-storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.images import Imported, export_image, import_image
from tests.conftest import unmount_below
from tests.images.daemon import Docker

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]

DOCKERFILE = """
FROM base:1
COPY greeting /etc/greeting
COPY --chown=7:8 data /srv/data
RUN ["/bin/busybox", "rm", "/etc/motd"]
RUN ["/bin/busybox", "chmod", "4711", "/srv/data/x"]
ENV WHO=world
WORKDIR /srv
CMD ["/bin/sh", "-c", "cat /etc/greeting; echo $WHO; ls /etc /srv/data; stat -c '%a %u:%g %n' data/*"]
"""
SAID = b"hello\nworld\n/etc:\ngreeting\nhostname\nhosts\nmtab\nresolv.conf\n\n/srv/data:\nlink\nx\n"
ROWS = b"777 7:8 data/link\n4711 7:8 data/x\n"


def run(*words: str | Path, env: dict[str, str] | None = None) -> bytes:
    """Run a program; its output."""
    done = subprocess.run(words, env=env, capture_output=True, timeout=60, check=False)
    assert 0 == done.returncode, f"{words}: {done.stderr.decode()}"
    return done.stdout


@pytest.fixture
def programs() -> None:
    """What has to be installed."""
    for name in ("dockerd", "docker", "skopeo", "busybox"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")


@pytest.fixture
def docker(programs: None, bare: Path) -> Iterator[Docker]:
    """A daemon; what it mounted is taken down."""
    place = bare / "docker"
    place.mkdir()
    daemon = Docker(place)
    yield daemon
    daemon.close()
    unmount_below(place)


def build(docker: Docker, place: Path) -> None:
    """Two images of real files, the second one built upon the first."""
    root = place / "root"
    for name in ("bin", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin")
    (root / "bin/sh").symlink_to("busybox")
    for name in ("cat", "ls", "stat", "echo"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/motd").write_text("motd\n")
    run("tar", "-C", root, "-cf", place / "root.tar", ".")
    docker.run("import", place / "root.tar", "base:1")
    context = place / "context"
    (context / "data").mkdir(parents=True)
    (context / "greeting").write_text("hello\n")
    (context / "data/x").write_bytes(os.urandom(70_000))
    (context / "data/link").symlink_to("x")
    (context / "Dockerfile").write_text(DOCKERFILE)
    docker.run("build", "--network", "none", "-t", "shop/web:1", context)


def exported(store: Store, done: Imported, path: Path, **options: object) -> Path:
    """The image again."""
    with path.open("wb") as file:
        export_image(store, done.layer, file, **options)  # type: ignore[arg-type]
    return path


def loads_and_runs(docker: Docker, path: Path) -> None:
    """Docker takes it, and its command says what it said where it was built."""
    docker.run("rmi", "-f", "shop/web:1")
    assert b"shop/web:1" in docker.run("load", "-i", path).stdout
    assert SAID + ROWS == docker.run("run", "--rm", "--network", "none", "shop/web:1").stdout


def test_there_and_back(docker: Docker, home: Path, bare: Path) -> None:
    """docker save, import, export, docker load, docker run: plain, compressed, and built upon."""
    build(docker, bare)
    assert SAID + ROWS == docker.run("run", "--rm", "--network", "none", "shop/web:1").stdout
    docker.run("save", "-o", bare / "saved.tar", "shop/web:1", "base:1")
    with Store.open(home) as store:
        base = import_image(store, bare / "saved.tar", name="base:1")
        done = import_image(store, bare / "saved.tar", name="shop/web:1")
        assert done.chain[0].id == base.layer
        assert 5 == len(done.chain)
        with store.mounted(done.layer) as path:
            assert "hello\n" == (path / "etc/greeting").read_text()
            assert not (path / "etc/motd").exists()
            status = (path / "srv/data/x").stat()
            assert (7, 8, 0o104711) == (status.st_uid, status.st_gid, status.st_mode)
        loads_and_runs(docker, exported(store, done, bare / "plain.tar"))
        loads_and_runs(docker, exported(store, done, bare / "gzip.tar", compress=True))
        store.create("upon", parent=done.layer)
        with store.mounted("upon") as path:
            (path / "etc/greeting").write_text("changed\n")
        names = ["shop/upon:1"]
        with (bare / "upon.tar").open("wb") as file:
            export_image(store, "upon", file, names=names)
        docker.run("load", "-i", bare / "upon.tar")
        said = docker.run("run", "--rm", "--network", "none", "shop/upon:1").stdout
        assert said == b"changed\n" + (SAID + ROWS).removeprefix(b"hello\n")
    # What it loaded from here, and saves again, is the same image.
    with Store.open(home) as store:
        docker.run("save", "-o", bare / "again.tar", "shop/web:1")
        first = import_image(store, bare / "plain.tar")
        again = import_image(store, bare / "again.tar")
        assert (first.layer, first.config_digest) == (again.layer, again.config_digest)
    assert not audit(home).findings


def test_skopeo(docker: Docker, home: Path, bare: Path) -> None:
    """Copied by skopeo from one transport to the next, each of them is the same image here."""
    build(docker, bare)
    docker.run("save", "-o", bare / "saved.tar", "shop/web:1")
    storage = bare / "storage"
    conf = bare / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{storage}"\nrunroot = "{storage}-run"\n'
    )
    env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(conf)}
    policy = ("skopeo", "--insecure-policy")

    def copy(source: str, target: str) -> None:
        run(*policy, "copy", "-q", source, target, env=env)

    with Store.open(home) as store:
        done = import_image(store, bare / "saved.tar")
        out = exported(store, done, bare / "out.tar")
        told = json.loads(run(*policy, "inspect", f"oci-archive:{out}"))
        assert 5 == len(told["Layers"])
        assert "WHO=world" in told["Env"]
        run(*policy, "inspect", f"docker-archive:{out}")
        ours = import_image(store, out)

        copy(f"docker-archive:{bare}/saved.tar", f"oci:{bare}/layout:shop/web:1")
        one = import_image(store, bare / "layout")
        assert ([layer.id for layer in done.chain], done.platform) == (
            [layer.id for layer in one.chain],
            one.platform,
        )
        copy(f"oci-archive:{out}", "containers-storage:shop/web:2")
        copy("containers-storage:shop/web:2", f"docker-archive:{bare}/docker.tar:shop/web:2")
        copy("containers-storage:shop/web:2", f"oci-archive:{bare}/oci.tar:shop/web:2")
        for name in ("docker.tar", "oci.tar"):
            again = import_image(store, bare / name)
            assert ours.layer == again.layer
            assert not any(layer.new for layer in again.chain)
            assert ("shop/web:2",) == tuple(x.removeprefix("docker.io/") for x in again.names)
        copy(f"docker-archive:{out}", f"oci:{bare}/again:web")
        assert ours.layer == import_image(store, bare / "again").layer
        loads_and_runs(docker, exported(store, ours, bare / "last.tar", image="shop/web:1"))
    assert not audit(home).findings
