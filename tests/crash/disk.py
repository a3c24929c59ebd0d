"""Owns a disk whose power can be cut: a file system on a loop device, as it was, as often as wanted.

The cut itself is the kernel's: EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN stop a file system where it
is, without flushing its log, and nothing that was only in memory comes to the disk any more. The
next mount replays the log, as after a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

import attrs

from layerstore.fs import syscalls

SIZES: Final = {"ext4": 64 << 20, "xfs": 304 << 20, "btrfs": 128 << 20}
_MAKE: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
_OPTIONS: Final = {"btrfs": "nodiscard"}
_BTRFS_FORGET_DEV: Final = 0x50009405
_SHUTDOWN: Final = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG: Final = struct.pack("=I", 2)
CHUNK: Final = 1 << 16
_LOOP_GET_FREE, _LOOP_CONFIGURE, _AUTOCLEAR = 0x4C82, 0x4C0A, 4


@attrs.define
class Disk:
    """An image beside the directory that it is mounted at."""

    point: Path
    kind: str
    _kept: list[tuple[int, bytes]] = attrs.field(factory=list)
    """What `renew` brings back: offset and content of all that is not zero."""

    @property
    def image(self) -> Path:
        return self.point.with_name(f"{self.point.name}.{self.kind}")

    def abandon(self) -> None:
        """End what serves it: nothing does, but where writes are recorded."""

    def make(self) -> None:
        """A new file system, mounted."""
        self.point.mkdir()
        self.format()
        self.mount()

    def format(self) -> None:
        """A new file system; not mounted."""
        self._empty()
        subprocess.run([*_MAKE[self.kind], self.image], check=True, capture_output=True)

    def keep(self) -> None:
        """What is on it now is what it begins with from now on. It is unmounted then."""
        self.unmount()
        self.remember()

    def keep_all(self) -> None:
        """The same with all that was written to it, as if that had happened long ago."""
        os.sync()
        self.keep()

    def remember(self) -> None:
        """The same for one that is not mounted."""
        self._kept.clear()
        with self.image.open("rb") as file:
            at = 0
            while chunk := file.read(CHUNK):
                if chunk.count(0) < len(chunk):
                    self._kept.append((at, chunk))
                at += len(chunk)

    def renew(self) -> None:
        """As it was kept, and mounted."""
        self.restore()
        self.mount()

    def restore(self) -> None:
        """As it was kept; not mounted."""
        self._empty()
        with self.image.open("r+b", buffering=0) as file:
            for at, chunk in self._kept:
                file.seek(at)
                file.write(chunk)

    def _empty(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(SIZES[self.kind])

    def mount(self) -> None:
        """The loop device goes with the mount, also where this process is killed."""
        descriptor, device = _attach(self.below)
        if self.kind == "btrfs":
            _forget()
        try:
            syscalls.mount(device, os.fspath(self.point), self.kind, 0, _OPTIONS.get(self.kind, ""))
        finally:
            os.close(descriptor)

    @property
    def below(self) -> Path:
        """The file that the loop device is on."""
        return self.image

    def unmount(self) -> None:
        for _ in range(200):
            try:
                return syscalls.umount2(os.fspath(self.point), 0)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            time.sleep(0.01)
        return syscalls.umount2(os.fspath(self.point), 0)

    def open(self) -> int:
        """A descriptor of the file system, which a process under the library cuts it by."""
        return os.open(self.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def cut(self) -> None:
        """The power, now."""
        descriptor = self.open()
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
        finally:
            os.close(descriptor)


def _forget() -> None:
    """Let btrfs forget what it knows of images that were mounted before.

    It refuses one whose newest transaction is older, as that of an earlier state is.
    """
    control = os.open("/dev/btrfs-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        # struct btrfs_ioctl_vol_args, without a name: all that are not mounted.
        fcntl.ioctl(control, _BTRFS_FORGET_DEV, bytearray(4096))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    finally:
        os.close(control)


def _attach(image: Path) -> tuple[int, str]:
    """A loop device with this image, that is free again when nobody has it open or mounted."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_GET_FREE)}"
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            # struct loop_config: the file, the block size, struct loop_info64, and room.
            info = struct.pack("=52xI176x", _AUTOCLEAR)
            try:
                fcntl.ioctl(
                    descriptor, _LOOP_CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(64)
                )
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:  # somebody else was quicker
                    raise
            else:
                return descriptor, device
    finally:
        os.close(backing)
        os.close(control)
