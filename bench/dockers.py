"""Owns the rows about Docker: a dockerd on a layerstore beside the same dockerd on its own overlay2.

Each has its own roots on the same file system. What is timed is a command of `docker`, as its user
waits for it; what it made is removed behind the clock. `full` stands against the built-in driver and a
`sync -f` after it, since that driver syncs nothing. It must not print.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from measure import Clock, Row
from place import Place

from layerstore.fs import syscalls
from tests.docker.daemon import PLUGINS, Docker, busybox, missing
from tests.docker.serving import Client, Served, in_threads, tar_of

FILES, FILE_SIZE = 10_000, 50_000
STEPS: Final = 20
CLIENTS: Final = 64
_REQUEST: Final = (
    b"POST /GraphDriver.Capabilities HTTP/1.1\r\nHost: x\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: 3\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n"
    b"Accept-Encoding: gzip\r\n\r\n{}\n"
)


class NoDocker(Exception):
    """What these rows need is not there."""


_running: list[Any] = []


class Everything:
    """What was started for these rows."""

    def close(self) -> None:
        while _running:
            _running.pop().close()


# --- a dockerd --------------------------------------------------------------------------------


class Material:
    """A large archive, and what a build of many steps takes."""

    def __init__(self, place: str) -> None:
        self.top = Path(place, "dockers")
        self.top.mkdir()
        self.context = self.top / "context"
        self.context.mkdir()
        steps = [f"COPY f{number} /data/f{number}" for number in range(STEPS)]
        (self.context / "Dockerfile").write_text("\n".join(["FROM bb", *steps]))
        for number in range(STEPS):
            (self.context / f"f{number}").write_text(f"{number}\n")

    @functools.cached_property
    def archive(self) -> Path:
        path = self.top / "large.tar"
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for number in range(FILES):
                entry = tarfile.TarInfo(f"d{number // 100}/file{number}")
                entry.size, entry.mtime = FILE_SIZE, 1_700_000_000
                tar.addfile(entry, io.BytesIO(os.urandom(FILE_SIZE)))
        return path


class Daemon:
    """One, with a storage driver: the built-in one, or a server of ours with a durability."""

    def __init__(self, material: Material, durability: str) -> None:
        if (gone := missing()) is not None:
            raise NoDocker(f"needs {gone}")
        self.material = material
        self._served: Served | None = None
        self.top = material.top / (durability or "overlay2")
        self.top.mkdir()
        driver = "overlay2"
        if durability:
            _hide_plugins()
            driver = f"lsbench-{durability}"
            self._served = Served(PLUGINS / f"{driver}.sock", self.top, self.top / "server.log")
            self._served.logs_requests = False
            self._served.variables = {"LAYERSTORE_DURABILITY": durability}
            self._served.start()
        self.docker = Docker(self.top / "docker", driver)
        _running.append(self)
        self.docker.start()
        self.docker("import", "-", "bb", feed=busybox())

    def close(self) -> None:
        try:
            self.docker.close()
        finally:
            if self._served is not None:
                self._served.close()

    def sync(self) -> None:
        descriptor = os.open(self.top, os.O_RDONLY)
        try:
            syscalls.syncfs(descriptor)
        finally:
            os.close(descriptor)


@functools.cache
def _hide_plugins() -> None:
    """Nobody else sees the sockets: this mount namespace is the program's own."""
    PLUGINS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", PLUGINS], check=True)


@attrs.frozen
class Side:
    """A dockerd in a row; it lives on after it."""

    daemon: Daemon
    syncs: bool = False
    """A `sync -f` belongs to what is timed."""

    def timed(self, clock: Clock, *words: str) -> str:
        self.daemon.sync()
        with clock:
            said = self.daemon.docker(*words)
            if self.syncs:
                self.daemon.sync()
        return said

    def close(self) -> None:
        """Nothing: see Everything."""


def _run(side: Side, clock: Clock, count: int) -> None:
    for _ in range(count):
        side.timed(clock, "run", "--rm", "--network", "none", "bb", "/bin/true")


def _import(side: Side, clock: Clock, count: int) -> None:
    for _ in range(count):
        side.timed(clock, "import", os.fspath(side.daemon.material.archive), "large")
        side.daemon.docker("rmi", "large")


def _build(side: Side, clock: Clock, count: int) -> None:
    context = os.fspath(side.daemon.material.context)
    words = ("build", "--network", "none", "--no-cache", "-q", "-t", "built", context)
    for _ in range(count):
        side.timed(clock, *words)
        side.daemon.docker("rmi", "built")


def _left(side: Side) -> object:
    """Nothing but the image that all begin with."""
    docker = side.daemon.docker
    return docker("ps", "-aq"), docker("images", "-a", "--format", "{{.Repository}}")


def _layers_of(side: Side, image: str) -> list[str]:
    return side.daemon.docker.lines(
        "image", "inspect", "-f", '{{join .RootFS.Layers "\\n"}}', image
    )


def _imported(side: Side) -> object:
    """The same archive is the same layer."""
    side.daemon.docker("import", os.fspath(side.daemon.material.archive), "large")
    layers = _layers_of(side, "large")
    side.daemon.docker("rmi", "large")
    return layers, _left(side)


def _built(side: Side) -> object:
    context = os.fspath(side.daemon.material.context)
    side.daemon.docker("build", "--network", "none", "-q", "-t", "built", context)
    layers = _layers_of(side, "built")
    side.daemon.docker("rmi", "built")
    return len(layers), layers[0], _left(side)


# --- a server without a dockerd ---------------------------------------------------------------


class Asked:
    """One connection to a server on which a request does no work."""

    def __init__(self, path: Path, process: Any) -> None:
        self._process = process
        deadline = time.monotonic() + 60
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(os.fspath(path))
            except OSError:
                self._socket.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def ask(self) -> bytes:
        self._socket.sendall(_REQUEST)
        return self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()
        self._process.close()


class _Handler:
    """The floor's process."""

    def __init__(self, path: Path) -> None:
        script = os.fspath(Path(__file__).with_name("handler.py"))
        self._process = subprocess.Popen([sys.executable, script, os.fspath(path)])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _ours(top: Path) -> Served:
    top.mkdir(exist_ok=True)
    served = Served(top / "sock", top, top / "log", logs_requests=False)
    served.start()
    return served


def _server(top: Path) -> Asked:
    served = _ours(top)
    return Asked(served.socket, served)


def _floor(top: Path) -> Asked:
    top.mkdir(exist_ok=True)
    path = top / "sock"
    path.unlink(missing_ok=True)
    return Asked(path, _Handler(path))


def _asks(asked: Asked, clock: Clock, count: int) -> None:
    with clock:
        for _ in range(count):
            asked.ask()


def _answer(asked: Asked) -> object:
    return asked.ask().partition(b"\r\n\r\n")[2]


class Crowd:
    """A server with many clients, of whom one may be in the middle of an archive."""

    def __init__(self, top: Path, *, unpacking: bool) -> None:
        self._served = _ours(top)
        self._go_on = threading.Event()
        self._unpacking: threading.Thread | None = None
        self.numbers = itertools.count()
        ask = self._served.client()
        ask.ok("Init", Home=os.fspath(self._served.home))
        ask.ok("Create", ID=f"base{next(_names)}")
        if unpacking:
            self._unpack(f"large{next(_names)}")

    def _unpack(self, layer: str) -> None:
        self._served.client().ok("Create", ID=layer)
        content, began = tar_of({"a": bytes(1 << 20)}), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield content[: 1 << 19]
            began.set()
            self._go_on.wait()
            yield content[1 << 19 :]

        def apply() -> None:
            assert self._served.client().apply(layer, "", slowly()) == {"Size": 1 << 20}

        self._unpacking = threading.Thread(target=apply, daemon=True)
        self._unpacking.start()
        assert began.wait(60)

    def all_at_once(self) -> int:
        """Each client makes a layer, mounts it, unmounts and removes it."""
        first = next(self.numbers) * CLIENTS

        def one(number: int) -> None:
            ask, layer = Client(self._served.socket), f"layer{first + number}"
            ask.ok("CreateReadWrite", ID=layer)
            for verb in ("Get", "Put", "Remove"):
                ask.ok(verb, ID=layer)
            ask.close()

        in_threads(CLIENTS - 1, one)
        return CLIENTS - 1

    def close(self) -> None:
        try:
            self._go_on.set()
            if self._unpacking is not None:
                self._unpacking.join(60)
        finally:
            self._served.close()


_names = itertools.count()


def _all_at_once(crowd: Crowd, clock: Clock, count: int) -> None:
    with clock:
        for _ in range(count):
            crowd.all_at_once()


# --- rows -------------------------------------------------------------------------------------


def rows(place: Place) -> Iterator[Row]:
    """The targets stand in docs/benchmarks.md."""
    material = functools.cache(lambda: Material(place.path))
    daemon = functools.cache(lambda durability: Daemon(material(), durability))
    top = Path(place.path)
    yield Row(
        "Docker: a request that does no work",
        lambda: _server(top / "asked"),
        lambda: _floor(top / "handler"),
        _asks,
        _answer,
        count=1000,
    )
    yield Row(
        f"Docker: {CLIENTS} clients, one in an archive",
        lambda: Crowd(top / "crowd-unpacking", unpacking=True),
        lambda: Crowd(top / "crowd", unpacking=False),
        _all_at_once,
        Crowd.all_at_once,
        turns=1,
    )
    kinds: tuple[tuple[str, Callable[..., None], Callable[[Side], object], int], ...] = (
        ("docker run --rm", _run, _left, 3),
        ("docker build, 20 layers", _build, _built, 1),
        ("docker import, 500 MB", _import, _imported, 1),
    )
    for name, work, witness, turns in kinds:
        for durability in ("process", "full"):
            yield Row(
                f"{name}, {durability}",
                functools.partial(_side, daemon, durability, syncs=False),
                functools.partial(_side, daemon, "", syncs=durability == "full"),
                work,
                witness,
                turns=turns,
                most_rounds=11,
            )


def _side(daemon: Callable[[str], Daemon], durability: str, *, syncs: bool) -> Side:
    return Side(daemon(durability), syncs)
