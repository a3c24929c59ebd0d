"""Unpacking: every kind of entry, whiteouts, and archives as other programs write them."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import os
import stat
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from layerstore.errors import InvalidArchive
from layerstore.fs.archive import Limits, source, unpack
from layerstore.testing.compare import snapshot
from tests.fs.archive.trees import END, entry, into, pax

pytestmark = pytest.mark.root

zstd_compress = source.zstd().compress

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def test_every_kind_of_entry_becomes_what_it_says(bare: Path) -> None:
    """Files, links, devices, FIFOs and directories have owner, mode, times and xattrs of the archive."""
    archive = (
        pax({"mtime": b"1500000000.123456789"})
        + entry("d", kind=b"5", mode=0o2750, uid=b"0001750\0", gid=b"0001751\0")
        + pax({"SCHILY.xattr.security.capability": CAPABILITY, "SCHILY.xattr.user.a": b"x\ny\0z"})
        + entry("d/setuid", b"text", mode=0o106755, uid=b"0001750\0")
        + entry("d/hard", kind=b"1", link="d/setuid")
        + entry("d/soft", kind=b"2", link="/etc/passwd", gid=b"0000007\0")
        + entry("d/null", kind=b"3", mode=0o666, major=b"0000001\0", minor=b"0000003\0")
        + entry("d/disk", kind=b"4", mode=0o660, major=b"0000010\0", minor=b"0000001\0")
        + entry("d/fifo", kind=b"6", mode=0o622)
        + pax({"mtime": b"-1.5"})
        + entry("old", b"o", kind=b"\0")
        + END
    )
    result = into(bare / "t", archive)
    tree = snapshot(bare / "t")
    assert 1500000000123456789 == tree["d"]["mtime"]
    assert (oct(stat.S_IFDIR | 0o2750), (1000, 1001)) == (tree["d"]["mode"], tree["d"]["owner"])
    file = tree["d/setuid"]
    assert oct(stat.S_IFREG | 0o6755) == file["mode"]
    assert {"security.capability": CAPABILITY, "user.a": b"x\ny\0z"} == file["xattrs"]
    assert "d/hard" == file["same as"] == tree["d/hard"]["same as"]
    assert ("/etc/passwd", (0, 7)) == (tree["d/soft"]["link"], tree["d/soft"]["owner"])
    assert (os.makedev(1, 3), oct(stat.S_IFCHR | 0o666)) == (
        tree["d/null"]["device"],
        tree["d/null"]["mode"],
    )
    assert (os.makedev(8, 1), oct(stat.S_IFBLK | 0o660)) == (
        tree["d/disk"]["device"],
        tree["d/disk"]["mode"],
    )
    assert oct(stat.S_IFIFO | 0o622) == tree["d/fifo"]["mode"]
    assert -1_500_000_000 == tree["old"]["mtime"]
    assert len("text") + len("/etc/passwd") + 1 == result.size
    assert f"sha256:{hashlib.sha256(archive).hexdigest()}" == result.diff_id
    assert len(archive) == result.stream_bytes


def test_whiteouts_become_the_kernels(bare: Path) -> None:
    """A whiteout is a device 0/0, an opaque directory has the xattr; AUFS's own names are passed over."""
    archive = (
        entry("d/", kind=b"5")
        + entry("d/.wh..wh..opq")
        + entry("d/.wh.gone", uid=b"0000005\0")
        + entry(".wh..wh.aufs")
        + entry(".wh..wh.orph/", kind=b"5")
        + entry(".wh..wh.orph/x", b"no")
        + entry("./.wh..wh.plnk/", kind=b"5")
        + entry(".wh..wh.plnk/1.2", b"linked")
        + entry("a", kind=b"1", link="/.wh..wh.plnk/1.2")
        + entry(".wh..wh.plnk/3.4", b"alone")
        + END
    )
    result = into(bare / "t", archive)
    tree = snapshot(bare / "t")
    assert {"d", "d/gone", "a"} == set(tree)
    assert b"y" == tree["d"]["xattrs"]["trusted.overlay.opaque"]
    assert (0, (5, 0)) == (tree["d/gone"]["device"], tree["d/gone"]["owner"])
    assert b"linked" == tree["a"]["data"]
    assert 6 == result.size
    into(bare / "u", entry("d/.wh..wh..opq") + END, prefix="user.overlay.")
    assert {"user.overlay.opaque": b"y"} == snapshot(bare / "u")["d"]["xattrs"]


def test_a_whiteout_beside_its_own_name_hides_only_what_is_below(bare: Path) -> None:
    """In either order an entry and its whiteout leave the entry; a directory becomes opaque."""
    made = entry("f", b"1") + entry("d/", kind=b"5") + entry("d/x")
    hidden = entry(".wh.f") + entry(".wh.d")
    for name, archive in (("a", made + hidden), ("b", hidden + made)):
        into(bare / name, archive + END)
        tree = snapshot(bare / name)
        assert b"1" == tree["f"]["data"]
        assert b"y" == tree["d"]["xattrs"]["trusted.overlay.opaque"], name
    into(bare / "c", entry(".wh.d") + entry("d/x", b"2") + END)
    assert b"y" == snapshot(bare / "c")["d"]["xattrs"]["trusted.overlay.opaque"]


def test_an_opaque_root_is_refused_unless_nothing_is_below(bare: Path) -> None:
    """The kernel does not heed an opaque root, so an archive that needs it is refused."""
    with pytest.raises(InvalidArchive, match="opaque root"):
        into(bare / "t", entry(".wh..wh..opq") + END)
    into(bare / "t", entry(".wh..wh..opq") + entry("f") + END, base=True)
    assert ["f"] == os.listdir(bare / "t")
    assert [] == os.listxattr(bare / "t")


def test_later_entries_take_the_place_of_earlier_ones(bare: Path) -> None:
    """The last entry of a name wins, whatever kinds they are, and sizes are of what is left."""
    archive = (
        entry("a/b/c", b"deep")
        + entry("a", b"file")
        + entry("f", b"12345")
        + entry("f", kind=b"5")
        + entry("f/x", b"1")
        + entry("s", kind=b"2", link="f")
        + entry("s/through", b"22")
        + entry("s", kind=b"5")
        + entry("s/own", b"333")
        + entry("f/x", b"4444")
        + entry("self", b"5")
        + entry("self", kind=b"1", link="./self")
        + END
    )
    result = into(bare / "t", archive)
    tree = snapshot(bare / "t")
    assert {"a", "f", "f/x", "f/through", "s", "s/own", "self"} == set(tree)
    assert (b"file", b"4444", b"5") == tuple(tree[n]["data"] for n in ("a", "f/x", "self"))
    assert 4 + 4 + 2 + 3 + 1 == result.size


def test_missing_parents_are_made(bare: Path) -> None:
    """A parent that the archive lacks is made 0755 and root's, or whoever root is mapped to."""
    umask = os.umask(0o077)
    try:
        into(bare / "t", entry("a/b/c") + END, map_ids=lambda uid, gid: (uid + 100, gid + 200))
    finally:
        os.umask(umask)
    tree = snapshot(bare / "t")
    assert [oct(stat.S_IFDIR | 0o755)] * 2 == [tree[n]["mode"] for n in ("a", "a/b")]
    assert (oct(stat.S_IFREG | 0o644), (100, 200)) == (
        tree["a/b/c"]["mode"],
        tree["a/b/c"]["owner"],
    )
    assert (100, 200) == tree["a"]["owner"]


def test_an_unmapped_owner_is_refused(bare: Path) -> None:
    """An owner without an image names the entry."""
    with pytest.raises(InvalidArchive, match="'f' in the archive: its owner is not mapped"):
        into(
            bare / "t", entry("f", uid=b"0000001\0") + END, map_ids=lambda *ids: {(0, 0): ids}[ids]
        )


def test_directory_times_survive_what_is_put_into_them(bare: Path) -> None:
    """Directories have their own times, also where entries come into them afterwards."""
    archive = b"".join(
        pax({"mtime": b"%d.5" % (1000 + number)}) + entry(name, kind=b"5")
        for number, name in enumerate(("a", "a/b", "a/b/c", "z"))
    )
    into(bare / "t", archive + entry("a/b/late") + entry("a/late") + entry("z/l") + END)
    tree = snapshot(bare / "t")
    times = [tree[name]["mtime"] for name in ("a", "a/b", "a/b/c", "z")]
    assert [1000_500000000, 1001_500000000, 1002_500000000, 1003_500000000] == times


def test_the_root_keeps_what_it_has(bare: Path) -> None:
    """An entry for the directory itself changes nothing of it."""
    os.mkdir(bare / "t", 0o711)
    into(bare / "t", entry("./", kind=b"5", mode=0o777, uid=b"0000005\0") + entry("./f") + END)
    status = os.stat(bare / "t")
    assert (0o711, 0) == (stat.S_IMODE(status.st_mode), status.st_uid)


# --- compression --------------------------------------------------------------------------------


def zstd_with_frames(data: bytes) -> bytes:
    """Two frames with a skippable one in front and between."""
    skip = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    return skip + zstd_compress(data[:700]) + skip + zstd_compress(data[700:])


def zstd_with_checksum(data: bytes) -> bytes:
    """One frame, as zstd(1) writes it."""
    options = {source.zstd().CompressionParameter.checksum_flag: 1}
    compressed: bytes = zstd_compress(data, options=options)
    return compressed


COMPRESSED = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip-members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(99),
    "zstd": zstd_compress,
    "zstd-frames": zstd_with_frames,
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compression_is_detected(bare: Path, name: str) -> None:
    """Digest and length are those of the uncompressed stream, however it came."""
    archive = entry("f", os.urandom(300_000)) + entry("g", b"1") + END

    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(1 if self.tell() < 9 else 1000)

    os.mkdir(bare / "t")
    descriptor = os.open(bare / "t", os.O_RDONLY)
    result = unpack(Dribble(COMPRESSED[name](archive)), descriptor)
    os.close(descriptor)
    assert f"sha256:{hashlib.sha256(archive).hexdigest()}" == result.diff_id
    assert (len(archive), 300_001) == (result.stream_bytes, result.size)
    assert archive[512:300_512] == (bare / "t" / "f").read_bytes()


@pytest.mark.parametrize("name", [name for name in COMPRESSED if name != "plain"])
def test_a_compressed_stream_that_is_cut_off_is_refused(bare: Path, name: str) -> None:
    """Also where all of the tar is there and only the end of the compression is missing."""
    archive = COMPRESSED[name](entry("f", os.urandom(3000)) + END)
    whole = len(archive.rstrip(b"\0"))
    for cut in (whole - 1, whole - 5, whole // 2, 7):
        with pytest.raises(InvalidArchive):
            into(bare / f"t{cut}", archive[:cut])


def test_a_compression_that_is_not_known_is_named(bare: Path) -> None:
    """bzip2 is refused in words."""
    with pytest.raises(InvalidArchive, match="bzip2"):
        into(bare / "t", bz2.compress(END))


@pytest.mark.parametrize(
    "magic", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18"]
)
def test_a_name_that_begins_like_a_compression(bare: Path, magic: bytes) -> None:
    """A first file whose name begins with the mark of a compression does not make it one."""
    into(bare / "t", entry(magic + b"name", b"x") + END)
    assert b"x" == (bare / "t" / os.fsdecode(magic + b"name")).read_bytes()


def test_damaged_compression_is_refused(bare: Path) -> None:
    """A flipped byte in either is found, and so is something else behind a gzip member."""
    archive = entry("f", bytes(range(256)) * 40) + END
    for compress in (gzip.compress, zstd_with_checksum):
        damaged = bytearray(compress(archive))
        damaged[len(damaged) // 2] ^= 0xFF
        with pytest.raises(InvalidArchive):
            into(bare / "t", bytes(damaged))
    with pytest.raises(InvalidArchive):
        into(bare / "t", gzip.compress(archive) + b"something else")


def test_a_bomb_is_stopped(bare: Path) -> None:
    """Limits of ratio, size and entries end an archive while it is read."""
    bomb = gzip.compress(entry("f", bytes(3_000_000)) + END)
    with pytest.raises(InvalidArchive, match="more than 50 times"):
        into(bare / "t", bomb, limits=Limits(ratio=50, ratio_from=1000))
    into(bare / "u", bomb, limits=Limits(ratio=0, ratio_from=1000))
    with pytest.raises(InvalidArchive, match="larger than 100 bytes"):
        into(bare / "v", bomb, limits=Limits(bytes=100))
    with pytest.raises(InvalidArchive, match="more than 3 entries"):
        into(bare / "w", entry("f") * 4 + END, limits=Limits(entries=3))


# --- other programs -----------------------------------------------------------------------------


@pytest.fixture
def rich(bare: Path) -> Path:
    """A tree with one of everything that an archive of a layer can hold."""
    root = bare / "rich"
    root.mkdir()
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "dir" / "file").write_bytes(os.urandom(100_000))
    (root / "empty").touch()
    os.link(root / "dir" / "file", root / "hard")
    os.symlink("dir/file", root / "soft")
    os.symlink("x" * 200, root / "dir" / "long-link")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    long = root / ("n" * 90) / ("m" * 90)
    long.mkdir(parents=True)
    (long / ("f" * 200)).write_text("long")
    (root / "ümlaut-ß-日本").write_text("utf-8")
    (Path(os.fsdecode(os.fsencode(root) + b"/latin-\xe4"))).write_text("latin")
    (root / "suid").write_text("s")
    os.chown(root / "suid", 1234, 4321)
    os.chmod(root / "suid", 0o4755)
    os.chown(root / "dir", 3_000_000, 2_500_000)
    os.setxattr(root / "empty", "security.capability", CAPABILITY)
    os.setxattr(root / "empty", "user.note", b"\x00\x01\n=")
    for top, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(top, name)
            os.utime(path, ns=(0, 10**18 + 500_000_000), follow_symlinks=False)
    os.utime(root / "dir" / "file", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "suid", ns=(0, -5_000_000_000))
    os.utime(root / "dir" / "sub", ns=(0, 10**18 + 5))
    os.utime(root, ns=(0, 10**18))
    return root


WRITERS = {
    "gnu-pax": [
        "tar", "--format=pax", "--xattrs", "--xattrs-include=*", "-cf", "{out}", "-C", "{tree}", ".",
    ],
    "gnu-gnu": ["tar", "--format=gnu", "-cf", "{out}", "-C", "{tree}", "."],
    "bsd-pax": ["bsdtar", "--format", "pax", "--xattrs", "-cf", "{out}", "-C", "{tree}", "."],
    "bsd-gnu": ["bsdtar", "--format", "gnutar", "-cf", "{out}", "-C", "{tree}", "."],
}  # fmt: skip


def written_by(program: str, tree: Path, out: Path) -> bytes:
    """The archive of a tree as a program writes it."""
    if program == "python-pax":
        with tarfile.open(out, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
            tar.add(tree, ".")
    else:
        command = [part.format(out=out, tree=tree) for part in WRITERS[program]]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
    return out.read_bytes()


@pytest.mark.parametrize("program", [*WRITERS, "python-pax"])
def test_what_other_programs_write_is_read(bare: Path, rich: Path, program: str) -> None:
    """The tree comes out as it went in, to what the format can say."""
    into(bare / "t", written_by(program, rich, bare / "out.tar"))
    expected, tree = snapshot(rich), snapshot(bare / "t")
    whole_seconds = program.endswith("gnu")
    for path, found in (*expected.items(), *tree.items()):
        if whole_seconds:
            found["mtime"] //= 10**9
        if program == "python-pax":
            found["mtime"] //= 1000  # its times are floating point numbers
        if program not in ("gnu-pax", "bsd-pax"):
            found["xattrs"] = {}
        found.pop("same as", None) if path not in ("hard", "dir/file") else None
    if program == "bsd-gnu":
        # libarchive cannot put a time before 1970 into this format.
        expected["suid"]["mtime"] = tree["suid"]["mtime"]
    assert expected == tree


SPARSE = {
    "old-gnu": ["tar", "--format=gnu", "-S"],
    "pax-0.0": ["tar", "--format=pax", "-S", "--sparse-version=0.0"],
    "pax-0.1": ["tar", "--format=pax", "-S", "--sparse-version=0.1"],
    "pax-1.0": ["tar", "--format=pax", "-S", "--sparse-version=1.0"],
    "bsd": ["bsdtar", "--format=pax", "--read-sparse"],
}


@pytest.mark.parametrize("variant", SPARSE)
def test_sparse_files_stay_sparse(ext4: str, bare: Path, variant: str) -> None:
    """Every format of sparse members, with more holes than a header has room for."""
    source = Path(ext4) / "source"
    source.mkdir()
    with open(source / "holes", "wb") as file:
        for number in range(60):
            file.seek(number * 100_000)
            file.write(b"data %d" % number)
        file.truncate(20_000_000)
    with open(source / "all-hole", "wb") as file:
        file.truncate(5_000_000)
    (source / "after").write_text("after")
    out = bare / "out.tar"
    subprocess.run([*SPARSE[variant], "-cf", out, "-C", source, "."], check=True)
    result = into(Path(ext4) / "t", out.read_bytes())
    assert snapshot(source, times=False) == snapshot(Path(ext4) / "t", times=False)
    assert 20_000_000 + 5_000_000 + 5 == result.size
    blocks = os.stat(Path(ext4) / "t" / "holes").st_blocks * 512
    assert blocks < 2_000_000


def test_an_xattr_that_the_file_system_refuses_is_named(bare: Path) -> None:
    """Neither is it left out, nor is the archive blamed."""
    archive = pax({"SCHILY.xattr.nowhere": b"x"}) + entry("f") + END
    with pytest.raises(OSError, match=r"xattr nowhere\), unpacking: 'f'") as caught:
        into(bare / "t", archive)
    assert errno.EOPNOTSUPP == caught.value.errno
