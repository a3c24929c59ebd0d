"""A dockerd of a test's own: its data, socket and state lie in one directory, and it has no network."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

PATIENCE = 30.0


class Docker:
    """A running dockerd, and the client for it. `close` ends it and everything that it started."""

    def __init__(self, place: Path) -> None:
        self._socket = f"unix://{place}/docker.sock"
        self._pid = place / "docker.pid"
        self._log = place / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    *("--data-root", place / "data", "--exec-root", place / "exec"),
                    *("--host", self._socket, "--pidfile", self._pid),
                    *("--storage-driver", "vfs", "--bridge", "none"),
                    *("--iptables=false", "--ip6tables=false", "--ip-masq=false"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + PATIENCE
        while self.run("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                self.close()
                raise AssertionError(f"dockerd did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def run(
        self, *words: str | Path, check: bool = True, data: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the client."""
        done = subprocess.run(
            ["docker", *words],
            env={**os.environ, "DOCKER_HOST": self._socket, "DOCKER_BUILDKIT": "0"},
            input=data,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        if check:
            assert 0 == done.returncode, f"docker {words}: {done.stderr.decode()}"
        return done

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
