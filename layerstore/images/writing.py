"""Owns the tar of an image: an OCI layout that is a docker-archive too; it must not know a store.

The same parts give the same bytes: fixed order, no times, no owners. Layers are written as they come;
how large they were and what digest they have is put in front of them afterwards, so the file has to be
one that can be sought.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Final

import attrs

from layerstore.fs.archive import header
from layerstore.fs.archive.member import BLOCK
from layerstore.images import model

_SIZE: Final = slice(124, 136)
_SUM: Final = slice(148, 156)
_LARGEST: Final = 0o77777777777
_LAYER: Final = f"{model.OCI}.layer.v1.tar"


@attrs.frozen
class Written:
    """One blob of an archive. `diff_id`: of a layer."""

    media_type: str
    digest: str
    size: int
    diff_id: str = ""

    @property
    def path(self) -> str:
        return f"blobs/sha256/{self.digest.partition(':')[2]}"

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def document(value: Any) -> bytes:
    """JSON, the same bytes for the same value."""
    return json.dumps(value, separators=(",", ":")).encode()


class ImageWriter:
    """Writes an image into an empty file: each layer, the lowest first, then `finish`."""

    def __init__(self, file: IO[bytes], *, compress: bool = False) -> None:
        self._file = file
        self._compress = compress
        self._blobs: dict[str, Written] = {}
        self.layers: list[Written] = []
        for name in (b"blobs/", b"blobs/sha256/"):
            self._write(header.full(name, b"5", 0o755, 0, 0, 0, 0))

    def add_layer(self, pieces: Iterable[bytes]) -> Written:
        """Write a layer of its uncompressed tar. One that is there already is not written twice."""
        start = self._file.tell()
        self._write(bytes(BLOCK))
        raw, packed, size = hashlib.sha256(), hashlib.sha256(), 0
        for data in _gzip(pieces, raw) if self._compress else _plain(pieces, raw):
            self._write(data)
            size += len(data)
            if self._compress:
                packed.update(data)
        diff_id = f"sha256:{raw.hexdigest()}"
        digest = f"sha256:{packed.hexdigest()}" if self._compress else diff_id
        kind = f"{_LAYER}+gzip" if self._compress else _LAYER
        layer = Written(kind, digest, size, diff_id)
        if layer.path in self._blobs:
            self._file.seek(start)
            self._file.truncate()
        else:
            self._blobs[layer.path] = layer
            self._write(bytes(-size % BLOCK))
            self._file.seek(start)
            self._write(_header(layer.path, size))
            self._file.seek(0, 2)
        self.layers.append(layer)
        return layer

    def finish(self, config: bytes, platform: model.Platform, names: Sequence[str]) -> Written:
        """Write the config, the manifest and what points to them; the manifest's descriptor.

        `names`: the first one is the index's, all that Docker takes are in manifest.json.
        """
        written = self._blob(f"{model.OCI}.config.v1+json", config)
        manifest = self._blob(
            f"{model.OCI}.manifest.v1+json",
            document(
                {
                    "schemaVersion": 2,
                    "mediaType": f"{model.OCI}.manifest.v1+json",
                    "config": written.descriptor,
                    "layers": [layer.descriptor for layer in self.layers],
                }
            ),
        )
        tags = [name for name in names if model.TAGGED.fullmatch(name)]
        docker = {
            "Config": written.path,
            "RepoTags": tags or None,
            "Layers": [layer.path for layer in self.layers],
        }
        index = {
            "schemaVersion": 2,
            "mediaType": f"{model.OCI}.index.v1+json",
            "manifests": [manifest.descriptor | _about(platform, names)],
        }
        self._member("index.json", document(index))
        self._member("manifest.json", document([docker]))
        self._member("oci-layout", document({"imageLayoutVersion": "1.0.0"}))
        self._write(header.END)
        return manifest

    def _blob(self, media_type: str, data: bytes) -> Written:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blob = Written(media_type, digest, len(data))
        if blob.path not in self._blobs:
            self._blobs[blob.path] = blob
            self._member(blob.path, data)
        return blob

    def _member(self, path: str, data: bytes) -> None:
        self._write(_header(path, len(data)) + header.padded(data))

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _about(platform: model.Platform, names: Sequence[str]) -> dict[str, Any]:
    """What an index says of its one manifest."""
    about: dict[str, Any] = {}
    if platform.architecture:
        machine = {"architecture": platform.architecture, "os": platform.os}
        about["platform"] = machine | ({"variant": platform.variant} if platform.variant else {})
    if names:
        tag = names[0].rpartition(":")[2] if model.TAGGED.fullmatch(names[0]) else names[0]
        called = {"io.containerd.image.name": names[0]} if tag != names[0] else {}
        about["annotations"] = called | {"org.opencontainers.image.ref.name": tag}
    return about


def _plain(pieces: Iterable[bytes], raw: Any) -> Iterator[bytes]:
    for piece in pieces:
        raw.update(piece)
        yield piece


def _gzip(pieces: Iterable[bytes], raw: Any) -> Iterator[bytes]:
    """One gzip member without name and time."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    for piece in pieces:
        raw.update(piece)
        yield packer.compress(piece)
    yield packer.flush()


def _header(path: str, size: int) -> bytes:
    """A file's header; a size that octal digits do not hold is in base 256, as GNU and Go have it."""
    block = header.plain(path.encode(), 0o644, 0, 0, min(size, _LARGEST), 0)
    if size <= _LARGEST:
        return block
    changed = bytearray(block)
    changed[_SIZE] = b"\x80" + size.to_bytes(11, "big")
    changed[_SUM] = b" " * 8
    changed[_SUM] = b"%06o\0 " % sum(changed)
    return bytes(changed)
