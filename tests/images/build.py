"""Images made by hand, document by document, so that any part of one can lie."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.fs.archive.trees import END, entry

OCI = "application/vnd.oci.image"
HERE = {"os": "linux", "architecture": "amd64"}
THERE = {"os": "linux", "architecture": "s390x"}

LOW = entry("etc/", kind=b"5", mode=0o755) + entry("etc/os", b"low\n") + entry("gone", b"x") + END
HIGH = entry(".wh.gone", mode=0o600) + entry("top", b"high\n") + END
EMPTY = END

Edit = Callable[[Any], None]


def sha(data: bytes) -> str:
    """The digest of a blob, as documents have it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def dumped(value: Any) -> bytes:
    """A document."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def config_of(layers: list[bytes], **more: Any) -> dict[str, Any]:
    """The config of an image with these uncompressed layers."""
    return {
        **HERE,
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in layers]},
        **more,
    }


@attrs.define
class Layout:
    """The files of an OCI layout, by path."""

    files: dict[str, bytes] = attrs.field(factory=dict)
    entries: list[dict[str, Any]] = attrs.field(factory=list)

    def blob(self, data: Any, media_type: str = "", **more: Any) -> dict[str, Any]:
        """Add a blob; what points to it."""
        data = dumped(data)
        self.files[f"blobs/sha256/{sha(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": sha(data), "size": len(data), **more}

    def image(
        self,
        layers: list[bytes],
        *,
        pack: Callable[[bytes], bytes] = bytes,
        kind: str = f"{OCI}.layer.v1.tar",
        edit: Edit = lambda _: None,
        edit_config: Edit = lambda _: None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image; the descriptor of its manifest."""
        config = config_of(layers)
        edit_config(config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob(config, f"{OCI}.config.v1+json"),
            "layers": [self.blob(pack(layer), kind) for layer in layers],
        }
        edit(manifest)
        return self.blob(manifest, f"{OCI}.manifest.v1+json", **more)

    def index(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": entries}

    def whole(self, *entries: dict[str, Any]) -> dict[str, bytes]:
        """All files, with an index of these entries."""
        return {
            **self.files,
            "index.json": dumped(self.index(list(entries))),
            "oci-layout": dumped({"imageLayoutVersion": "1.0.0"}),
        }


def oci(layers: list[bytes], **options: Any) -> dict[str, bytes]:
    """The files of an OCI layout with one image."""
    layout = Layout()
    return layout.whole(layout.image(layers, **options))


def docker(
    layers: list[bytes], *, tags: list[str] | None = None, config: Any = None
) -> dict[str, bytes]:
    """The files of a docker-archive in its old layout."""
    data = dumped(config or config_of(layers))
    name = f"{sha(data)[7:]}.json"
    paths = [f"layer-{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": tags, "Layers": paths}]
    return {**dict(zip(paths, layers, strict=True)), name: data, "manifest.json": dumped(manifest)}


def tar(path: Path, files: Mapping[str, bytes], *more: tarfile.TarInfo) -> Path:
    """The files as a tar; `more`: members without data."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return path


def directory(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files as a directory."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A member that is a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zstd(data: bytes) -> bytes:
    """Compressed with zstd."""
    from layerstore.fs.archive.source import zstd as library

    compressed: bytes = library().compress(data)
    return compressed


PACKED = {
    "tar": (bytes, f"{OCI}.layer.v1.tar"),
    "gzip": (gzip.compress, f"{OCI}.layer.v1.tar+gzip"),
    "zstd": (zstd, f"{OCI}.layer.v1.tar+zstd"),
    "docker": (gzip.compress, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
}
