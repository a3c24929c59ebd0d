"""Owns the driver's options and the maps of ids, from their texts to values; it must not do I/O.

They are what Docker's Init gives a driver: options as `key=value` texts, and two lists of ranges
(`container_id`, `host_id`, `size`) that say which id of the host stands for which id inside.

Options are `overlay2.size`, the limit of read-write layers that do not say their own `size`, and
`overlay2.override_kernel_check`, which is accepted and has no effect. They come as a mapping or as a
list of texts `key=value`. A range is an `IdMap`, three numbers, a text `0:100000:65536`, or a mapping
with Docker's keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from layerstore import values
from layerstore.errors import InvalidOption

OptionTexts = Iterable[str] | Mapping[str, str]
MapEntry = Any
"""An IdMap, a mapping with Docker's keys, three numbers, or a text `0:100000:65536`."""

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgtp])i?)?b?", re.ASCII | re.IGNORECASE)
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_LAST_ID: Final = 2**32 - 2
"""The highest id that a file can have: the one above it means "no id"."""
_LARGEST: Final = 2**63 - 512
"""The largest limit, in bytes: quotas count in units of 512."""

KNOWN: Final = ("overlay2.size", "overlay2.override_kernel_check")


@values.value
@attrs.frozen(repr=False, eq=False)
class IdMap:
    """`size` ids that are called `container_id`, … inside and `host_id`, … on the host."""

    container_id: int
    host_id: int
    size: int

    def __str__(self) -> str:
        return f"{self.container_id}:{self.host_id}:{self.size}"


@values.value
@attrs.frozen(repr=False, eq=False)
class Options:
    """What one open of a store works with. The default: no limit, and ids as they are."""

    size: int = 0
    """Bytes that each read-write layer may have where it does not say itself; 0: no limit."""
    size_text: str = ""
    """The same as it was written: the storage option `size` of such a layer."""
    override_kernel_check: bool = False
    uid_maps: tuple[IdMap, ...] = ()
    gid_maps: tuple[IdMap, ...] = ()

    @property
    def uid(self) -> int | None:
        """The root that owns new directories; None: nothing is remapped."""
        return root_of(self.uid_maps)

    @property
    def gid(self) -> int | None:
        return root_of(self.gid_maps)

    def warnings(self) -> tuple[str, ...]:
        """What a person should hear about these options."""
        if not self.override_kernel_check:
            return ()
        return ("overlay2.override_kernel_check has no effect: the kernel itself is tried out",)


NO_OPTIONS: Final = Options()


def parse(
    options: OptionTexts | None,
    uid_maps: Iterable[MapEntry] | None = None,
    gid_maps: Iterable[MapEntry] | None = None,
) -> Options:
    """The options of one open. Raises InvalidOption, which names what it does not accept."""
    values: dict[str, Any] = {}
    for key, value in _pairs(options or ()):
        if key == "overlay2.size":
            values |= {"size": parse_size(key, value), "size_text": value}
        elif key == "overlay2.override_kernel_check":
            values["override_kernel_check"] = _parse_bool(key, value)
        else:
            raise InvalidOption(
                f"There is no option {key!r}.", hint=f"Options are: {', '.join(KNOWN)}."
            )
    return Options(
        **values, uid_maps=parse_maps("uid", uid_maps), gid_maps=parse_maps("gid", gid_maps)
    )


def _pairs(options: Any) -> Iterable[tuple[str, str]]:
    """Keys trimmed and case-folded, values trimmed."""
    if isinstance(options, str):
        raise InvalidOption(
            f"{options!r} is one text.", hint='Options are a list of "key=value", or a mapping.'
        )
    pairs = options.items() if isinstance(options, Mapping) else map(_split, options)
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidOption(f"{key!r}={value!r} is no option.", hint="Both are texts.")
        yield key.strip().casefold(), value.strip()


def _split(text: Any) -> tuple[str, str]:
    key, between, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not between:
        raise InvalidOption(f"{text!r} is no option.", hint="An option is written key=value.")
    return key, value


def parse_size(name: str, text: str) -> int:
    """Bytes, from a text such as `512`, `64m`, `10G`, `10GB`, `10GiB`: all of them powers of 1024.

    Docker's units: `docker/go-units` RAMInBytes reads the same texts as the same numbers.
    """
    import bitmath  # a size is read seldom, and this takes a while to import

    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidOption(
            f"{name} is {text!r}, which is no size.", hint="Sizes are written as 512m or 10G."
        )
    number, unit = found.groups("")  # without its "b", which alone would mean bits there
    size = bitmath.parse_string(number + unit, system=bitmath.NIST, strict=False)
    if size.bytes > _LARGEST:
        raise InvalidOption(f"{name} is {text!r}, which is more than a quota can say.")
    return int(size.bytes)


def _parse_bool(name: str, text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise InvalidOption(f"{name} is {text!r}, and neither true nor false.")
    return text in _TRUE


def storage_options(
    options: Mapping[str, str] | None, read_write: bool, *, defaults: Options
) -> tuple[dict[str, str], int]:
    """The storage options of one layer, keys trimmed and case-folded, and its size in bytes.

    As in Docker: only a read-write layer takes `size`, and has the default of the store otherwise.
    """
    found: dict[str, str] = {}
    for key, value in _pairs(options or {}):
        if key != "size":
            raise InvalidOption(f"There is no storage option {key!r}.", hint="There is 'size'.")
        if not read_write:
            raise InvalidOption(
                "The storage option 'size' is for read-write layers only.",
                hint="Create the layer with create_read_write (create --read-write).",
            )
        found[key] = value
    if "size" not in found and read_write and defaults.size:
        found["size"] = defaults.size_text
    return found, parse_size("size", found["size"]) if "size" in found else 0


def parse_maps(name: str, maps: Iterable[MapEntry] | None) -> tuple[IdMap, ...]:
    """The ranges of one map. Raises InvalidOption unless it maps id 0 and nothing twice."""
    if isinstance(maps, str | Mapping):
        raise InvalidOption(f"The {name} map {maps!r} is not a list of ranges.")
    found = tuple(_entry(name, entry) for entry in maps or ())
    for what in ("container_id", "host_id"):
        last = -1
        for entry in sorted(found, key=lambda entry: int(getattr(entry, what))):
            if getattr(entry, what) <= last:
                raise InvalidOption(f"The {name} map has the {what} {getattr(entry, what)} twice.")
            last = getattr(entry, what) + entry.size - 1
    if found and root_of(found) is None:
        raise InvalidOption(
            f"The {name} map {', '.join(map(str, found))} does not map id 0.",
            hint="The root of a container owns the layers: 0:100000:65536, for example.",
        )
    return found


def root_of(maps: Iterable[IdMap]) -> int | None:
    """The id of the host that stands for id 0 inside; None if nothing does."""
    for entry in maps:
        if entry.container_id == 0:
            return entry.host_id
    return None


def to_host(options: Options) -> Callable[[int, int], tuple[int, int]] | None:
    """From a uid and a gid inside to those of the host; None where nothing is remapped."""
    return _mapper(options, lambda m: (m.container_id, m.host_id))


def to_container(options: Options) -> Callable[[int, int], tuple[int, int]] | None:
    """From a uid and a gid of the host to those inside; None where nothing is remapped."""
    return _mapper(options, lambda m: (m.host_id, m.container_id))


def _mapper(
    options: Options, ends: Callable[[IdMap], tuple[int, int]]
) -> Callable[[int, int], tuple[int, int]] | None:
    """It raises LookupError for an id that stands for nothing."""

    def shift(maps: tuple[IdMap, ...], number: int, name: str) -> int:
        for entry in maps:
            begin, other = ends(entry)
            if begin <= number < begin + entry.size:
                return other + number - begin
        if maps:
            raise LookupError(f"{name} {number} stands for nothing in the {name} map")
        return number

    if not options.uid_maps and not options.gid_maps:
        return None
    return lambda uid, gid: (
        shift(options.uid_maps, uid, "uid"),
        shift(options.gid_maps, gid, "gid"),
    )


_KEYS: Final = (("container_id", "ContainerID"), ("host_id", "HostID"), ("size", "Size"))
"""What a plugin's client sends, and what its documentation says that it sends."""


def _entry(name: str, entry: MapEntry) -> IdMap:
    if isinstance(entry, IdMap):
        numbers: list[Any] = list(attrs.astuple(entry))
    elif isinstance(entry, str):
        numbers = [
            int(part) if part.isascii() and part.isdigit() else part for part in entry.split(":")
        ]
    elif isinstance(entry, Mapping):
        numbers = [entry.get(key, entry.get(other)) for key, other in _KEYS]
    else:
        numbers = list(entry) if isinstance(entry, tuple | list) else []
    whole = len(numbers) == 3 and all(type(number) is int and number >= 0 for number in numbers)
    if not whole or numbers[2] == 0 or max(numbers[0], numbers[1]) + numbers[2] - 1 > _LAST_ID:
        raise InvalidOption(
            f"{entry!r} is no range of the {name} map.",
            hint="A range is container id, host id and size: 0:100000:65536.",
        )
    return IdMap(*numbers)
