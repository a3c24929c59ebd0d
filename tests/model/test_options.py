"""The driver's options and the maps of ids: which texts are taken as what, and what is refused."""

from __future__ import annotations

import pytest

from layerstore import options as o
from layerstore.errors import InvalidOption

K = 1024


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("32", 32),
        ("32b", 32),
        ("32k", 32 * K),
        ("32KB", 32 * K),
        ("32kib", 32 * K),
        ("32 mb", 32 * K**2),
        ("10G", 10 * K**3),
        ("10GB", 10 * K**3),
        ("10GiB", 10 * K**3),
        ("1.5g", 3 * K**3 // 2),
        ("0.3K", 307),
        ("7t", 7 * K**4),
        ("2P", 2 * K**5),
        (" 1m ", K**2),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    """Every unit that Docker reads is read as the same number of bytes."""
    assert size == o.parse_size("size", text)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1e3", "10X", "1.g", "10 i", "10ib", "k", "1,5g", "1 k b", "9000P", "٣"]
)
def test_other_sizes_are_refused_by_name(text: str) -> None:
    """What is no size is an error that names option and value."""
    with pytest.raises(InvalidOption) as caught:
        o.parse_size("overlay2.size", text)
    assert f"overlay2.size is {text!r}" in caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        ["overlay2.size=10G", "overlay2.override_kernel_check=true"],
        [" Overlay2.SIZE = 10G ", "OVERLAY2.override_kernel_check=1"],
        {"overlay2.size ": "10G", "overlay2.Override_Kernel_Check": "T"},
        iter(("overlay2.size=10G", "overlay2.override_kernel_check=TRUE")),
    ],
)
def test_options_as_init_gives_them(given: object) -> None:
    """A list of texts or a mapping; keys are trimmed and case-folded."""
    found = o.parse(given)  # type: ignore[arg-type]
    assert (10 * K**3, "10G", True) == (found.size, found.size_text, found.override_kernel_check)
    (warning,) = found.warnings()
    assert "override_kernel_check" in warning


def test_no_options_are_no_options() -> None:
    """Nothing given, and an empty list: no limit, nobody remapped, nothing to warn of."""
    for found in (o.parse(None), o.parse([]), o.parse({}, [], [])):
        assert o.NO_OPTIONS == found
        assert (None, None, ()) == (found.uid, found.gid, found.warnings())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["overlay2.sise=1"], "'overlay2.sise'"),
        (["size=1g"], "'size'"),
        (["overlay2.size"], "'overlay2.size'"),
        (["overlay2.size=big"], "'big'"),
        (["overlay2.override_kernel_check=maybe"], "'maybe'"),
        ([3], "3"),
        ({"overlay2.size": 10}, "10"),
        ("overlay2.size=1", "one text"),
    ],
)
def test_other_options_are_refused_by_name(given: object, named: str) -> None:
    """Anything else is InvalidOption with the name of it."""
    with pytest.raises(InvalidOption) as caught:
        o.parse(given)  # type: ignore[arg-type]
    assert named in caught.value.message


def test_size_is_for_read_write_layers() -> None:
    """As in Docker: create refuses `size`; create_read_write has the default unless it says 0."""
    default = o.parse(["overlay2.size=1m"])
    assert ({}, 0) == o.storage_options(None, False, defaults=default)
    with pytest.raises(InvalidOption, match="read-write layers only"):
        o.storage_options({"Size ": "1m"}, False, defaults=o.NO_OPTIONS)
    assert ({"size": "1m"}, K**2) == o.storage_options({}, True, defaults=default)
    assert ({"size": "2m"}, 2 * K**2) == o.storage_options({" SIZE": "2m"}, True, defaults=default)
    assert ({"size": "0"}, 0) == o.storage_options({"size": "0"}, True, defaults=default)
    assert ({}, 0) == o.storage_options({}, True, defaults=o.parse(["overlay2.size=0"]))
    with pytest.raises(InvalidOption, match="'inodes'"):
        o.storage_options({"inodes": "1"}, True, defaults=default)


RANGE = o.IdMap(0, 100000, 65536)


@pytest.mark.parametrize(
    "entry",
    [
        RANGE,
        "0:100000:65536",
        (0, 100000, 65536),
        [0, 100000, 65536],
        {"container_id": 0, "host_id": 100000, "size": 65536},
        {"ContainerID": 0, "HostID": 100000, "Size": 65536},
    ],
)
def test_a_range_in_every_form(entry: object) -> None:
    """A range is the same in each way to write it, and back as a text."""
    found = o.parse_maps("uid", [entry])
    assert ((RANGE,), 100000) == (found, o.root_of(found))
    assert "0:100000:65536" == str(found[0])


def test_the_root_is_what_zero_stands_for() -> None:
    """Of several ranges the one that has id 0 says who owns new directories."""
    found = o.parse(None, ["1:1000:10", "0:500:1"], ["0:7:1"])
    assert (500, 7) == (found.uid, found.gid)


@pytest.mark.parametrize(
    ("maps", "named"),
    [
        (["1:100000:65536"], "does not map id 0"),
        (["0:100000"], "'0:100000'"),
        (["0:100000:0"], "'0:100000:0'"),
        (["0:-1:5"], "'0:-1:5'"),
        (["0:4294967295:1"], "no range"),
        (["0:4294967290:6"], "no range"),
        ([(0, True, 5)], "True"),
        ([{"container_id": 0, "host_id": 5}], "'host_id': 5"),
        ([None], "None"),
        (["0:100000:10", "5:200000:10"], "container_id 5 twice"),
        (["0:100000:10", "20:100009:10"], "host_id 100009 twice"),
        ("0:100000:65536", "not a list"),
    ],
)
def test_other_maps_are_refused(maps: object, named: str) -> None:
    """A map that does not map id 0, or maps an id twice, or is none, is refused and named."""
    with pytest.raises(InvalidOption) as caught:
        o.parse_maps("uid", maps)  # type: ignore[arg-type]
    assert named in caught.value.message
