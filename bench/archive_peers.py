"""Owns the comparison with peers that apply a real layer: a small Debian; it must not print.

Of a docker load the whole counts, as its user waits for it: Docker unpacks, digests and records.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import peers
from peers import ContainersStorage, PeerFailed, PeerRow, Program, Verbs

from layerstore import Store

_TREES = ("usr/bin", "usr/sbin", "usr/libexec", "etc")
"""What a root file system is made of where no Debian can be had."""


class Root:
    """The archive of a root file system, and a store."""

    def __init__(self, place: str) -> None:
        self.top = Path(place, "root-archive")
        self.top.mkdir()
        self.archive = self.top / "layer.tar"
        self.home = str(self.top / "home")
        Store.initialize(self.home)
        if not self._debian():
            words = ["tar", "-cf", self.archive, "-C", "/", *_TREES]
            subprocess.run(words, check=True, capture_output=True)

    def _debian(self) -> bool:
        if shutil.which("mmdebstrap") is None:
            return False
        words = ["mmdebstrap", "--variant=minbase", _release(), self.archive]
        try:
            subprocess.run(words, check=True, capture_output=True, timeout=600)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    @functools.cached_property
    def image(self) -> Path:
        """The same as an image that `docker load` takes."""
        found = self.top / "image.tar"
        with self.archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
        ).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = json.dumps([{"Config": name, "RepoTags": [_TAG], "Layers": ["layer.tar"]}])
        with tarfile.open(found, "w") as tar:
            tar.add(self.archive, "layer.tar")
            for path, data in ((name, config), ("manifest.json", manifest.encode())):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return found


_TAG = "bench:latest"


def _release() -> str:
    """This machine's: its keys and its mirror are there. Another system gets the one that is stable."""
    facts = platform.freedesktop_os_release()
    return facts.get("VERSION_CODENAME", "stable") if facts["ID"] == "debian" else "stable"


class Library:
    """Our calls, under the names that the rows use."""

    def __init__(self, root: Root, *, full: bool) -> None:
        self._root = root
        self._store = Store.open(root.home, durability="full" if full else "process")
        self.remove = self._store.remove
        self.close = self._store.close

    def create(self, name: str) -> None:
        self._store.create(name)
        os.sync()

    def apply(self, name: str) -> None:
        with self._root.archive.open("rb", buffering=0) as file:
            self._store.apply_diff(name, file)


class Storage(ContainersStorage):
    """containers-storage, which applies to a layer that is there."""

    def __init__(self, place: str, root: Root) -> None:
        super().__init__(f"{place}/apply", 0)
        self._archive = str(root.archive)

    def create(self, name: str) -> None:
        self._run("containers-storage", "create-layer", *self._at, "--id", name)
        os.sync()

    def apply(self, name: str) -> None:
        self._run("containers-storage", "applydiff", *self._at, "-f", self._archive, name)


class Docker(Program):
    """A dockerd of our own, which nobody else uses, without a network."""

    def __init__(self, place: str, root: Root) -> None:
        super().__init__()
        top = Path(place, "docker")
        top.mkdir()
        self._image = str(root.image)
        self._host = f"unix://{top}/socket"
        self._log = top / "log"
        words = ["dockerd", "--host", self._host, "--data-root", f"{top}/data"]
        words += ["--exec-root", f"{top}/exec", "--pidfile", f"{top}/pid"]
        words += ["--storage-driver", "overlay2", "--iptables=false", "--bridge=none"]
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                words,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=peers.die_with_parent,  # noqa: PLW1509 - no other thread runs now
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._docker("info")
            except PeerFailed as failure:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    said = self._log.read_text(errors="replace").splitlines()[-1:]
                    raise PeerFailed(f"dockerd did not start: {said or failure}") from None
                time.sleep(0.1)
            else:
                return

    def _docker(self, *words: str) -> None:
        self._run("docker", "--host", self._host, *words)

    def version(self, _: str = "") -> None:
        self._docker("version")

    def create(self, _: str) -> None:
        os.sync()

    def apply(self, _: str) -> None:
        self._docker("load", "--quiet", "--input", self._image)

    def remove(self, _: str) -> None:
        self._docker("rmi", _TAG)

    def close(self) -> None:
        self._daemon.send_signal(signal.SIGTERM)
        try:
            self._daemon.wait(20)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


def rows(place: str) -> Iterator[PeerRow]:
    """A layer that is made is applied to, and removed behind the clock."""
    root = functools.cache(functools.partial(Root, place))
    verbs = Verbs(("create",), "apply", ("remove",))
    for name, kind in (("containers-storage applydiff", Storage), ("docker load", Docker)):
        yield PeerRow(
            f"{name}, a root file system",
            verbs,
            verbs,
            peers.once(lambda kind=kind: kind(place, root())),
            library=lambda full: Library(root(), full=full),
        )
