"""A disk that hangs, a client that dies: every request is answered in time, and what nobody hears of is undone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from tests.crash.disk import Disk
from tests.docker.serving import Client, Served, in_threads, tar_of, wait_for

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]

FREEZE, THAW = 0xC0045877, 0xC0045878
LIMIT = 2.0


@contextlib.contextmanager
def frozen(point: Path) -> Iterator[None]:
    """Whoever writes there waits, in a way that no signal ends."""
    descriptor = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FREEZE)
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, THAW)
    finally:
        os.close(descriptor)


@pytest.fixture
def disk(bare: Path) -> Iterator[Path]:
    """A file system of its own."""
    disk = Disk(bare / "disk", "ext4")
    disk.make()
    try:
        yield disk.point
    finally:
        disk.unmount()


@pytest.fixture
def served(bare: Path, disk: Path) -> Iterator[Served]:
    """A server whose home is on that disk, with some layers; who wants to know is told at `notify`."""
    Store.initialize(disk / "layers")  # which takes a while
    served = Served(bare / "run" / "test.sock", disk, bare / "server.log")
    served.words = ("--timeout", str(LIMIT), "--metrics", str(bare / "metrics.sock"))
    served.variables = {"NOTIFY_SOCKET": str(bare / "notify"), "WATCHDOG_USEC": "900000"}
    served.start()
    try:
        ask = served.client()
        ask.ok("Init", Home=str(served.home))
        ask.ok("Create", ID="base")
        for layer in ("got", "put", "removed", "other"):
            ask.ok("CreateReadWrite", ID=layer, Parent="base")
        ask.ok("Get", ID="put")
        yield served
        served.client().ok("Cleanup")
    finally:
        served.close()


ASKED = (
    ("Create", "new"),
    ("CreateReadWrite", "newer"),
    ("Get", "got"),
    ("Put", "put"),
    ("Remove", "removed"),
)


def test_a_disk_that_hangs_keeps_nobody_waiting(served: Served, bare: Path, disk: Path) -> None:
    """Each verb is answered with an error in time. When the disk is back, what nobody knows to undo is
    undone: a layer that was made, a mount. What ends something is done.
    """
    watch = Client(bare / "metrics.sock")
    spent: list[float] = []

    def ask(number: int) -> None:
        method, layer = ASKED[number]
        began = time.monotonic()
        parent = {"Parent": "base"} if method.startswith("Create") else {}
        said = Client(served.socket).err(method, ID=layer, **parent)
        spent.append(time.monotonic() - began)
        assert "was not done within" in said

    with frozen(disk):
        in_threads(len(ASKED), ask)
        assert served.client().ok("Capabilities")
        status, said = watch.get("/healthz")
        assert (503, True) == (status, "did not answer" in said)
        text = watch.get("/metrics")[1]
        assert "layerstore_requests_overdue 5.0" in text
        assert 'op="Get",result="overdue",surface="docker"} 1.0' in text
    assert min(spent) >= LIMIT
    wait_for(lambda: "layerstore_requests_overdue 0.0" in watch.get("/metrics")[1])
    assert watch.get("/healthz") == (200, "ok\n")
    watch.close()
    with Store.open(served.home, read_only=True) as reader:
        assert ["base", "got", "other", "put"] == sorted(x.id for x in reader.layers())
        assert ((), (), ()) == (reader.holders(), reader.mounts(), reader.operations())
    assert 3 == served.log.read_text().count("taken-back")
    assert () == audit(served.home).findings
    ask_again = served.client()
    ask_again.ok("Create", ID="new", Parent="base")
    assert ask_again.apply("new", "base", [tar_of({"a": b"x"})]) == {"Size": 1}


@pytest.mark.parametrize("method", ["Get", "Create"])
def test_what_was_done_for_a_client_that_died_meanwhile_is_undone(bare: Path, method: str) -> None:
    """It was there when it asked, and is not when the answer comes: nobody knows of that mount or layer."""
    served = Served(bare / "run" / "test.sock", bare, bare / "server.log")
    served.start()
    try:
        ask = served.client()
        ask.ok("Init", Home=str(served.home))
        ask.ok("Create", ID="base")
        ask.ok("CreateReadWrite", ID="top", Parent="base")
        served.end()
        served.start(f"SIGSTOP:docker:{method}:noted")
        body = json.dumps({"ID": "top" if method == "Get" else "new", "Parent": ""}).encode()
        head = f"POST /GraphDriver.{method} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as dies:
            dies.connect(os.fspath(served.socket))
            dies.sendall(head.encode() + body)
            assert served.process is not None
            status = Path(f"/proc/{served.process.pid}/stat")
            wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
        served.process.send_signal(signal.SIGCONT)
        wait_for(lambda: f"taken-back method={method}" in served.log.read_text())
        with Store.open(served.home, read_only=True) as reader:
            assert ["base", "top"] == sorted(layer.id for layer in reader.layers())
            assert ((), (), ()) == (reader.holders(), reader.mounts(), reader.operations())
    finally:
        served.close()


def test_the_watchdog_is_not_told_while_nothing_is_done(
    served: Served, bare: Path, disk: Path
) -> None:
    """Over a disk that hangs the service manager hears nothing any more; when it is back, it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(os.fspath(bare / "notify"))
        told.settimeout(30)
        assert told.recv(1000).startswith(b"WATCHDOG=1")
        with frozen(disk):
            assert "within" in served.client().err("CreateReadWrite", ID="new", Parent="base")
            told.settimeout(1.5)
            with pytest.raises(TimeoutError):  # at most what was on its way
                for _ in range(100):
                    told.recv(1000)
        told.settimeout(30)
        assert told.recv(1000) == b"WATCHDOG=1"
