"""Power cuts side by side: how many images survive one, 0.2 s after they were said to be there.

    sudo unshare --mount --propagation private python bench/powercuts.py [--rounds N] [--only NAME] [--control]

Each of dockerd, podman and layerstore takes the same image of six layers into an ext4 of its own on a
loop device. As soon as its command has succeeded, 0.2 s pass, and the kernel stops the file system where
it is (EXT4_IOC_SHUTDOWN, without flushing the log), as a cut of the power does. Then the file system is
mounted again, and the image is asked for all of its files; and once more after it was loaded again.

This script prints how many of the images survived. It decides nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_LAYERS: Final = 6
_PAUSE: Final = 0.2
_SHUTDOWN: Final = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG: Final = struct.pack("=I", 2)
_PATIENCE: Final = 120.0
_TAG: Final = "bench:cut"
_ROOT: Final = Path(__file__).resolve().parent.parent


def _run(
    *words: str | Path, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=_PATIENCE,
        check=check,
    )


def _image(path: Path) -> None:
    """An image that `docker load` takes: in each layer a directory with some files."""
    blobs: list[bytes] = []
    for number in range(_LAYERS):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            top = tarfile.TarInfo(f"of{number}")
            top.type, top.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(top)
            for name in range(20):
                _add(tar, f"of{number}/{name}", _content(number, name))
        blobs.append(file.getvalue())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/none"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs],
            },
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    layers = [f"{number}/layer.tar" for number in range(_LAYERS)]
    manifest = json.dumps([{"Config": name, "RepoTags": [_TAG], "Layers": layers}]).encode()
    with tarfile.open(path, "w") as tar:
        for layer, blob in zip(layers, blobs, strict=True):
            _add(tar, layer, blob)
        _add(tar, name, config)
        _add(tar, "manifest.json", manifest)


def _content(layer: int, name: int) -> bytes:
    return f"file {name} of layer {layer}\n".encode() * 100


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _is_whole(root: Path) -> bool:
    """Whether all files of all layers are there."""
    try:
        return all(
            (root / f"of{layer}/{name}").read_bytes() == _content(layer, name)
            for layer in range(_LAYERS)
            for name in range(20)
        )
    except OSError:
        return False


# --- who takes the image --------------------------------------------------------------------------


class Docker:
    """A dockerd of its own, without a network."""

    def __init__(self, disk: Path, aside: Path) -> None:
        self._host = f"unix://{aside}/docker.sock"
        words = ["dockerd", "--data-root", disk / "docker", "--exec-root", aside / "exec"]
        words += ["--host", self._host, "--pidfile", aside / "pid", "--storage-driver", "overlay2"]
        words += ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        with (aside / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in words], stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _PATIENCE
        while self._do("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError((aside / "log").read_text()[-2000:])
            time.sleep(0.05)

    def _do(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return _run("docker", *words, check=check, DOCKER_HOST=self._host)

    def load(self, image: Path) -> None:
        self._do("load", "-i", image)

    def survived(self, scratch: Path) -> bool:
        """A container of it has every file."""
        made = self._do("create", "--name", scratch.name, _TAG, check=False)
        out = scratch / "out"
        copied = (
            made.returncode == 0
            and not self._do("cp", f"{scratch.name}:/", out, check=False).returncode
        )
        self._do("rm", "-f", scratch.name, check=False)
        return copied and _is_whole(out)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Podman:
    """podman, which has no daemon."""

    def __init__(self, disk: Path, aside: Path) -> None:
        self._at = ("podman", "--root", disk / "podman", "--runroot", aside / "run")
        self._at += ("--storage-driver", "overlay", "--events-backend", "none")

    def load(self, image: Path) -> None:
        _run(*self._at, "load", "-i", image)

    def survived(self, scratch: Path) -> bool:
        """Mounted, it has every file."""
        del scratch
        done = _run(*self._at, "image", "mount", f"localhost/{_TAG}", check=False)
        whole = done.returncode == 0 and _is_whole(Path(done.stdout.decode().strip()))
        _run(*self._at, "image", "unmount", "--force", f"localhost/{_TAG}", check=False)
        return whole

    def kill(self) -> None:
        """Nothing runs."""


class Layerstore:
    """The command line of this project, under its default durability."""

    def __init__(self, disk: Path, aside: Path) -> None:
        del aside
        self._home = disk / "store"
        self._at = (sys.executable, "-m", "layerstore", "--home", self._home)
        if not self._home.exists():
            self._do("init")

    def _do(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return _run(*self._at, *words, check=check, PYTHONPATH=os.fspath(_ROOT))

    def load(self, image: Path) -> None:
        self._do("import", image)

    def survived(self, scratch: Path) -> bool:
        """A layer upon it, mounted, has every file, and the audit has nothing to say."""
        from layerstore import Store

        with Store.open(self._home) as store:
            layers = [layer for layer in store.layers() if layer.depth == _LAYERS - 1]
            if not layers:
                return False
            store.create(scratch.name, parent=layers[0].id)
            with store.mounted(scratch.name) as root:
                whole = _is_whole(root)
            store.remove(scratch.name)
        return whole and not self._do("audit", check=False).returncode

    def kill(self) -> None:
        """Nothing runs."""


Kind = Callable[[Path, Path], Docker | Podman | Layerstore]
KINDS: Final[dict[str, tuple[Kind, str]]] = {
    "docker load": (Docker, "dockerd"),
    "podman load": (Podman, "podman"),
    "layerstore import": (Layerstore, ""),
}


# --- the cut --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _mounted(image: Path, point: Path) -> Iterator[None]:
    _run("mount", "-o", "loop", image, point)
    try:
        yield
    finally:
        # What a driver mounted for itself goes with it.
        _run("umount", "-l", "-R", point, check=False)


def _cut(point: Path) -> None:
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
    finally:
        os.close(descriptor)


def _cut_once(kind: Kind, image: Path, top: Path, *, control: bool) -> tuple[bool, bool]:
    """Whether the image survived; and whether it is whole after it was loaded again."""
    disk, point, aside = top / "disk.img", top / "disk", top / "aside"
    for path in (point, aside):
        path.mkdir()
    with disk.open("xb") as file:
        file.truncate(1 << 30)
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk)
    with _mounted(disk, point):
        one = kind(point, aside)
        try:
            os.sync()  # what it made for itself before is on the disk
            one.load(image)
            time.sleep(_PAUSE)
            if not control:
                _cut(point)
        finally:
            one.kill()
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    with _mounted(disk, point):
        other = kind(point, aside)
        try:
            survived = other.survived(_scratch(top, "first"))
            if survived:
                return True, True
            with contextlib.suppress(subprocess.CalledProcessError):
                other.load(image)
            return False, other.survived(_scratch(top, "second"))
        finally:
            other.kill()


def _scratch(top: Path, name: str) -> Path:
    path = top / name
    path.mkdir()
    return path


def main() -> int:
    """Cut, and say what was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="cuts for each")
    parser.add_argument("--only", default="", metavar="NAME", help="docker, podman or layerstore")
    parser.add_argument("--control", action="store_true", help="no cut: all must survive")
    options = parser.parse_args()
    print(f"{'':<20}{'survived':>10}{'healed by loading again':>26}")
    for name, (kind, program) in KINDS.items():
        if options.only not in name:
            continue
        if program and shutil.which(program) is None:
            print(f"{name:<20}  not measured: {program} is not installed")
            continue
        found: list[tuple[bool, bool]] = []
        for _ in range(options.rounds):
            top = Path(tempfile.mkdtemp(prefix="layerstore-bench-"))
            try:
                _image(top / "image.tar")
                found.append(_cut_once(kind, top / "image.tar", top, control=options.control))
            finally:
                shutil.rmtree(top, ignore_errors=True)
        survived = sum(pair[0] for pair in found)
        healed = sum(pair[1] for pair in found) - survived
        lost = len(found) - survived
        print(f"{name:<20}{survived:>4} of {len(found):<3}{healed:>17} of {lost}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
