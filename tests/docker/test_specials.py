"""What is more than a plain file: a layer with it is the same as in Docker's own overlay2."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import tarfile
from pathlib import Path

import pytest

from layerstore.audit import audit
from tests.docker.daemon import Docker, busybox, docker, docker_on_layerstore, missing, saved

pytestmark = [
    pytest.mark.root,
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}"),
]

WHEN = 1_700_000_000
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service=ep, revision 2."""
LONG = "n" * 120
DEEP = "/".join(["d" * 60] * 4)


def change(top: Path) -> None:
    """Make everything in the root of a container that runs; all with one time."""
    data = top / "data"
    (data / "deleted").unlink()
    (data / "dir" / "inside").unlink()
    (data / "dir").rmdir()
    (data / "dir").mkdir()  # which hides what was in it: opaque
    (data / "dir" / "fresh").write_text("fresh\n")
    os.rename(data / "kept", data / "moved")
    os.chmod(data / "changed", 0o640)
    new = top / "new"
    new.mkdir(mode=0o2775)
    os.chmod(new, 0o2775)
    (new / "one").write_bytes(b"linked\n")
    os.link(new / "one", new / "two")
    os.link(new / "one", new / LONG)
    (new / "setuid").write_bytes(b"#!")
    os.chown(new / "setuid", 1000, 70_000)
    os.chmod(new / "setuid", 0o6755)
    (new / "capable").write_bytes(b"#!")
    os.setxattr(new / "capable", "security.capability", CAPABILITY)
    (new / "marked").write_bytes(b"")
    os.setxattr(new / "marked", "user.mark", b"\0=\n\xff")
    os.mknod(new / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(new / "block", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    os.mkfifo(new / "fifo", 0o600)
    os.symlink("t" * 150, new / "symlink")
    os.symlink("../data", new / "ünïcode")
    (new / DEEP).mkdir(parents=True)
    (new / DEEP / LONG).write_bytes(b"deep\n")
    (new / ".wh").write_bytes(b"no whiteout\n")
    (new / "sparse").write_bytes(b"")
    os.truncate(new / "sparse", 100_000)
    (new / "sticky").mkdir(mode=0o1777)
    for place, directories, files in os.walk(top, topdown=False):
        if place.startswith((f"{top}/new", f"{top}/data")):
            for name in (*files, *directories):
                os.utime(f"{place}/{name}", (WHEN, WHEN), follow_symlinks=False)
    for directory in (data, new, top):
        os.utime(directory, (WHEN, WHEN))


def changed(run: Docker) -> list[str]:
    """An image with all of it; the lines of `docker diff`."""
    run("import", "-", "bb", feed=busybox())
    sleep = ("--network", "none", "--stop-timeout", "1", "bb", "/bin/sleep", "1000")
    run("run", "-d", "--name", "changing", *sleep)
    change(Path(run("inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", "changing")))
    lines = sorted(run.lines("diff", "changing"))
    run("commit", "changing", "specials")
    run("rm", "-f", "changing")
    return lines


def members(archive: bytes) -> list[tuple[object, ...]]:
    """All that the last layer of a saved image says of each entry, in its order.

    Of a whiteout not the time, which nobody can set. Not what depends on the version of Docker: the names of
    owners, the file type within the mode, in which of its ways a long name is told. Docker leaves out xattrs
    but that of capabilities.
    """
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        index = outer.extractfile("manifest.json")
        assert index is not None
        layer = outer.extractfile(json.load(index)[0]["Layers"][-1])
        assert layer is not None
        content = io.BytesIO(layer.read())
    found: list[tuple[object, ...]] = []
    with tarfile.open(fileobj=content) as inner:
        for m in inner:
            told = {k: v for k, v in m.pax_headers.items() if k.startswith("SCHILY.")}
            told.pop("SCHILY.xattr.user.mark", None)
            file = inner.extractfile(m) if m.isreg() else None
            data = b"" if file is None else file.read()
            when = None if "/.wh." in m.name and m.name != "new/.wh" else m.mtime
            found.append(
                (
                    *(m.name, m.type, m.mode & 0o7777, m.uid, m.gid, m.size, when, m.linkname),
                    *(m.devmajor, m.devminor, tuple(told.items()), data),
                )
            )
    return found


def test_special_files_are_the_same_under_both_drivers(bare: Path) -> None:
    """Hard links, xattrs, setuid, opaque directories, whiteouts, devices, long names: `docker diff` has the
    same lines, a commit the same entries; what one driver saves the other one loads and saves with the
    same digests, and a container sees it all.
    """
    with docker_on_layerstore(bare) as both, docker(bare / "overlay2", "overlay2") as other:
        assert changed(both.docker) == changed(other)
        archives = [run.run("save", "specials").stdout for run in (both.docker, other)]
        assert members(archives[0]) == members(archives[1])
        for daemon, archive in ((other, archives[0]), (both.docker, archives[1])):
            daemon("rmi", "specials")
            daemon("load", feed=archive)
            again = saved(daemon.run("save", "specials").stdout)
            assert saved(archive) == again
            assert again.archives == again.diff_ids
        run = ("run", "-d", "--name", "seen", "--network", "none", "specials", "/bin/sleep", "1000")
        both.docker(*run)
        top = Path(both.docker("inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", "seen"))
        assert os.listdir(top / "data" / "dir") == ["fresh"]
        assert not (top / "data" / "deleted").exists()
        assert (top / "new" / "one").stat().st_nlink == 3
        assert os.getxattr(top / "new" / "capable", "security.capability") == CAPABILITY
        assert (top / "new" / "setuid").stat().st_mode & 0o7777 == 0o6755
        assert (top / "new" / "block").stat().st_rdev == os.makedev(259, 70_000)
        assert (top / "new" / DEEP / LONG).read_bytes() == b"deep\n"
        both.docker("rm", "-f", "seen")
        assert () == audit(both.home).findings
