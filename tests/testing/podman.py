"""Owns running the real podman in tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Podman:
    """podman, without a network, on one graph root."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def command(self, *words: str) -> list[str]:
        """The whole command line."""
        options = ["--root", f"{self.place}/root", "--runroot", f"{self.place}/run"]
        options += ["--storage-driver", "overlay", "--events-backend", "none"]
        options += ["--cgroup-manager", "cgroupfs"]
        return ["podman", *options, *words]

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words), capture_output=True, timeout=120, check=False, text=True
        )
        assert done.returncode == 0, f"podman {words}: {done.stderr}"
        return done.stdout.strip()
