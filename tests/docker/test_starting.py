"""What a server does until it is ready: where it listens, how many files it may have open, what it settles."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.cli.serve import SOCKET
from layerstore.docker.server import MOST_CONNECTIONS
from tests.docker.daemon import PLUGINS, private_plugins
from tests.docker.serving import Served, serving, wait_for
from tests.docker.test_units import UNITS, unit

pytestmark = pytest.mark.root


def soft_and_hard(served: Served) -> tuple[str, str]:
    """How many files the server may have open."""
    assert served.process is not None
    limits = Path(f"/proc/{served.process.pid}/limits").read_text().splitlines()
    (line,) = (line for line in limits if line.startswith("Max open files"))
    return line.split()[3], line.split()[4]


def test_without_a_path_the_socket_is_where_dockerd_looks(bare: Path) -> None:
    """No `--socket` and none of systemd's: `/run/docker/plugins/layerstore.sock`, for which others wait."""
    with private_plugins():
        served = Served(Path(SOCKET), bare, bare / "log", is_default=True)
        try:
            assert Path(SOCKET).parent == PLUGINS
            served.start()
            assert served.client().ok("Activate") == {"Implements": ["GraphDriver"]}
            assert f"layerstore: serving {SOCKET}\n" in served.log.read_text()
        finally:
            served.close()


def test_the_limit_of_open_files_is_seen_and_raised(bare: Path) -> None:
    """A soft limit of 256 becomes the hard one, and the log has both."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    served = Served(bare / "run" / "test.sock", bare, bare / "log")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        served.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert soft_and_hard(served) == (str(hard), str(hard))
        assert f"limits descriptors={hard} descriptors_before=256" in served.log.read_text()
    finally:
        served.close()


def test_ready_is_said_when_what_was_left_open_is_settled(bare: Path) -> None:
    """A server that is in the middle of its recovery has told the service manager nothing yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(os.fspath(bare / "notify"))
        with serving(bare, NOTIFY_SOCKET=str(bare / "notify")) as served:
            served.client().ok("Init", Home=str(served.home))
            served.end()
            served.start("create:intent:after")
            with pytest.raises((OSError, ValueError)):
                served.client().ok("Create", ID="half")
            served.end(signal.SIGKILL)
            told.setblocking(False)
            with pytest.raises(BlockingIOError):
                while told.recv(1000):
                    pass
            served.start("SIGSTOP:settle:claim:after")
            assert served.process is not None
            status = Path(f"/proc/{served.process.pid}/stat")
            wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
            with pytest.raises(BlockingIOError):
                told.recv(1000)
            served.process.send_signal(signal.SIGCONT)
            told.settimeout(60)
            assert told.recv(1000).startswith(b"READY=1\n")
            with Store.open(served.home, read_only=True) as reader:
                assert ((), []) == (reader.operations(), list(reader.layers()))


@pytest.mark.crash
@pytest.mark.campaign
def test_one_connection_too_many_is_refused(bare: Path) -> None:
    """1,024 are served at once; the next one is closed and logged, until others have ended."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(bare) as served:
            idle = [socket.socket(socket.AF_UNIX) for _ in range(MOST_CONNECTIONS)]
            for sock in idle:
                sock.connect(os.fspath(served.socket))
            with socket.socket(socket.AF_UNIX) as more:
                more.connect(os.fspath(served.socket))
                more.settimeout(60)
                assert more.recv(1) == b""
            assert "too_many=True" in served.log.read_text()
            for sock in idle:
                sock.close()
            wait_for(lambda: served.client().raw("/Plugin.Activate")[0] == 200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_set_up_fits_together() -> None:
    """Both units come before Docker; the service is started for the socket, and `daemon.json` of the
    documentation names the driver by that socket.
    """
    service, listens = (unit(f"layerstore-docker.{kind}") for kind in ("service", "socket"))
    for found in (service, listens):
        assert "docker.service" in found["Unit"]["Before"].split()
    assert service["Unit"]["Requires"] == "layerstore-docker.socket"
    assert int(service["Service"]["WatchdogSec"]) > 0
    text = (UNITS.parent.parent / "docs" / "docker.md").read_text()
    config = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert config["experimental"] is True
    assert config["storage-driver"] == Path(listens["Socket"]["ListenStream"]).stem
