"""Owns what an image is: its parts, platforms, media types and chain ids; it must not do I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import attrs

from layerstore.errors import InvalidOption

OCI: Final = "application/vnd.oci.image"
DOCKER: Final = "application/vnd.docker"
INDEXES: Final = frozenset({f"{OCI}.index.v1+json", f"{DOCKER}.distribution.manifest.list.v2+json"})
MANIFESTS: Final = frozenset({f"{OCI}.manifest.v1+json", f"{DOCKER}.distribution.manifest.v2+json"})
SCHEMA_1: Final = frozenset(
    {
        f"{DOCKER}.distribution.manifest.v1+json",
        f"{DOCKER}.distribution.manifest.v1+prettyjws",
    }
)
CONFIGS: Final = frozenset({f"{OCI}.config.v1+json", f"{DOCKER}.container.image.v1+json"})
_LAYER: Final = re.compile(
    r"application/vnd\.(oci\.image\.layer(\.nondistributable)?\.v1\.tar(\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs(\.foreign)?\.diff\.tar(\.gzip|\.zstd)?)"
)
DIGEST: Final = re.compile(r"(sha256):[0-9a-f]{64}|(sha512):[0-9a-f]{128}")
DIFF_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
TAGGED: Final = re.compile(
    r"(?=.{1,255}:[^:/]+$)[a-z0-9][a-zA-Z0-9._-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*:[\w][\w.-]{0,127}",
    re.ASCII,
)
"""A name that `docker load` takes."""

_MACHINES: Final = {
    "x86_64": "amd64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv8l": "arm/v7",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "armv5tel": "arm/v5",
    "loongarch64": "loong64",
}
"""What uname(2) calls a machine, and Go: others have one name."""


def is_layer(media_type: str) -> bool:
    """Whether a layer of this media type can be unpacked."""
    return _LAYER.fullmatch(media_type) is not None


@attrs.frozen
class Platform:
    """`linux/amd64`, `linux/arm/v7`: for which machine an image is."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def fits(self, wanted: Platform) -> bool:
        """Whether this is what was asked for; without a variant any will do."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and (not wanted.variant or not self.variant or self.variant == wanted.variant)


def platform(os: str, architecture: str, variant: str = "") -> Platform:
    """A platform, without the variant that says nothing."""
    plain = (architecture, variant) in (("arm64", "v8"), ("amd64", "v1"))
    return Platform(os, architecture, "" if plain else variant)


def parse_platform(text: str) -> Platform:
    """`OS/ARCH[/VARIANT]`; InvalidOption for anything else."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidOption(
            f"{text!r} is no platform.",
            hint="A platform is written as linux/amd64 or linux/arm/v7.",
        )
    return platform(*parts)


def this_machine(machine: str) -> Platform:
    """The platform of a machine, as uname(2) calls it."""
    return parse_platform(f"linux/{_MACHINES.get(machine, machine)}")


@attrs.frozen
class Descriptor:
    """What points to a blob: its digest, its size in bytes, and what it says about it."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    names: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        algorithm, _, encoded = self.digest.partition(":")
        return f"blobs/{algorithm}/{encoded}"


@attrs.frozen
class Part:
    """One layer of an image: where its blob is, and what it must be. None: not said."""

    path: str
    diff_id: str
    digest: str | None = None
    size: int | None = None


@attrs.frozen
class Image:
    """One image of an archive. `config` is the blob itself; `parts`, the lowest first."""

    config: bytes
    config_digest: str
    platform: Platform
    parts: tuple[Part, ...]
    names: tuple[str, ...] = ()


@attrs.frozen
class ImportedLayer:
    """One layer of an imported image. `new`: this import made it."""

    id: str
    diff_id: str
    size: int | None
    new: bool


@attrs.frozen
class Imported:
    """What an import did: the image's `layer`, and the `chain` from the lowest to it."""

    layer: str
    chain: tuple[ImportedLayer, ...]
    config_digest: str
    platform: str
    names: tuple[str, ...]


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The ChainID of each layer, the lowest first, as hex digits: a layer's id in the store.

    https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid
    """
    found: list[str] = []
    for diff_id in diff_ids:
        text = f"sha256:{found[-1]} {diff_id}" if found else None
        digest = hashlib.sha256(text.encode()).hexdigest() if text else diff_id.partition(":")[2]
        found.append(digest)
    return found
