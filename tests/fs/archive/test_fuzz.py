"""Random archives, beside two other readers: what is taken is read as they read it.

Headers in all formats, with numbers in every form, long names in every way, sparse members, and then
bytes changed whose header checks all the same. LAYERSTORE_TEST_LONG=1 makes it thirty times as long.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore.errors import InvalidArchive
from layerstore.fs.archive.member import Limits
from layerstore.fs.archive.reader import Reader
from layerstore.fs.archive.source import Source
from tests.fs.archive.trees import END, entry, into, pax

pytestmark = pytest.mark.root

LONG = os.environ.get("LAYERSTORE_TEST_LONG") == "1"
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
GNU = b"ustar  \0"
LIMITS = Limits(bytes=1 << 24)

SHORT = st.sampled_from([b"a", b"b", b"a/b", b"./c", b"d/e/f", "ü".encode(), b"\xff", b"x" * 100])
LONGER = st.sampled_from([b"l/" * 60 + b"x", b"n" * 200, b"p" * 120 + b"/q"])
DATA = st.one_of(st.binary(max_size=6), st.sampled_from([511, 512, 513, 1500]).map(bytes))
KINDS = st.sampled_from([b"0", b"0", b"0", b"\0", b"7", b"5", b"2", b"1", b"6"])
EIGHT = st.one_of(
    st.integers(0, 0o7777777).map(lambda n: b"%07o\0" % n),
    st.integers(0, 0o777777).map(lambda n: b"%6o \0" % n),
    st.integers(0, 1 << 32).map(lambda n: b"\x80" + n.to_bytes(7, "big")),
    st.sampled_from([b"\0" * 8, b" " * 8, b"0000644 ", b"99999999", b"\xff" * 8, b"12\0xxxxx"]),
)
TIME = st.one_of(
    st.integers(0, 1 << 33).map(lambda n: b"%011o\0" % n),
    st.integers(-(1 << 40), 1 << 40).map(
        lambda n: (n % (1 << 96) | 1 << 95).to_bytes(12, "big")  # the first bit says "no octal"
    ),
    st.sampled_from([b"\0" * 12, b"          1\0"]),
)
RECORDS = st.dictionaries(
    st.sampled_from(["mtime", "uid", "gid", "size", "path", "linkpath", "comment", "ctime"]),
    st.one_of(
        st.integers(0, 1 << 33).map(lambda n: b"%d" % n),
        st.sampled_from([b"1.5", b"-3.25", b"1e3", b"p/q", b"r\xfe", b" 7", b"0x1", b"+4", b"1_0"]),
    ),
    max_size=3,
)


def _named(name: bytes, how: str, **fields: Any) -> bytes:
    """A member whose name is said in one of the ways that there are. What ends in a slash and is no
    directory is a directory to tar, and to Python, and none to Go and here.
    """
    if how == "pax":
        return pax({"path": name}) + entry(name[:99].rstrip(b"/"), **fields)
    if how == "gnu":
        return entry("././@LongLink", name + b"\0", kind=b"L", magic=GNU) + entry(
            name[:99].rstrip(b"/"), magic=GNU, **fields
        )
    return entry(name[:100].rstrip(b"/"), **fields)


MEMBER = st.builds(
    lambda name, how, kind, data, link, uid, mode, mtime: _named(
        name,
        how,
        data=data if kind in (b"0", b"\0", b"7") else b"",
        kind=kind,
        link=link if kind in (b"1", b"2") else b"",
        uid=uid,
        raw_mode=mode,
        mtime=mtime,
    ),
    st.one_of(SHORT, LONGER),
    st.sampled_from(["pax", "gnu", "plain"]),
    KINDS,
    DATA,
    SHORT,
    EIGHT,
    EIGHT,
    TIME,
)
"""One that some reader may refuse because of its numbers."""
PLAIN = st.builds(
    lambda name, how, kind, data, link: _named(
        name,
        how,
        data=data if kind in (b"0", b"\0", b"7") else b"",
        kind=kind,
        link=link if kind in (b"1", b"2") else b"",
    ),
    st.one_of(SHORT, LONGER),
    st.sampled_from(["pax", "gnu", "plain"]),
    KINDS,
    DATA,
    SHORT,
)
PAX = st.builds(
    lambda records, member: pax(records) + member,
    RECORDS,
    # Of two extended headers in a row the second counts, and of two names GNU's, both as for Go:
    # Python takes all records, and the name that came first.
    PLAIN.filter(lambda member: member[156:157] not in (b"x", b"L")),
)


def sparse(version: str, pairs: list[tuple[int, int]], more: int) -> bytes:
    """A sparse member, in one of the formats: its holes and data, one after another, by length.

    All data but the last fill whole blocks: tar begins each in a new one, and others do not.
    """
    at, places = 0, []
    for number, (hole, length) in enumerate(pairs):
        at += hole
        if number < len(pairs) - 1:
            length = -(-length // 512) * 512  # noqa: PLW2901
        places.append((at, length))
        at += length
    size = at + more
    if more:  # as tar itself writes a hole at the end
        places.append((size, 0))
    data = b"s" * sum(length for _, length in places)
    if version == "0.1":
        text = b",".join(b"%d,%d" % pair for pair in places)
        records = {"GNU.sparse.size": b"%d" % size, "GNU.sparse.numblocks": b"%d" % len(places)}
        records |= {"GNU.sparse.map": text, "GNU.sparse.name": b"holes"}
        return pax(records) + entry("GNUSparseFile.1/holes", data)
    lines = b"%d\n" % len(places) + b"".join(b"%d\n%d\n" % pair for pair in places)
    lines += bytes(-len(lines) % 512)
    records = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": b"holes"}
    records |= {"GNU.sparse.realsize": b"%d" % size}
    return pax(records) + entry("GNUSparseFile.1/holes", lines + data)


SPARSE = st.builds(
    sparse,
    st.sampled_from(["0.1", "1.0"]),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 900)), min_size=1, max_size=5),
    st.integers(0, 900),
)
ARCHIVE = st.lists(st.one_of(MEMBER, PLAIN, PAX, SPARSE), max_size=5).map(
    lambda members: b"".join(members) + END
)
CHANGES = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3)


def changed(archive: bytes, changes: list[tuple[int, int]]) -> bytes:
    """Some bytes changed; the sum of a block that has a header's magic is right again."""
    data = bytearray(archive)
    for at, value in changes:
        if at >= len(data) - len(END) or (value == 0 and 100 <= at % 512 < 148):
            continue  # a number behind a NUL is one for Go and here, and none for Python
        data[at] = value
        start = at // 512 * 512
        block = data[start : start + 512]
        if block[257:262] == b"ustar" and not 148 <= at - start < 156:
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(data)


def ours(archive: bytes) -> list[dict[str, Any]]:
    """What this reader finds; raises InvalidArchive."""
    found = []
    with Source(io.BytesIO(archive), LIMITS) as source:
        reader = Reader(source, LIMITS)
        while (member := reader.next()) is not None:
            data = bytearray(member.real_size)
            for at, length in member.sparse or [(0, member.size)]:
                piece = bytearray()

                def keep(part: memoryview, piece: bytearray = piece) -> int:
                    piece.extend(part)
                    return len(part)

                reader.body(keep, length)
                data[at : at + length] = piece
            kind = b"0" if member.kind in (b"\0", b"7") else member.kind
            found.append(
                {
                    "name": member.name.rstrip(b"/"),
                    "kind": kind,
                    "link": member.link if kind in (b"1", b"2") else b"",
                    "mode": member.mode,
                    "owner": (member.uid, member.gid),
                    "mtime": member.mtime_ns / 10**9,
                    "data": bytes(data),
                }
            )
    return found


def pythons(archive: bytes) -> list[dict[str, Any]]:
    """What Python's tarfile finds, in the same form."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:", encoding="utf-8") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            kind = b"0" if member.isreg() else member.type
            found.append(
                {
                    "name": os.fsencode(member.name).rstrip(b"/"),
                    "kind": kind,
                    "link": os.fsencode(member.linkname) if kind in (b"1", b"2") else b"",
                    "mode": member.mode & 0o7777,
                    "owner": (member.uid, member.gid),
                    "mtime": pytest.approx(float(member.mtime), abs=1e-3),
                    "data": file.read() if file is not None else b"",
                }
            )
    return found


@settings(
    max_examples=6000 if LONG else 200, deadline=None, database=None, suppress_health_check=HEALTH
)
@given(ARCHIVE, CHANGES)
def test_what_is_taken_is_what_python_reads(archive: bytes, changes: list[tuple[int, int]]) -> None:
    """Whatever the reader takes is the same to Python's; whatever it refuses, it refuses in words."""
    data = changed(archive, changes)
    try:
        found = ours(data)
    except InvalidArchive:
        return
    try:
        others = pythons(data)
    except (tarfile.TarError, ValueError, OverflowError):
        return
    # Python's ends at a header that it does not like, without a word: in devices' fields, say.
    assert others == found[: len(others)]


def seen(root: Path) -> dict[str, Any]:
    """What an archive made: kinds, modes, whole seconds, content."""
    found: dict[str, Any] = {}
    for top, directories, names in os.walk(os.fsencode(root)):
        for name in (*directories, *names):
            path = os.path.join(top, name)
            status = os.lstat(path)
            content: Any = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes(), status.st_nlink
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            mtime = None if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns // 10**9
            place = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            mode = None if stat.S_ISDIR(status.st_mode) else oct(status.st_mode)
            found[place] = (stat.S_IFMT(status.st_mode), mode, mtime, content)
    return found


@settings(
    max_examples=2000 if LONG else 60, deadline=None, database=None, suppress_health_check=HEALTH
)
@given(st.lists(st.one_of(PLAIN, SPARSE, PAX), min_size=1, max_size=6), CHANGES)
def test_what_is_taken_is_what_tar_unpacks(
    bare: Path, members: list[bytes], changes: list[tuple[int, int]]
) -> None:
    """Where GNU tar finds nothing to complain about either, both make the same tree."""
    data = changed(b"".join(members) + END, changes)
    place = bare / "one"
    shutil.rmtree(place, ignore_errors=True)
    (place / "theirs").mkdir(parents=True)
    with contextlib.suppress(InvalidArchive, OSError):
        into(place / "ours", data, limits=LIMITS)
        done = subprocess.run(
            [
                "tar",
                "-xpf",
                "-",
                "-C",
                place / "theirs",
                "--numeric-owner",
                "--delay-directory-restore",
            ],
            input=data,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        if not done.returncode and not done.stderr:
            assert seen(place / "theirs") == seen(place / "ours")
    assert {"ours", "theirs"} == set(os.listdir(place))
