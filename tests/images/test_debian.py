"""The root of a Debian becomes a layer, comes out again, and runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.images import import_image
from layerstore.testing.compare import Snapshot, snapshot
from tests.images import debian
from tests.images.build import docker, tar

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]

LONG = "LAYERSTORE_TEST_LONG" in os.environ
"""mmdebstrap takes most of a minute, and a mirror."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of some thousand files."""
    path = tmp_path_factory.mktemp("debian") / "root.tar"
    if not (LONG and debian.by_mmdebstrap(path, patience=300)):
        debian.of_this_machine(path)
    return path


def whole(path: Path) -> Snapshot:
    """A tree with whole seconds, which is what the archive of a layer has."""
    found = snapshot(path)
    for look in found.values():
        look["mtime"] //= 10**9
    return found


def packed(store: Store, layer: str, path: Path) -> str:
    """Write a layer's archive; its DiffID."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in store.diff(layer):
            digest.update(piece)
            file.write(piece)
    return f"sha256:{digest.hexdigest()}"


def inside(root: Path, script: str) -> str:
    """What a shell of that root says."""
    words = ["chroot", str(root), "/bin/sh", "-c", script]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_a_debian_is_applied_and_packed_and_run(home: Path, bare: Path, archive: Path) -> None:
    """What comes out is the same tree; applied again, it has the same DiffID and the same look."""
    with Store.open(home) as store:
        with archive.open("rb") as file:
            store.create("first")
            first = store.apply_diff("first", file)
        with archive.open("rb") as file:
            assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == first.diff_id
        out = bare / "out.tar"
        diff_id = packed(store, "first", out)
        (bare / "tar").mkdir()
        subprocess.run(["tar", "-xpf", archive, "-C", bare / "tar", "--numeric-owner"], check=True)
        assert snapshot(bare / "tar") == snapshot(home / "first" / "diff")
        with out.open("rb") as file:
            store.create("second")
            second = store.apply_diff("second", file, diff_id=diff_id)
        assert diff_id == second.diff_id == packed(store, "second", bare / "again.tar")
        assert (first.size, store.usage("first")) == (second.size, store.usage("second"))
        assert whole(home / "first" / "diff") == whole(home / "second" / "diff")
        store.create("upon", parent="second")
        with store.mounted("upon") as root:
            said = inside(root, "cat /etc/debian_version; dpkg --version; echo new > /etc/motd")
            assert "Debian" in said
        paths = {change.path for change in store.changes("upon")}
        assert "/etc/motd" in paths <= {"/etc", "/etc/motd"}
    assert not audit(home).findings


def test_a_debian_is_an_image(home: Path, bare: Path, archive: Path) -> None:
    """Imported from an image that has it as its layer, with the DiffID that its archive has."""
    data = archive.read_bytes()
    path = tar(bare / "image.tar", docker([data], tags=["debian:1"]))
    with Store.open(home) as store:
        done = import_image(store, path)
        with store.mounted(done.layer) as root:
            assert "here\n" == inside(root, "test -e /etc/debian_version && echo here")
    assert not audit(home).findings
