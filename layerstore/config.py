"""Owns the settings and where their values come from; it must not read the environment itself.

Increasing precedence: built in, `/etc/layerstore.toml`, the user's own file
(`$XDG_CONFIG_HOME/layerstore.toml`), environment variables (`LAYERSTORE_HOME` and so on), flags.
`LAYERSTORE_CONFIG` names one file that is read instead of the two. A file may hold the keys of
`Settings` and nothing else; a variable that is no setting is left alone, since others (tests, a
container's service variables) use the prefix too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs

from layerstore import options, values
from layerstore.errors import InvalidOption, LayerstoreError
from layerstore.model import Durability, check_holder

PREFIX: Final = "LAYERSTORE_"
SYSTEM_FILE: Final = "/etc/layerstore.toml"
FILE_NAME: Final = "layerstore.toml"
DEFAULT_HOME: Final = "/var/lib/layerstore"
"""Root's; an ordinary user has `$XDG_DATA_HOME/layerstore`."""
ROOTLESS_UID: Final = f"{PREFIX}ROOTLESS_UID"
"""Set by `layerstore unshare`: the uid that the root of its user namespace has outside."""
DEFAULT_HOLDER: Final = "cli"
DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_DOCKER_ROOT: Final = "/var/lib/docker"
DEFAULT_DOCKER_TIMEOUT: Final = 300.0
DOCKER_ARCHIVES: Final = ("20.10", "23", "24")
DEFAULT_COMPACT_ABOVE: Final = 100_000
DEFAULT_ORPHAN_GRACE: Final = 7 * 86_400.0
DEFAULT_MAX_SIZE: Final = 1 << 40
DEFAULT_MAX_ENTRIES: Final = 10_000_000
DEFAULT_MAX_RATIO: Final = 2_000
"""As `layerstore.fs.archive.Limits` has them."""


def _home(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("it must be a path")
    return Path(os.path.abspath(value))


def _holder(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be a name")
    return check_holder(value)


def _timeout(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("it must be a number of seconds")
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError("it must be a number of seconds, 0 or more")
    return seconds


def _bounded(value: object) -> float:
    if not (seconds := _timeout(value)):
        raise ValueError("it must be a number of seconds, more than 0")
    return seconds


def _durability(value: object) -> Durability:
    if not isinstance(value, str) or value not in {"full", "process"}:
        raise ValueError("it must be 'full' or 'process'")
    return Durability(value)


def _manifests(value: object) -> str:
    if value not in ("off", "apply"):
        raise ValueError("it must be 'off' or 'apply'")
    return str(value)


def _archives(value: object) -> str:
    if value not in DOCKER_ARCHIVES:
        raise ValueError(f"it must be one of {', '.join(DOCKER_ARCHIVES)}")
    return str(value)


def _count(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("it must be a number, 0 or more")
    return value


def _size(value: object) -> int:
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        return options.parse_size("the size", value)
    return _count(value)


def _count_or_all(value: object) -> int | None:
    return None if value == "all" else _count(value)


def _texts(value: object) -> tuple[str, ...]:
    """A list in a file, several flags, or in a variable one text with commas."""
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it must be a list of texts")
    return tuple(text.strip() for text in texts)


def _storage_opts(value: object) -> tuple[str, ...]:
    options.parse(texts := _texts(value))
    return texts


def _map(name: str) -> Callable[[object], tuple[options.IdMap, ...]]:
    return lambda value: options.parse_maps(name, _texts(value))


_AGE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw]?)", re.ASCII)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def age(value: object) -> float:
    """Seconds, from a number of them or a text such as `7d`. ValueError for what is neither."""
    found = _AGE.fullmatch(str(value))
    if isinstance(value, bool) or found is None:
        raise ValueError("it must be a time, such as 12h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def _roots(value: object) -> tuple[str, ...]:
    roots = _texts(value)
    if not all(os.path.isabs(root) for root in roots):
        raise ValueError("it must be a list of absolute paths")
    return roots


_CHECKS: Final[Mapping[str, Callable[[object], Any]]] = {
    "home": _home,
    "holder": _holder,
    "timeout": _timeout,
    "durability": _durability,
    "manifests": _manifests,
    "compact_above": _count,
    "keep_archives": _count_or_all,
    "max_size": _size,
    "max_entries": _count,
    "max_ratio": _count,
    "storage_opts": _storage_opts,
    "uid_map": _map("uid"),
    "gid_map": _map("gid"),
    "docker_roots": _roots,
    "docker_timeout": _bounded,
    "docker_archives": _archives,
    "orphan_grace": age,
}


def _frozen(value: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(value))


@values.value
@attrs.frozen(repr=False, eq=False)
class Settings:
    """What the command line works with. `origins` says for each key where its value came from."""

    home: Path = Path(DEFAULT_HOME)
    holder: str = DEFAULT_HOLDER
    timeout: float = DEFAULT_TIMEOUT
    """Seconds to wait for an operation of somebody else."""
    durability: Durability = Durability.FULL
    manifests: str = "off"
    """`apply`: what an archive made of a layer is recorded, for `audit --content`."""
    compact_above: int = DEFAULT_COMPACT_ABOVE
    """Events in the journal above which old ones are moved to an archive; 0: never."""
    keep_archives: int | None = None
    """How many of the newest archives stay then; None (in a file: `all`) for every one."""
    max_size: int = DEFAULT_MAX_SIZE
    """Bytes of files that an archive may have, holes counted; 0: no limit. So with the others."""
    max_entries: int = DEFAULT_MAX_ENTRIES
    """Headers of an archive, extended ones too."""
    max_ratio: int = DEFAULT_MAX_RATIO
    """Bytes of an archive for each compressed one, past 256 MiB."""
    storage_opts: tuple[str, ...] = ()
    """Options of the driver, such as `overlay2.size=10G`."""
    uid_map: tuple[options.IdMap, ...] = ()
    """Which ids of the host stand for which inside; empty: each for itself."""
    gid_map: tuple[options.IdMap, ...] = ()
    docker_roots: tuple[str, ...] = (DEFAULT_DOCKER_ROOT,)
    """Directories below which dockerd may say that its home is."""
    docker_timeout: float = DEFAULT_DOCKER_TIMEOUT
    """Seconds in which a request of dockerd is answered, with an error if need be."""
    docker_archives: str = DOCKER_ARCHIVES[0]
    """The version of Docker whose own driver's archives the server writes, byte for byte."""
    orphan_grace: float = DEFAULT_ORPHAN_GRACE
    """Seconds before an orphan that was set aside may be removed for good."""
    origins: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen, hash=False)


def files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The configuration files that there are, weakest first; a named one has to exist."""
    named = environment.get(f"{PREFIX}CONFIG")
    if named:
        return (Path(named),)
    own = environment.get("XDG_CONFIG_HOME") or os.path.join(
        environment.get("HOME") or "/nonexistent", ".config"
    )
    candidates = (Path(SYSTEM_FILE), Path(own) / FILE_NAME)
    return tuple(path for path in candidates if path.is_file())


def read_file(path: Path) -> dict[str, object]:
    """The table of a configuration file, unchecked; InvalidOption where it is none."""
    import tomllib

    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InvalidOption(
            f"The configuration file {path} cannot be read: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"The configuration file {path} is not TOML: {error}.") from error


def from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """The settings among environment variables; an empty variable counts as unset."""
    named = {key: environment.get(f"{PREFIX}{key.upper()}") for key in _CHECKS}
    return {key: value for key, value in named.items() if value}


def users_home(environment: Mapping[str, str]) -> Path:
    """Where the store of an ordinary user is unless a setting says otherwise."""
    data = environment.get("XDG_DATA_HOME") or ""
    if not os.path.isabs(data):  # the XDG specification has relative ones ignored
        data = os.path.join(environment.get("HOME") or "/nonexistent", ".local/share")
    return Path(data) / "layerstore"


def load(
    environment: Mapping[str, str], flags: Mapping[str, object], *, ordinary: bool = False
) -> Settings:
    """The settings in effect. A flag whose value is None was not given.

    `ordinary`: for an ordinary user, also where it is the root of a user namespace of its own.
    """
    settings = _load(environment, flags)
    if ordinary and "home" not in settings.origins:
        return attrs.evolve(settings, home=users_home(environment))
    return settings


def _load(environment: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    sources = [(str(path), read_file(path)) for path in files(environment)]
    sources.append(("the environment", from_environment(environment)))
    sources.append(("flags", {key: value for key, value in flags.items() if value is not None}))
    return combine(sources)


def combine(sources: list[tuple[str, dict[str, object]]]) -> Settings:
    """Settings from (where, mapping) pairs, the weakest first; an unknown key is InvalidOption."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for where, mapping in sources:
        for key, value in mapping.items():
            check = _CHECKS.get(key)
            if check is None:
                known = ", ".join(_CHECKS)
                raise InvalidOption(
                    f"{where}: {key!r} is no setting.", hint=f"Settings are: {known}."
                )
            try:
                values[key] = check(value)
            except LayerstoreError as error:
                raise InvalidOption(f"{where}: {key}: {error.message}", hint=error.hint) from error
            except ValueError as error:
                raise InvalidOption(f"{where}: {key} is {value!r}: {error}.") from error
            origins[key] = where
    return Settings(**values, origins=origins)
