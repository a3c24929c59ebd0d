"""Runs a real dockerd, with everything of its own, in the test's mount namespace."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import attrs

from tests.docker.serving import Served

PLUGINS = Path("/run/docker/plugins")
BUSYBOX = Path("/bin/busybox")
PROGRAMS = ("dockerd", "docker", "containerd", "runc")


def missing() -> str | None:
    """What a dockerd needs and this machine has not."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"{program} (Debian: docker.io, containerd, runc)"
    return None if BUSYBOX.exists() else "busybox (Debian: busybox-static)"


@attrs.define
class Docker:
    """A dockerd with one storage driver, and its command."""

    place: Path
    driver: str
    more: tuple[str, ...] = ()
    """Further options."""
    process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self.place.mkdir(exist_ok=True)
        if self._log is None:
            self._log = (self.place / "log").open("ab")
        config = self.place / "daemon.json"
        config.write_text(json.dumps({"deprecated-key-path": str(self.place / "key.json")}))
        self.process = subprocess.Popen(
            [
                *("dockerd", "--experimental", "-s", self.driver, "--config-file", str(config)),
                *("--data-root", str(self.data), "--exec-root", str(self.place / "exec")),
                *("--pidfile", str(self.place / "pid"), "-H", self.host),
                *("--iptables=false", "--ip-forward=false", "--bridge=none"),
                *self.more,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"TMPDIR": str(self.place)},
        )
        deadline = time.monotonic() + 60
        while self.run("version", code=None).returncode != 0:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def host(self) -> str:
        return f"unix://{self.place}/sock"

    def said(self) -> str:
        """The end of its log."""
        return "\n".join((self.place / "log").read_text().splitlines()[-30:])

    def run(
        self, *words: str, code: int | None = 0, feed: bytes = b"", timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `docker`, which is expected to exit with `code`; None: however it likes."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
        environment |= {
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.place / "client"),
            "DOCKER_BUILDKIT": "0",
        }
        done = subprocess.run(
            ["docker", *words],
            input=feed,
            capture_output=True,
            env=environment,
            timeout=timeout,
            check=False,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(
                f"docker {words}: {done.returncode}\n{done.stderr.decode()}{self.said()}"
            )
        return done

    def __call__(self, *words: str, feed: bytes = b"") -> str:
        """The same, for its output as text."""
        return self.run(*words, feed=feed).stdout.decode().strip()

    def lines(self, *words: str) -> list[str]:
        return self(*words).split("\n") if self(*words) else []

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)
            self.process = None
        if number == signal.SIGKILL:
            self._end_containerd()

    def _end_containerd(self) -> None:
        """It dies with its dockerd; where nobody reaps it, the next dockerd would take it for alive."""
        file = self.place / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
        file.unlink(missing_ok=True)

    def end_containers(self, one: str = "") -> None:
        """Kill what a dockerd that failed left running: every process in a container of its own, or in
        the one with this id.
        """
        ours = [one] if one else [path.name for path in self.data.glob("containers/*")]
        place = os.fsencode(one or self.place)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                cgroups = (process / "cgroup").read_text()
                command = (process / "cmdline").read_bytes()
                if place in command or any(name in cgroups for name in ours):
                    os.kill(int(process.name), signal.SIGKILL)

    def close(self) -> None:
        try:
            self.end()
        finally:
            self.end_containers()
            if self._log is not None:
                self._log.close()


@contextlib.contextmanager
def docker(place: Path, driver: str) -> Iterator[Docker]:
    """A dockerd that runs."""
    made = Docker(place, driver)
    try:
        made.start()
        yield made
    finally:
        made.close()


@attrs.define
class Both:
    """A dockerd, and the server that is its driver."""

    served: Served
    docker: Docker

    @property
    def home(self) -> Path:
        return self.docker.data / self.docker.driver


@contextlib.contextmanager
def private_plugins() -> Iterator[None]:
    """Sockets there are to be seen in this mount namespace alone."""
    PLUGINS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", PLUGINS], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", PLUGINS], check=True)


@contextlib.contextmanager
def docker_on_layerstore(bare: Path, *, activated: bool = False) -> Iterator[Both]:
    """Both, under a name of their own; nothing of them is to be seen outside of the namespace."""
    name = f"layerstore-{bare.name.removeprefix('layerstore-')}".lower().replace("_", "-")
    with private_plugins():
        served = Served(PLUGINS / f"{name}.sock", bare, bare / "server.log")
        if activated:
            served.activate()
        try:
            served.start()
            with docker(bare / "docker", name) as daemon:
                yield Both(served, daemon)
        finally:
            served.close()


def busybox() -> bytes:
    """An archive of a system with a shell, the same each time."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("bin", "etc", "tmp", "data"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            archive.addfile(entry)
        content = BUSYBOX.read_bytes()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode, entry.mtime = len(content), 0o755, 1_700_000_000
        archive.addfile(entry, io.BytesIO(content))
        for name in ("sh", "cat", "rm", "mkdir", "echo", "sleep", "ls", "mv", "ln", "true", "test"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, "busybox", 1_700_000_000
            archive.addfile(entry)
        for name in ("kept", "changed", "deleted", "dir/inside"):
            entry = tarfile.TarInfo(f"data/{name}")
            entry.size, entry.mtime = 5, 1_700_000_000
            archive.addfile(entry, io.BytesIO(b"12345"))
    return made.getvalue()


@attrs.frozen
class Saved:
    """What `docker save` gave: the digests of the layers' archives, and what is in them."""

    diff_ids: tuple[str, ...]
    archives: tuple[str, ...]
    members: tuple[tuple[tuple[str, bytes, int, int, str], ...], ...]


def saved(archive: bytes) -> Saved:
    """Of one image."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:

        def content(name: str) -> bytes:
            file = outer.extractfile(name)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(content("manifest.json"))
        config = json.loads(content(manifest["Config"]))
        layers = [content(name) for name in manifest["Layers"]]
    return Saved(
        tuple(config["rootfs"]["diff_ids"]),
        tuple(f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers),
        tuple(_members(layer) for layer in layers),
    )


def _members(layer: bytes) -> tuple[tuple[str, bytes, int, int, str], ...]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        found = [(m.name.rstrip("/"), m.type, m.mode & 0o7777, m.size, m.linkname) for m in archive]
    return tuple(sorted(found))
