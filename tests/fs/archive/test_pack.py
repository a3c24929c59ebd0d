"""Packing: what other programs make of it, whiteouts turned back, the same bytes again."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import struct
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore.errors import CannotPack, InvalidArchive
from layerstore.fs.archive import DIALECTS, pack
from layerstore.testing.compare import snapshot
from tests.fs.archive.test_unpack import CAPABILITY, rich
from tests.fs.archive.trees import END, entry, into, pax

pytestmark = pytest.mark.root

__all__ = ["rich"]


def packed(path: Path, **options: object) -> bytes:
    """The archive of a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return b"".join(pack(descriptor, **options))  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


READERS = {
    "gnu": ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-pxf", "{tar}", "-C", "{out}"],
    "bsd": ["bsdtar", "--xattrs", "--numeric-owner", "-pxf", "{tar}", "-C", "{out}"],
    "python": [],
    "own": [],
}  # fmt: skip


@pytest.mark.parametrize("program", READERS)
def test_what_is_packed_is_read_by_other_programs(bare: Path, rich: Path, program: str) -> None:
    """The tree comes out of each of them as it went in, to the second."""
    data = packed(rich)
    (bare / "out").mkdir()
    if program == "own":
        into(bare / "out", data)
    elif program == "python":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(bare / "out", numeric_owner=True, filter="fully_trusted")
    else:
        (bare / "x.tar").write_bytes(data)
        command = [part.format(tar=bare / "x.tar", out=bare / "out") for part in READERS[program]]
        subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    expected, tree = snapshot(rich), snapshot(bare / "out")
    for path, found in (*expected.items(), *tree.items()):
        found["mtime"] //= 10**9
        if program == "python":
            found["xattrs"] = {}
        del path
    if program in ("gnu", "bsd", "python"):
        for path in ("dir/long-link", "soft"):  # not every one of them sets a link's times
            tree[path]["mtime"] = expected[path]["mtime"]
    assert expected == tree


def test_the_same_directory_gives_the_same_bytes(bare: Path, rich: Path) -> None:
    """Twice, of a copy, and of what was unpacked from it: one archive."""
    first = packed(rich)
    assert first == packed(rich)
    subprocess.run(["cp", "-a", rich, bare / "copy"], check=True)
    assert first == packed(bare / "copy")
    into(bare / "again", first)
    assert first == packed(bare / "again")


def test_entries_are_in_order_and_plain(bare: Path) -> None:
    """Names in the order of their bytes, a directory before what is in it, no names of owners."""
    for name in ("b/z", "b/a", "b.c", "a", "ö"):
        path = bare / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    data = packed(bare / "t")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert ["a", "b", "b/a", "b/z", "b.c", "ö"] == [member.name for member in members]
    assert {""} == {member.uname + member.gname for member in members}
    assert END == data[-1024:]


def fields(data: bytes) -> dict[bytes, bytes]:
    """The headers of an archive without data, by the first letters of their names; extended ones by `x`."""
    blocks = [data[at : at + 512] for at in range(0, len(data) - 1024, 512)]
    return {(b"x" if b[156:157] == b"x" else b[:3]): b for b in blocks if b[257:262] == b"ustar"}


@pytest.mark.parametrize("version", ["20.10", "23", "24"])
def test_docker_is_told_entries_as_by_its_own_driver(bare: Path, version: str) -> None:
    """Types and names of owners by version; a long name in two fields; capabilities only, and at each name; a
    whiteout that is linked names the first.
    """
    top = bare / "t"
    (top / ("l" * 150)).mkdir(parents=True)
    (top / ("l" * 150) / "name").touch()
    for name in ("cap", "own"):
        (top / name).touch()
        os.setxattr(top / name, "user.mark", b"1")
    os.setxattr(top / "cap", "security.capability", CAPABILITY)
    os.link(top / "cap", top / "cbp")
    os.chown(top / "own", 54_321, 0)
    os.mknod(top / "gone", stat.S_IFCHR, 0)
    os.link(top / "gone", top / "more")
    data = packed(top, dialect=DIALECTS[f"docker-{version}"])
    found = fields(data)
    own = found[b"own"]
    assert own[100:107] == (b"0000644" if version == "24" else b"0100644")
    names = (b"", b"root") if version == "20.10" else (b"", b"")
    assert names == (own[265:297].rstrip(b"\0"), own[297:329].rstrip(b"\0"))
    assert (b"l" * 150, b"name") == (
        found[b"nam"][345:500].rstrip(b"\0"),
        found[b"nam"][:100].rstrip(b"\0"),
    )
    assert (b"gone", b"0") == (found[b".wh"][157:257].rstrip(b"\0"), found[b".wh"][156:157])
    assert b"0000600" == found[b".wh"][100:107]
    assert (2, 0) == (data.count(b"SCHILY.xattr.security.capability"), data.count(b"user.mark"))
    assert b"user.mark" in packed(top)


def test_whiteouts_are_turned_back(bare: Path) -> None:
    """Of both kinds; an opaque directory has its entry behind itself; and back to the same bytes."""
    root = bare / "t"
    (root / "opaque").mkdir(parents=True)
    os.setxattr(root / "opaque", "trusted.overlay.opaque", b"y")
    (root / "opaque" / "new").touch()
    os.mknod(root / "opaque" / "gone", stat.S_IFCHR, 0)
    (root / "x").mkdir()
    os.setxattr(root / "x", "trusted.overlay.opaque", b"x")
    for name in ("hidden", "shown"):
        (root / "x" / name).touch()
    os.setxattr(root / "x" / "hidden", "trusted.overlay.whiteout", b"")
    (root / "impure").mkdir()
    os.setxattr(root / "impure", "trusted.overlay.impure", b"y")
    data = packed(root)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert all(not member.pax_headers for member in tar.getmembers())
    expected = ["impure", "opaque", "opaque/.wh..wh..opq", "opaque/.wh.gone", "opaque/new"]
    assert [*expected, "x", "x/.wh.hidden", "x/shown"] == names
    into(bare / "u", data)
    assert data == packed(bare / "u")
    into(bare / "v", data, prefix="user.overlay.")
    assert data == packed(bare / "v", prefix="user.overlay.")


@pytest.mark.parametrize(("xattr", "why"), [("redirect", "renamed"), ("metacopy", "below")])
def test_what_is_elsewhere_is_refused(bare: Path, xattr: str, why: str) -> None:
    """A directory that overlayfs renamed, or a file whose content is below, is no whole layer."""
    (bare / "t").mkdir()
    (bare / "t" / "f").touch()
    os.setxattr(bare / "t" / "f", f"trusted.overlay.{xattr}", b"")
    with pytest.raises(CannotPack, match=why):
        packed(bare / "t")


def test_a_name_that_would_be_a_whiteout_is_refused(bare: Path) -> None:
    """A file called `.wh.x` cannot be told from a whiteout of `x`."""
    (bare / "t").mkdir()
    (bare / "t" / ".wh.x").touch()
    with pytest.raises(CannotPack, match="whiteout"):
        packed(bare / "t")


def test_an_xattr_that_no_record_can_name_is_refused(bare: Path) -> None:
    """A record's key ends at its first '=': the xattr would come out under another name."""
    (bare / "t").mkdir()
    (bare / "t" / "f").touch()
    os.setxattr(bare / "t" / "f", "user.b=c", b"x")
    with pytest.raises(CannotPack, match="'='"):
        packed(bare / "t")


def test_sockets_are_left_out_and_told_of(bare: Path) -> None:
    """An archive has no kind for a socket."""
    (bare / "t").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(bare / "t" / "s"))
    notes: list[str] = []
    assert END == packed(bare / "t", note=notes.append)
    assert ["s is a socket, which an archive cannot hold"] == notes


def test_owners_are_mapped_back(bare: Path) -> None:
    """Each owner through the map, whiteouts too where they have an image."""

    def back(uid: int, gid: int) -> tuple[int, int]:
        if uid < 1000:
            raise LookupError(uid)
        return uid - 1000, gid - 1000

    archive = entry("f", uid=b"0000005\0") + entry(".wh.w", uid=b"0000005\0") + END
    into(bare / "t", archive, map_ids=lambda uid, gid: (uid + 1000, gid + 1000))
    os.mknod(bare / "t" / "x", stat.S_IFCHR, 0)
    with tarfile.open(fileobj=io.BytesIO(packed(bare / "t", map_ids=back))) as tar:
        assert [("f", 5), (".wh.w", 5), (".wh.x", 0)] == [(m.name, m.uid) for m in tar]
    (bare / "t" / "alien").touch()
    with pytest.raises(CannotPack, match=r"'alien'.*not mapped"):
        packed(bare / "t", map_ids=back)


def test_a_capability_of_a_user_namespace_becomes_a_plain_one(bare: Path) -> None:
    """Version 3 of the xattr, which names a namespace's root, goes out as version 2."""
    (bare / "t").mkdir()
    (bare / "t" / "f").touch()
    third = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 100_000)
    os.setxattr(bare / "t" / "f", "security.capability", third)
    into(bare / "u", packed(bare / "t"))
    assert CAPABILITY == os.getxattr(bare / "u" / "f", "security.capability")


def test_a_file_that_shrinks_breaks_the_stream_off(bare: Path) -> None:
    """What was given out until then is no archive to anyone."""
    (bare / "t").mkdir()
    (bare / "t" / "f").write_bytes(bytes(1_000_000))
    descriptor = os.open(bare / "t", os.O_RDONLY)
    pieces = pack(descriptor)
    got = [next(pieces)]
    os.truncate(bare / "t" / "f", 300_000)
    with pytest.raises(CannotPack, match=r"'f'.*shorter"):
        got.extend(pieces)
    os.close(descriptor)
    with pytest.raises(InvalidArchive, match="cut off"):
        into(bare / "u", got)


def test_a_generator_that_is_closed_leaves_nothing_open(bare: Path) -> None:
    """Also in the middle of a large file, deep down."""
    deep = bare / "t" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(bytes(1_000_000))
    descriptor = os.open(bare / "t", os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    pieces = pack(descriptor)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert before == os.listdir("/proc/self/fd")
    os.close(descriptor)


def test_deep_trees_are_packed_or_refused(bare: Path) -> None:
    """As deep as a path can name, with few descriptors; deeper is an error, not a cut."""
    os.mkdir(bare / "t")
    descriptor = top = os.open(bare / "t", os.O_RDONLY)
    name = "d" * 12
    for depth in range(320):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        if descriptor != top:
            os.close(descriptor)
        descriptor = below
        if depth == 310:
            data = packed(bare / "t")
    os.close(descriptor)
    os.close(top)
    into(bare / "u", data)
    assert data == packed(bare / "u")
    with pytest.raises(CannotPack, match="longer than 4095"):
        packed(bare / "t")
    subprocess.run(["rm", "-rf", bare / "t"], check=True)


def test_swapping_directories_and_links_reaches_nothing_outside(bare: Path) -> None:
    """Somebody who swaps a directory for a link while it is packed gets nothing from behind it."""
    (bare / "outside").mkdir()
    (bare / "outside" / "secret").write_text("secret")
    (bare / "t" / "d").mkdir(parents=True)
    (bare / "t" / "d" / "secret").write_text("harmless")
    os.symlink(bare / "outside", bare / "t" / "l")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for a, b in (("d", "x"), ("l", "d"), ("d", "l"), ("x", "d")):
                os.rename(bare / "t" / a, bare / "t" / b)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            try:
                data = packed(bare / "t")
            except (CannotPack, OSError):
                continue
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar.getmembers():
                    file = tar.extractfile(member) if member.isfile() else None
                    assert file is None or b"harmless" == file.read()
    finally:
        stop.set()
        thread.join()


# --- hypothesis ---------------------------------------------------------------------------------

COMPONENT = st.one_of(
    st.sampled_from([b"a", b"b", b"c" * 99, b"d" * 120, "é".encode(), b"\xff\xfe", b" x\n"]),
    st.binary(min_size=1, max_size=4).filter(
        lambda b: b"\0" not in b and b"/" not in b and b not in (b".", b"..")
    ),
)
NAME = st.lists(COMPONENT, min_size=1, max_size=4).map(b"/".join)
LINK = st.one_of(NAME, st.binary(min_size=1, max_size=150).filter(lambda b: b"\0" not in b))
NUMBER = st.sampled_from([0, 1000, 0o7777777, 0o10000000, (1 << 32) - 2])
TIME = st.sampled_from([0, 1, 0o77777777777, 0o100000000000 % (1 << 33), -1, 1_700_000_000])
XATTRS = st.dictionaries(st.sampled_from(["user.a", "user.é", "user.b=c"]), st.binary(max_size=40))


def _tree_entry() -> st.SearchStrategy[bytes]:
    def make(
        kind: bytes,
        name: bytes,
        link: bytes,
        data: bytes,
        numbers: tuple[int, int, int],
        xattrs: dict[str, bytes],
    ) -> bytes:
        uid, gid, mtime = numbers
        records = {"path": name, "uid": b"%d" % uid, "gid": b"%d" % gid, "mtime": b"%d" % mtime}
        if kind in (b"1", b"2"):
            records["linkpath"] = link
        if kind in (b"0", b"5"):
            records |= {
                f"SCHILY.xattr.{key}": value for key, value in xattrs.items() if "=" not in key
            }
        if kind == b"w":
            directory, slash, base = name.rpartition(b"/")
            records["path"] = directory + slash + b".wh." + base
            return pax(records) + entry("w")
        return pax(records) + entry("x", data if kind == b"0" else b"", kind=kind, mode=0o640)

    kinds = st.sampled_from([b"0", b"0", b"5", b"2", b"6", b"w"])
    data = st.one_of(st.binary(max_size=20), st.integers(500, 520).map(bytes))
    numbers = st.tuples(NUMBER, NUMBER, TIME)
    return st.builds(make, kinds, NAME, LINK, data, numbers, XATTRS)


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(_tree_entry(), max_size=10))
def test_any_tree_goes_round(bare: Path, entries: list[bytes]) -> None:
    """What was unpacked is packed, unpacked and packed again: the same tree, the same bytes; and
    Python reads the same names.
    """
    place = bare / f"case{len(os.listdir(bare))}"
    accepted: list[bytes] = []
    for number, piece in enumerate(entries):  # those that contradict the ones before are left out
        with contextlib.suppress(InvalidArchive):
            into(place / f"try{number}", b"".join([*accepted, piece]) + END)
            accepted.append(piece)
    into(place / "1", b"".join(accepted) + END)
    data = packed(place / "1")
    into(place / "2", data)
    first, second = snapshot(place / "1"), snapshot(place / "2")
    for found in first.values():
        found["mtime"] = found["mtime"] // 10**9 * 10**9  # of parents that were made
    assert first == second
    assert data == packed(place / "2")
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as tar:
        names = {os.fsencode(n) for n in tar.getnames()}
    whiteouts = {n for n in names if n.rpartition(b"/")[2].startswith(b".wh.")}
    files = {os.fsencode(path) for path, found in first.items() if "device" not in found}
    assert files == names - whiteouts
