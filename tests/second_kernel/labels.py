"""Runs in the second kernel, with SELinux and a policy loaded: mount labels for real.

python -m tests.second_kernel.labels MOUNTPOINT POLICY
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from layerstore import Store
from layerstore.fs import mount, mountinfo, syscalls
from tests.second_kernel.quotas import check_all, new_home

CHECKS: list[Callable[[Path], None]] = []
LABEL = "u:object_r:container_file_t:s0:c1,c3"
OTHER = "u:object_r:container_file_t:s0:c0,c2"


def check(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """One check, in a new directory."""
    CHECKS.append(function)
    return function


def label_of(path: Path) -> str:
    """What SELinux calls a file."""
    return os.getxattr(path, "security.selinux").decode().rstrip("\0")


@check
def the_kernel_has_selinux(place: Path) -> None:
    """It is found out as the library finds it out before it mounts with a label."""
    assert mountinfo.has_selinux()


@check
def a_layer_is_mounted_with_its_label(place: Path) -> None:
    """What is in the mount has the layer's label, categories and all; what lies below has its own."""
    home = new_home(place)
    (home / "base" / "diff" / "old").touch()
    with Store.open(home) as store:
        store.create_read_write("a", parent="base", mount_label=LABEL)
        with store.mounted("a") as merged:
            (merged / "new").touch()
            assert LABEL == label_of(merged / "new") == label_of(merged / "old")
            assert LABEL != label_of(home / "base" / "diff" / "old")


@check
def the_label_of_a_get_wins(place: Path) -> None:
    """A label that is given with the get is the one of the mount, read-write and read-only."""
    home = new_home(place)
    with Store.open(home) as store:
        store.create("a", parent="base", mount_label=LABEL)
        for _ in range(2):
            assert OTHER == label_of(store.get("a", mount_label=OTHER))
            store.put("a")
            if not store.children("a"):
                store.create("b", parent="a")


@check
def a_label_that_the_policy_does_not_know_is_refused_whole(place: Path) -> None:
    """The kernel says no; no mount and no mountpoint is left, and the layer can be used."""
    home = new_home(place)
    with Store.open(home) as store:
        store.create("a", parent="base")
        try:
            store.get("a", mount_label="nobody:knows:this:s0")
        except OSError as error:
            assert error.errno == errno.EINVAL, error
        else:
            raise AssertionError("it was mounted")
        assert not (home / "a" / "merged").exists()
        assert not store.operations() and not store.mounts()
        with store.mounted("a"):
            pass


@contextmanager
def directories(place: Path) -> Iterator[mount.OverlayOptions]:
    """What an overlay is made of."""
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    yield mount.OverlayOptions((f"{place}/lower",), f"{place}/upper", f"{place}/work", label=LABEL)


@check
def both_classic_styles_hold_a_label_with_commas(place: Path) -> None:
    """In one text with the other options the label stands in quotes."""
    with directories(place) as options:
        for style in ("absolute", "relative"):
            mount.mount_overlay(f"{place}/merged", options, home=str(place), styles=(style,))
            assert LABEL == label_of(place / "merged")
            mount.unmount(f"{place}/merged")


@check
def the_new_interface_takes_a_label_as_it_stands(place: Path) -> None:
    """A value of its own has no quotes: its commas are its own."""
    with directories(place):
        context = syscalls.fsopen("overlay", syscalls.FSOPEN_CLOEXEC)
        lowers = f"{place}/lower:{place}/upper"  # two, as there is no upper directory
        for key, value in (("lowerdir", lowers), ("context", LABEL)):
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value, 0)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None, 0)
        made = syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, 0)
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(made, "", syscalls.AT_FDCWD, f"{place}/merged", flags)
        assert LABEL == label_of(place / "merged")
        mount.unmount(f"{place}/merged")
        os.close(made)
        os.close(context)


if __name__ == "__main__":
    syscalls.mount("none", "/sys/fs/selinux", "selinuxfs", 0, "")
    descriptor = os.open("/sys/fs/selinux/load", os.O_WRONLY)
    policy = Path(sys.argv[2]).read_bytes()
    assert len(policy) == os.write(descriptor, policy)
    os.close(descriptor)
    check_all(CHECKS, Path(sys.argv[1]))
