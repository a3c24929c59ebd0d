"""Runs the server in a fork of the test, which starts in a few milliseconds, and ends it at named points."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import attrs

from layerstore.cli import main
from layerstore.docker import serving  # noqa: F401 - so that no fork has to import it
from tests.cli.running import environment
from tests.docker.serving import Client


@attrs.define
class Forked:
    """One server, in the life of which at most one point is the end."""

    socket: Path
    root: Path
    log: Path
    pid: int = 0

    def start(self, failpoint: str = "") -> None:
        """Returns when it answers."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(failpoint)
            except BaseException:  # noqa: BLE001 - the log has it
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(99)
        deadline = time.monotonic() + 60
        while not self._accepts():
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)
        assert self.ask("/Plugin.Activate")  # what others left open is settled

    def _serve(self, failpoint: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.closerange(3, 1024)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - this process ends soon
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(
            environment(LAYERSTORE_FAILPOINT=failpoint, LAYERSTORE_DURABILITY="process")
        )
        words = ["serve", "docker", "--socket", str(self.socket), "--root", str(self.root)]
        sys.argv = ["layerstore", *words]
        main()

    def _accepts(self) -> bool:
        import socket

        with socket.socket(socket.AF_UNIX) as trial:
            try:
                trial.connect(os.fspath(self.socket))
            except OSError:
                return False
        return True

    def died(self, within: float = 10) -> bool:
        """Whether it killed itself; it is ended in any case."""
        deadline = time.monotonic() + within
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        if not found:
            self.end()
        self.pid = 0
        return bool(found) and os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def ask(self, target: str, body: bytes = b"") -> Any:
        """The answer; None where the server died before it was whole."""
        client = Client(self.socket)
        try:
            status, content = client.raw(target, body)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            client.close()
        assert status == 200, content
        return json.loads(content)
