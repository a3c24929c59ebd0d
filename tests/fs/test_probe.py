"""What a place can do is found out by doing it, and nothing stays behind."""

from __future__ import annotations

import errno
import os

import pytest

from layerstore.fs import probe, syscalls
from layerstore.fs.mount import OverlayOptions, mount_overlay
from layerstore.fs.mountinfo import mounts_below
from layerstore.fs.probe import probe_home

pytestmark = pytest.mark.root


def test_a_good_place(scratch):
    """A tmpfs on a current kernel can everything, and is clean afterwards."""
    syscalls.mount("none", scratch, "tmpfs", 0, "")
    found = probe_home(scratch, scratch)

    assert ("tmpfs", 0x01021994, None) == (found.file_system, found.magic, found.problem)
    assert all(
        (found.overlay, found.d_type, found.upper_probe, found.rename_noreplace, found.native_diff)
    )
    assert os.uname().release == found.kernel
    assert {"index", "metacopy", "redirect_dir"} <= set(found.parameters)
    assert [] == os.listdir(scratch)
    assert [] == mounts_below(scratch)


def test_ext4(ext4):
    """An ext4 can carry a store."""
    found = probe_home(ext4, ext4)

    assert ("extfs", None, True, True) == (
        found.file_system,
        found.problem,
        found.upper_probe,
        found.native_diff,
    )


def test_old_kernel(scratch, old_kernel):
    """A kernel without fsopen carries a store too, without `lowerdir+`."""
    found = probe_home(scratch, scratch)

    assert (None, False, True) == (found.problem, found.lowerdir_plus, found.upper_probe)


def test_overlay_on_overlay(layer_home):
    """An overlay cannot carry a store, and the problem says so in one sentence."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    found = probe_home(layer_home.merged, layer_home.merged)

    assert ("overlayfs", False, False) == (found.file_system, found.overlay, found.upper_probe)
    assert found.problem is not None
    assert "overlays cannot be mounted on overlayfs" in found.problem
    assert ["common", "file0", "file1"] == sorted(os.listdir(layer_home.merged))


def test_without_types(scratch, monkeypatch):
    """A file system that does not tell types has a problem."""
    monkeypatch.setattr(syscalls, "getdents64", lambda fd: [(".", 4), ("file", 0)])
    found = probe_home(scratch, scratch)

    assert not found.d_type
    assert found.problem is not None
    assert "types" in found.problem


def test_without_noreplace(scratch, monkeypatch):
    """A file system that cannot refuse to replace has a problem."""

    def renameat2(*arguments):
        raise OSError(errno.EINVAL, "renameat2")

    monkeypatch.setattr(syscalls, "renameat2", renameat2)
    found = probe_home(scratch, scratch)

    assert not found.rename_noreplace
    assert found.problem is not None
    assert "replac" in found.problem


def test_without_busy_uppers(scratch, monkeypatch):
    """Where a mounted upper is not seen to be busy there is a problem."""
    monkeypatch.setattr(probe, "upper_is_free", lambda *arguments, **options: True)
    found = probe_home(scratch, scratch)

    assert not found.upper_probe
    assert found.problem is not None
    assert "already mounted" in found.problem


def test_without_rights(scratch, monkeypatch):
    """Where mounting is forbidden the answer is no, not an error."""

    def refuse(*arguments, **options):
        raise PermissionError(errno.EPERM, "fsopen: Operation not permitted")

    monkeypatch.setattr(probe, "mount_overlay", refuse)
    found = probe_home(scratch, scratch)

    assert not found.overlay
    assert found.problem is not None
    assert "not permitted" in found.problem
    assert [] == os.listdir(scratch)


def test_redirects_are_no_native_diff(scratch, monkeypatch):
    """Where a renamed directory is only a reference, an upper does not hold the whole difference."""

    def redirecting(lowers, upper, work, **more):
        return OverlayOptions(lowers, upper, work, extra=(("redirect_dir", "on"),), **more)

    monkeypatch.setattr(probe, "OverlayOptions", redirecting)

    assert not probe_home(scratch, scratch).native_diff


def test_missing_scratch(scratch):
    """A scratch directory that is missing is an error."""
    with pytest.raises(FileNotFoundError):
        probe_home(scratch, f"{scratch}/missing")
