"""What is more than a plain file: a layer with it is the same, to the byte, as in Docker's own overlay2."""

from __future__ import annotations

import io
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
TIMES = {
    "capable": WHEN * 10**9 + 999_999_999,
    "null": 0,
    "sparse": -1_500_000_000,
    "setuid": 9_000_000_000 * 10**9,
}
LONG = "n" * 120
DEEP = "/".join(["d" * 60] * 4)


def change(top: Path) -> None:
    """Make everything in the root of a container that runs; all with one time."""
    data = top / "data"
    for name in (
        "deleted",
        "many/a",
        "many/b",
        "many/c",
    ):  # the kernel makes one whiteout of several
        (data / name).unlink()
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
    os.chown(new / "setuid", 1, 70_000)  # one has a name, the other has none
    os.chmod(new / "setuid", 0o6755)
    (new / "capable").write_bytes(b"#!")
    os.setxattr(new / "capable", "security.capability", CAPABILITY)
    os.link(new / "capable", new / "capable as well")
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
    names(new)
    for place, directories, files in os.walk(top, topdown=False):
        if place.startswith((f"{top}/new", f"{top}/data")):
            for name in (*files, *directories):
                os.utime(f"{place}/{name}", (WHEN, WHEN), follow_symlinks=False)
    for name, when in TIMES.items():
        os.utime(new / name, ns=(0, when))
    for directory in (data, new, top):
        os.utime(directory, (WHEN, WHEN))


def names(new: Path) -> None:
    """Names and owners at the limits of the fields of a header."""
    for head, tail in (
        (4, 99),
        (4, 100),
        (4, 101),
        (150, 90),
        (150, 101),
        (151, 99),
        (152, 99),
        (250, 9),
    ):
        directory = new / f"{'d' * (head - 4)}"
        directory.mkdir(exist_ok=True)
        (directory / ("f" * tail)).write_bytes(b"")
        (directory / ("e" * (tail - 1))).mkdir()
    (new / "größe").write_bytes(b"")
    os.link(new / "größe", new / "another")
    os.symlink("größe", new / "to")
    os.mknod(os.fsencode(new) + b"/latin-\xfc")
    (new / "far").write_bytes(b"")
    os.chown(new / "far", 3_000_000, 400_000_000)


def system() -> bytes:
    """With some files more to delete."""
    made = io.BytesIO(busybox())
    with tarfile.open(fileobj=made, mode="a", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a", "b", "c"):
            entry = tarfile.TarInfo(f"data/many/{name}")
            entry.mtime = WHEN
            archive.addfile(entry)
    return made.getvalue()


def set_times_of_whiteouts(upper: Path) -> None:
    """Which nobody can in a mount; and of the directories that have them."""
    for place, _, files in os.walk(upper, topdown=False):
        for path in (Path(place, name) for name in files):
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and not status.st_rdev:
                os.utime(path, (WHEN, WHEN))


def changed(run: Docker) -> list[str]:
    """An image with all of it; the lines of `docker diff`."""
    run("import", "-", "bb", feed=system())
    sleep = ("--network", "none", "--stop-timeout", "1", "bb", "/bin/sleep", "1000")
    run("run", "-d", "--name", "changing", *sleep)
    change(Path(run("inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", "changing")))
    run("kill", "changing")
    set_times_of_whiteouts(Path(run("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "changing")))
    lines = sorted(run.lines("diff", "changing"))
    run("commit", "changing", "specials")
    run("rm", "-f", "changing")
    return lines


def test_special_files_are_the_same_under_both_drivers(bare: Path) -> None:
    """Hard links, xattrs, setuid, opaque directories, whiteouts, devices, long names, odd times and owners:
    `docker diff` has the same lines, a commit the same digest; what one driver saves the other one loads and
    saves with the same digests, and a container sees it all.
    """
    with docker_on_layerstore(bare) as both, docker(bare / "overlay2", "overlay2") as other:
        assert changed(both.docker) == changed(other)
        archives = [run.run("save", "specials").stdout for run in (both.docker, other)]
        made, expected = (saved(archive) for archive in archives)
        assert expected.members == made.members
        assert expected.archives == made.archives
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
