"""Hostile and damaged archives: nothing outside changes, and the error says what is wrong."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layerstore.errors import InvalidArchive
from layerstore.fs.archive import Limits, unpack
from layerstore.testing.compare import snapshot
from tests.fs.archive.trees import END, entry, into, pax

pytestmark = pytest.mark.root

F = entry("f", b"1")
SPARSE_1 = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"10"}

REFUSED: dict[str, tuple[bytes, str]] = {
    # out of the layer
    "up": (entry("../evil", b"x"), "'..'"),
    "up-inside": (entry("a/../../evil", b"x"), "'..'"),
    "up-absolute": (entry("/../evil", b"x"), "'..'"),
    "up-last": (entry("a/..", kind=b"5"), "'..'"),
    "sibling-prefix": (entry("../dest-evil/x", b"x"), "'..'"),
    "link-up": (F + entry("l", kind=b"1", link="../secret"), "'..'"),
    "link-outside": (entry("l", kind=b"1", link="/etc/passwd"), "not in the archive"),
    "link-through-symlink": (
        entry("s", kind=b"2", link="/") + entry("l", kind=b"1", link="s/etc/passwd"),
        "not in the archive",
    ),
    "link-to-nothing": (entry("l", kind=b"1", link="nothing"), "not in the archive"),
    "link-without-target": (entry("l", kind=b"1"), "root directory"),
    "link-to-directory": (entry("d", kind=b"5") + entry("l", kind=b"1", link="d"), "cannot have"),
    "link-to-whiteout": (entry(".wh.w") + entry("l", kind=b"1", link="w"), "cannot have"),
    "link-to-whiteout-name": (entry("l", kind=b"1", link=".wh.w"), "a whiteout"),
    "symlink-circle": (
        entry("a", kind=b"2", link="b") + entry("b", kind=b"2", link="a") + entry("a/x"),
        "circle",
    ),
    "symlink-nowhere": (entry("a", kind=b"2", link="nothing") + entry("a/x"), "nowhere"),
    "symlink-empty": (entry("a", kind=b"2"), "to nothing"),
    "below-a-file": (F + entry("f/x"), "no directory"),
    "root-file": (entry(".", b"x"), "root directory"),
    "root-nameless": (entry("", b"x"), "root directory"),
    # names
    "name-nul": (pax({"path": b"a\0b"}) + F, "bad record"),
    "link-nul": (pax({"linkpath": b"a\0b"}) + entry("l", kind=b"2", link="x"), "bad record"),
    "name-5000": (pax({"path": b"a/" * 2500 + b"x"}) + F, "longer than 4095"),
    "name-5000-gnu": (entry("@", b"n/" * 2500 + b"x\0", kind=b"L") + F, "longer than 4095"),
    "link-5000": (entry("@", b"n" * 5000, kind=b"K") + entry("l", kind=b"2"), "longer than 4095"),
    "deep": (pax({"path": b"a/" * 100_000}) + F, "longer than 4095"),
    "component-300": (pax({"path": b"c" * 300}) + F, "longer than the file system"),
    # whiteouts
    "whiteout-up": (entry(".wh..."), "a whiteout of nothing"),
    "whiteout-self": (entry("a/.wh.."), "a whiteout of nothing"),
    "whiteout-empty": (entry("a/.wh."), "a whiteout of nothing"),
    "whiteout-meta": (entry("a/.wh..wh.plnk"), "a whiteout of nothing"),
    "whiteout-parent": (entry(".wh.a/x"), "nothing in it"),
    "raw-whiteout": (entry("w", kind=b"3"), "would be a whiteout"),
    "overlay-xattr": (
        pax({"SCHILY.xattr.trusted.overlay.redirect": b"/etc"}) + entry("d", kind=b"5"),
        "overlayfs's own",
    ),
    "overlay-xattr-user": (pax({"SCHILY.xattr.user.overlay.opaque": b"y"}) + F, "overlayfs's own"),
    # numbers
    "uid-too-large": (entry("f", uid=b"\x80\x00\x00\x00\xff\xff\xff\xff"), "owner or group"),
    "gid-pax-too-large": (pax({"gid": b"4294967296"}) + F, "owner or group"),
    "uid-negative": (entry("f", uid=b"\xff" * 8), "negative"),
    "size-negative": (entry("f", size_field=b"\xff" * 12), "cannot be"),
    "size-overflow": (entry("f", size_field=b"\x80" + b"\x7f" * 11), "overflows"),
    "size-pax-huge": (pax({"size": b"9223372036854775808"}) + F, "no number"),
    "size-pax-negative": (pax({"size": b"-1"}) + F, "no number"),
    "size-text": (entry("f", size_field=b"12x45678901\0"), "no number"),
    "size-underscore": (entry("f", size_field=b"1_2\0        "), "no number"),
    "size-nines": (entry("f", size_field=b"99999999999\0"), "invalid literal"),
    "size-lies": (entry("f", size=1 << 33) + bytes(4096), "cut off"),
    "size-exabyte": (entry("f", size_field=b"\x80\0\0\0\x10" + bytes(7)), "larger than"),
    "mode-text": (entry("f", raw_mode=b"rwxr-xr\0"), "no number"),
    "mtime-huge": (pax({"mtime": b"9" * 18}) + F, "time"),
    "mtime-text": (pax({"mtime": b"1e5"}) + F, "time"),
    "device-large": (entry("d", kind=b"3", major=b"7777777\0"), "device number"),
    "checksum": (entry("f", checksum=b"000001\0 "), "checksum"),
    "checksum-text": (entry("f", checksum=b"zzzzzz\0 "), "no number"),
    # extended headers
    "pax-huge": (entry("x", kind=b"x", size=2 << 20), "longer than any real one"),
    "pax-global-huge": (entry("x", kind=b"g", size=2 << 20), "longer than any real one"),
    "long-name-huge": (entry("x", kind=b"L", size=2 << 20), "longer than any real one"),
    "pax-short-record": (pax(b"4 a\n") + F, "bad record"),
    "pax-no-newline": (pax(b"6 a=bc") + F, "damaged"),
    "pax-too-long": (pax(b"99 a=b\n") + F, "damaged"),
    "pax-zero": (pax(b"0 a=b\n") + F, "damaged"),
    "pax-negative": (pax(b"-7 a=b\n") + F, "damaged"),
    "pax-no-space": (pax(b"7a=b\n") + F, "damaged"),
    "pax-xattr-nameless": (pax({"SCHILY.xattr.": b"x"}) + F, "without a name"),
    "pax-at-the-end": (F + pax({"path": b"x"}), "no entry follows"),
    "unknown-type": (entry("f", kind=b"M"), "b'M'"),
    "unknown-type-nul-name": (entry("f", kind=b"\xff"), "type"),
    # sparse
    "sparse-exabyte": (
        pax({"GNU.sparse.size": b"1152921504606846976", "GNU.sparse.map": b"0,1"}) + F,
        "larger than",
    ),
    "sparse-overlap": (
        pax({"GNU.sparse.size": b"10", "GNU.sparse.map": b"0,1,0,1"}) + entry("f", b"12"),
        "contradicts",
    ),
    "sparse-beyond": (
        pax({"GNU.sparse.size": b"10", "GNU.sparse.map": b"9,2"}) + entry("f", b"12"),
        "contradicts",
    ),
    "sparse-short": (pax({"GNU.sparse.size": b"9", "GNU.sparse.map": b"0,2"}) + F, "not fit"),
    "sparse-odd": (pax({"GNU.sparse.size": b"9", "GNU.sparse.map": b"0,1,2"}) + F, "cut off"),
    "sparse-order": (pax(b"25 GNU.sparse.numbytes=1\n") + F, "out of order"),
    "sparse-1.0-endless": (pax(SPARSE_1) + entry("f", b"999999\n" + b"0\n" * 600), "no end"),
    "sparse-1.0-text": (pax(SPARSE_1) + entry("f", b"x\n"), "map"),
    "sparse-version": (pax({**SPARSE_1, "GNU.sparse.major": b"2"}) + F, "not known"),
    "sparse-old-magic": (entry("f", kind=b"S"), "not GNU's"),
    "sparse-old-text": (
        entry("f", kind=b"S", magic=b"ustar  \0", at386=b"x" * 24),
        "map of its holes",
    ),
    # the end
    "empty": (b"", "it is empty"),
    "zero-between": (bytes(512) + F, "single zero block"),
}
WITHOUT_END = {"empty", "size-lies"}


@pytest.fixture
def outside(bare: Path) -> Callable[[], dict[str, object]]:
    """Something beside the destination, and what it looks like now."""
    (bare / "dest-evil").mkdir()
    (bare / "secret").write_text("secret")
    os.mkdir(bare / "dest")

    def look() -> dict[str, object]:
        tree = snapshot(bare)
        return {
            path: tree[path] for path in tree if not path.startswith("dest/") and path != "dest"
        }

    return look


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_layer_can_be_made_of_is_refused(
    bare: Path, outside: Callable[[], dict[str, object]], name: str
) -> None:
    """The error names what is wrong, and nothing outside of the directory has changed."""
    archive, why = REFUSED[name]
    before = outside()
    with pytest.raises(InvalidArchive, match=why):
        into(bare / "dest", archive + (b"" if name in WITHOUT_END else END))
    assert before == outside()


INSIDE: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "absolute": (entry("/etc/x", b"1"), {"etc/x": b"1"}),
    "slashes": (entry("//a/.//./b/", b"1"), {"a/b": b"1"}),
    "symlink-to-root": (
        entry("s", kind=b"2", link="/") + entry("s/x", b"1"),
        {"x": b"1"},
    ),
    "symlink-up": (
        entry("a/s", kind=b"2", link="../../../../..") + entry("a/s/secret", b"1"),
        {"secret": b"1"},
    ),
    "symlink-to-absolute": (
        entry("etc", kind=b"5") + entry("s", kind=b"2", link="/etc") + entry("s/x", b"1"),
        {"etc/x": b"1"},
    ),
    "symlink-then-file": (
        entry("s", kind=b"2", link="/etc/passwd") + entry("s", b"1"),
        {"s": b"1"},
    ),
    "symlink-swapped": (
        entry("a", kind=b"5")
        + entry("s", kind=b"2", link="a")
        + entry("s/1", b"1")
        + entry("s", kind=b"5")
        + entry("s/2", b"2"),
        {"a/1": b"1", "s/2": b"2"},
    ),
    "parent-replaced": (
        entry("d", kind=b"5")
        + entry("d/x", b"1")
        + entry("e", kind=b"5")
        + entry("d", kind=b"2", link="e")
        + entry("d/y", b"2"),
        {"e/y": b"2"},
    ),
    "dot-parent": (entry("a/.", kind=b"5") + entry("a/x", b"1"), {"a/x": b"1"}),
    "hard-link-to-symlink": (
        entry("s", kind=b"2", link="../secret") + entry("h", kind=b"1", link="s"),
        {},
    ),
    "link-with-size": (F + entry("h", kind=b"1", link="f", size=99) + entry("g", b"2"), {"g": b"2"}),
    "fifo-then-file": (entry("p", kind=b"6") + entry("p", b"1"), {"p": b"1"}),
    "global-header": (pax({"path": b"evil"}, kind=b"g") + F, {"f": b"1"}),
    "v7": (entry("d/", kind=b"\0", magic=bytes(8)) + entry("d/x", b"1", magic=bytes(8)), {"d/x": b"1"}),
    "trailing": (F + END + b"garbage" * 100, {"f": b"1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_what_leads_outside_stays_inside(
    bare: Path, outside: Callable[[], dict[str, object]], name: str
) -> None:
    """Absolute names and symbolic links have the layer as their root, as in a chroot."""
    archive, expected = INSIDE[name]
    before = outside()
    into(bare / "dest", archive + END)
    assert before == outside()
    tree = snapshot(bare / "dest")
    assert expected == {path: tree[path]["data"] for path in expected}


def test_a_hard_link_to_a_symlink_is_the_link_itself(bare: Path) -> None:
    """It is not followed: neither the link's target nor a file outside gets a name."""
    into(bare / "t", entry("s", kind=b"2", link="/etc") + entry("h", kind=b"1", link="s") + END)
    assert "/etc" == snapshot(bare / "t")["h"]["link"]


def test_what_follows_the_end_is_only_digested(bare: Path) -> None:
    """Zeros are padding; other bytes are counted, and hashed like the rest."""
    archive = F + END
    plain = into(bare / "a", archive)
    padded = into(bare / "b", archive + bytes(10_000))
    garbage = into(bare / "c", archive + bytes(512) + entry("g") + b"x")
    assert (0, 0) == (plain.trailing, padded.trailing)
    assert garbage.trailing > 0
    assert ["f"] == os.listdir(bare / "c")
    assert 3 == len({plain.diff_id, padded.diff_id, garbage.diff_id})


def test_a_stream_that_is_cut_off_anywhere_is_refused(bare: Path) -> None:
    """At every 512 bytes, and one more or less."""
    archive = (
        pax({"path": b"long" * 50}) + entry("x", b"1" * 1500) + F + entry("d", kind=b"5") + END
    )
    for cut in range(0, len(archive), 512):
        for place in {max(0, cut - 1), cut, cut + 1}:
            with pytest.raises(InvalidArchive):
                into(bare / f"t{place}", archive[:place])


def test_a_million_empty_members_are_bounded(bare: Path) -> None:
    """Entries are counted, extended headers among them."""

    class Endless:
        def read(self, size: int, /) -> bytes:
            return pax({"path": b"a"})[:1024] * 128

    os.mkdir(bare / "t")
    descriptor = os.open(bare / "t", os.O_RDONLY)
    try:
        with pytest.raises(InvalidArchive, match="more than 5000 entries"):
            unpack(Endless(), descriptor, limits=Limits(entries=5000))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("length", [4, 19, 21, 23, 25])
def test_a_capability_that_is_none_is_refused(bare: Path, length: int) -> None:
    """The entry and the xattr are named; whatever the kernel takes has one of its lengths."""
    value = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 100_000)[:length].ljust(length)
    with pytest.raises(OSError, match=r"security\.capability") as caught:
        into(bare / "t", pax({"SCHILY.xattr.security.capability": value}) + F + END)
    assert "f" == caught.value.filename


def test_a_capability_of_a_foreign_namespace_stays_one(bare: Path) -> None:
    """It names the namespace's root, and means nothing to a process outside of that."""
    value = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 100_000)
    into(bare / "t", pax({"SCHILY.xattr.security.capability": value}) + F + END)
    assert value == os.getxattr(bare / "t" / "f", "security.capability")


def test_an_old_signed_checksum_is_taken(bare: Path) -> None:
    """Some programs summed signed characters."""
    block = bytearray(entry(b"\xe4\xf6"))
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + block[156:]) + 256
    block[148:156] = b"%06o\0 " % signed
    into(bare / "t", bytes(block) + END)
    assert 1 == len(os.listdir(bare / "t"))


PIECES = st.sampled_from(
    [
        F,
        END,
        bytes(512),
        *(archive for archive, _ in REFUSED.values()),
        *(a for a, _ in INSIDE.values()),
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(PIECES, max_size=6),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
)
@example([F], [])
def test_any_bytes_end_in_a_layer_or_in_an_error(
    bare: Path, pieces: list[bytes], flips: list[tuple[int, int]]
) -> None:
    """Damaged mixtures of all of these raise InvalidArchive or nothing, and reach nothing outside."""
    archive = bytearray(b"".join(pieces)[:20_000] + END)
    for at, value in flips:
        if at < len(archive):
            archive[at] = value
    place = bare / f"box{len(os.listdir(bare))}"
    (place / "t").mkdir(parents=True)
    with contextlib.suppress(InvalidArchive):
        into(place / "t", bytes(archive), limits=Limits(bytes=1 << 24))
    assert ["t"] == os.listdir(place)
