"""Owns running the real podman, and containers-storage, in tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
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


def containers_storage(graph: Path, run: Path) -> Callable[..., str]:
    """The program containers-storage upon a graph root; it gives what was printed."""

    def tool(*words: str) -> str:
        command = ["containers-storage", "--graph", str(graph), "--run", str(run)]
        command += ["--storage-driver", "overlay", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    return tool
