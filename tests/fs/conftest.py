"""What tests of the disk need: a scratch directory, layers to mount, other namespaces."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from layerstore.fs import mount, syscalls
from layerstore.fs.mount import OverlayOptions
from layerstore.fs.namespaces import in_user_namespace


@pytest.fixture
def scratch(bare: Path) -> str:
    """An empty directory; everything below it is unmounted at the end."""
    return str(bare)


@pytest.fixture
def ext4(bare: Path) -> str:
    """An empty ext4 on a loop device, unmounted at the end."""
    image, point = bare / "ext4.img", bare / "ext4"
    with image.open("xb") as file:
        file.truncate(64 << 20)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    return str(point)


@attrs.frozen
class Home:
    """A home in miniature: links to lowers, and one layer with upper, work and merged."""

    path: str

    @property
    def upper(self) -> str:
        return f"{self.path}/layer/diff"

    @property
    def merged(self) -> str:
        return f"{self.path}/layer/merged"

    @property
    def scratch(self) -> str:
        return f"{self.path}/scratch"

    def options(self, depth: int = 2, *, read_only: bool = False) -> OverlayOptions:
        lowers = tuple(f"{self.path}/l/{link_id(number)}" for number in range(depth))
        if read_only:
            return OverlayOptions(lowers, None, None, userxattr=in_user_namespace())
        work = f"{self.path}/layer/work"
        return OverlayOptions(lowers, self.upper, work, userxattr=in_user_namespace())


def link_id(number: int) -> str:
    """A name of 26 characters, as link ids have."""
    return f"LINK{number:022d}".translate(str.maketrans("0189", "WXYZ"))


@pytest.fixture
def make_home() -> Callable[..., Home]:
    """Make a home at a path, with so many lowers, each with a file of its number and one that all have."""

    def make(path: str, depth: int = 2) -> Home:
        for name in ("l", "layer/diff", "layer/work", "layer/merged", "scratch"):
            os.makedirs(f"{path}/{name}")
        for number in range(depth):
            os.makedirs(f"{path}/{number}/diff")
            Path(f"{path}/{number}/diff/file{number}").write_text(str(number))
            Path(f"{path}/{number}/diff/common").write_text(str(number))
            os.symlink(f"../{number}/diff", f"{path}/l/{link_id(number)}")
        return Home(path)

    return make


@pytest.fixture
def layer_home(scratch: str, make_home: Callable[..., Home]) -> Home:
    """A home with two lowers."""
    return make_home(f"{scratch}/home")


@pytest.fixture
def elsewhere() -> Iterator[Callable[[], int]]:
    """Start a process in a mount namespace of its own that has all mounts of now; gives its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; read x"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert b"\n" == process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel without fsopen."""

    def fsopen(fs_type: str, flags: int) -> int:
        raise OSError(38, "fsopen: Function not implemented", fs_type)

    monkeypatch.setattr(syscalls, "fsopen", fsopen)
    mount.has_lowerdir_plus.cache_clear()
    yield
    mount.has_lowerdir_plus.cache_clear()
