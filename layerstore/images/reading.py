"""Owns finding an image in an archive, whichever of the formats it has; it must not read a layer.

An OCI layout has `index.json`, which points to manifests or to further indexes by digest; a
docker-archive has `manifest.json`, which names files. What newer programs save is both, and is read
as the former. Every document is verified by the digest and size of what points to it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from layerstore.errors import InvalidImage
from layerstore.images import documents, model
from layerstore.images.files import Files, checked

_DEEPEST: Final = 8
"""How deep indexes may be nested."""
_DOCUMENTS: Final = 500
"""How many manifests and indexes are looked at."""
_CONFIG_NAME: Final = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")


def find(files: Files, *, platform: str | None = None, name: str | None = None) -> model.Image:
    """The one image that is meant. `platform`: by default this machine's, where there are several.

    `name`: one of the image's names, or a beginning of its config's digest. Raises InvalidImage;
    where several fit, it lists them.
    """
    wanted = None if platform is None else model.parse_platform(platform)
    read = _Documents(files)
    if files.has("index.json"):
        layout = documents.as_object(read.document("oci-layout"), "oci-layout")
        version = documents.text_in(layout, "imageLayoutVersion", "oci-layout")
        if not version.startswith("1."):
            raise InvalidImage(f"oci-layout has the version {version!r}; 1.0.0 is known.")
        return _chosen(_of_layout(read, wanted), wanted, name)
    if files.has("manifest.json"):
        return _chosen(_of_docker(read), wanted, name)
    if files.has("repositories"):
        raise InvalidImage(
            "The archive has no manifest.json: it was saved by Docker before 1.10.",
            hint="Load it with a newer one and save it again.",
        )
    raise InvalidImage(
        "It is neither a docker-archive nor an OCI layout: it has no manifest.json and no index.json.",
        hint="'docker save', 'skopeo copy' and 'podman save' make what is known; 'layerstore apply' "
        "takes the archive of one layer.",
    )


class _Documents:
    """Reads the documents of an archive, each once however many others point to it."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._left = documents.ALTOGETHER
        self._read: dict[str, bytes] = {}
        self._parsed: dict[str, Any] = {}

    def content(self, path: str) -> bytes:
        if path not in self._read:
            self._read[path] = self._content(path)
        return self._read[path]

    def _content(self, path: str) -> bytes:
        file = self.files.open(path)
        try:
            if file.size > documents.LARGEST:
                raise InvalidImage(
                    f"{path} has {file.size} bytes; more than {documents.LARGEST} are not read."
                )
            self._left -= file.size
            if self._left < 0:
                raise InvalidImage(
                    f"The archive has more than {documents.ALTOGETHER} bytes of documents."
                )
            parts = []
            while more := file.read(file.size):
                parts.append(more)
        finally:
            file.close()
        return b"".join(parts)

    def document(self, path: str) -> Any:
        if path not in self._parsed:
            self._parsed[path] = documents.parse(self.content(path), path)
        return self._parsed[path]

    def verified(self, at: model.Descriptor) -> bytes:
        """A blob that has the size and the digest which are said."""
        if at.size > documents.LARGEST:
            raise InvalidImage(
                f"{at.digest} has {at.size} bytes; more than {documents.LARGEST} are not read."
            )
        data = self.content(at.path)
        if len(data) != at.size:
            raise InvalidImage(f"{at.path} has {len(data)} bytes, and {at.size} are said.")
        algorithm, _, encoded = at.digest.partition(":")
        if hashlib.new(algorithm, data).hexdigest() != encoded:
            raise InvalidImage(
                f"{at.path} is not what its digest says: it was damaged or replaced."
            )
        return data


# --- choosing -----------------------------------------------------------------------------------


def _chosen(
    images: Iterator[model.Image], wanted: model.Platform | None, name: str | None
) -> model.Image:
    """The one that fits; the same image under several names is one."""
    found: dict[tuple[Any, ...], model.Image] = {}
    for image in images:
        key = (image.config_digest, tuple(part.path for part in image.parts))
        before = found.get(key)
        names = dict.fromkeys((*(before.names if before else ()), *image.names))
        found[key] = model.Image(
            image.config, image.config_digest, image.platform, image.parts, tuple(names)
        )
    fitting = list(found.values())
    if name is not None:
        fitting = [image for image in fitting if _is_called(image, name)]
    if not fitting:
        called = f" called {name}" if name is not None else ""
        raise InvalidImage(
            f"There is no image{called} in the archive.", hint=_listed(list(found.values()))
        )
    if wanted is not None or len(fitting) > 1:
        machine = wanted or model.this_machine(os.uname().machine)
        others, fitting = fitting, [image for image in fitting if image.platform.fits(machine)]
        exact = [image for image in fitting if image.platform == machine]
        fitting = exact or fitting
        if not fitting:
            raise InvalidImage(
                f"The archive has no image for {machine}.",
                hint=f"--platform chooses another one. {_listed(others)}",
            )
    if len(fitting) > 1:
        raise InvalidImage(
            f"The archive has {len(fitting)} images, and which one is meant is not said.",
            hint=f"--image chooses one by name or digest. {_listed(fitting)}",
        )
    return fitting[0]


def _is_called(image: model.Image, name: str) -> bool:
    """By one of its names, with or without the tag `latest`, or by its config's digest."""
    called = {name, f"{name}:latest"}
    if not called.isdisjoint(image.names):
        return True
    encoded = name.removeprefix("sha256:")
    return len(encoded) >= 6 and image.config_digest.partition(":")[2].startswith(encoded)


def _listed(images: list[model.Image]) -> str:
    """What there is to choose from."""
    lines = [
        f"{', '.join(image.names) or image.config_digest[:19]} ({image.platform})"
        for image in images[:8]
    ]
    return f"There is: {'; '.join(lines)}{' …' * (len(images) > 8)}." if lines else ""


# --- OCI layouts ----------------------------------------------------------------------------------


def _of_layout(read: _Documents, wanted: model.Platform | None) -> Iterator[model.Image]:
    """The images of an OCI layout. Of one for another platform its index alone is read."""
    index = documents.as_object(read.document("index.json"), "index.json")
    documents.kind(index, "", "index.json")
    leaves = list(_leaves(read, index, "index.json", (), [_DOCUMENTS], 1))
    if len(leaves) > 1:
        machine = wanted or model.this_machine(os.uname().machine)
        for at, _ in leaves:
            if at.platform is None or at.platform.fits(machine):
                break
        else:
            kinds = sorted({str(at.platform) for at, _ in leaves})
            raise InvalidImage(
                f"The archive has no image for {machine}.",
                hint=f"--platform chooses one: {', '.join(kinds)}.",
            )
        leaves = [x for x in leaves if x[0].platform is None or x[0].platform.fits(machine)]
    tags = _tags(read)
    for at, manifest in leaves:
        image = _of_manifest(read, at, manifest)
        encoded = image.config_digest.partition(":")[2]
        names = tuple(dict.fromkeys((*tags.get(encoded, ()), *image.names)))
        yield model.Image(image.config, image.config_digest, image.platform, image.parts, names)


def _leaves(
    read: _Documents,
    index: dict[str, Any],
    name: str,
    names: tuple[str, ...],
    left: list[int],
    depth: int,
) -> Iterator[tuple[model.Descriptor, dict[str, Any]]]:
    """Every manifest below an index, which hands its names down."""
    if depth > _DEEPEST:
        raise InvalidImage(f"{name} is an index in more than {_DEEPEST} others.")
    for entry in documents.list_in(index, "manifests", name):
        if documents.is_attestation(entry):
            continue
        at = documents.descriptor(entry, f"An entry of {name}")
        known = at.media_type in model.INDEXES | model.MANIFESTS | model.SCHEMA_1
        if at.media_type and not known:
            continue  # an artifact, which is no image
        left[0] -= 1
        if left[0] < 0:
            raise InvalidImage(f"The archive has more than {_DOCUMENTS} manifests and indexes.")
        read.verified(at)
        found = documents.as_object(read.document(at.path), at.path)
        at = model.Descriptor(at.media_type, at.digest, at.size, at.platform, at.names or names)
        if documents.kind(found, at.media_type, at.path) == "index":
            yield from _leaves(read, found, at.path, at.names, left, depth + 1)
        else:
            yield at, found


def _of_manifest(read: _Documents, at: model.Descriptor, manifest: dict[str, Any]) -> model.Image:
    config_at = documents.descriptor(manifest.get("config"), f"The config of {at.path}")
    if config_at.media_type not in model.CONFIGS:
        raise InvalidImage(
            f"{at.path} is no image: its config has the media type {config_at.media_type!r}.",
            hint="An artifact or a plugin has no layers that a store could keep.",
        )
    config = read.verified(config_at)
    fields = documents.as_object(read.document(config_at.path), config_at.path)
    diff_ids = documents.rootfs(fields, config_at.path)
    layers = documents.list_in(manifest, "layers", at.path)
    _check_count(len(layers), len(diff_ids), at.path)
    parts = []
    for entry, diff_id in zip(layers, diff_ids, strict=True):
        layer = documents.descriptor(entry, f"A layer of {at.path}")
        if layer.media_type.endswith("+encrypted"):
            raise InvalidImage(f"Layer {layer.digest} is encrypted.", hint="Decrypt it first.")
        if not model.is_layer(layer.media_type):
            raise InvalidImage(
                f"Layer {layer.digest} has the media type {layer.media_type!r}, which is not known.",
                hint="A layer is a tar, plain or compressed with gzip or zstd.",
            )
        parts.append(model.Part(layer.path, diff_id, layer.digest, layer.size))
    platform = at.platform or documents.platform_of(fields, config_at.path)
    return model.Image(config, _sha256(config), platform, tuple(parts), at.names)


def _check_count(layers: int, diff_ids: int, name: str) -> None:
    if layers != diff_ids:
        raise InvalidImage(f"{name} has {layers} layers, and its config has {diff_ids} DiffIDs.")


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# --- docker-archives ------------------------------------------------------------------------------


def _entries(read: _Documents) -> Iterator[tuple[dict[str, Any], str]]:
    found = read.document("manifest.json")
    for entry in documents.list_in({"images": found}, "images", "manifest.json"):
        fields = documents.as_object(entry, "An entry of manifest.json")
        yield fields, checked(documents.text_in(fields, "Config", "manifest.json"))


def _tags(read: _Documents) -> dict[str, list[str]]:
    """The names that a manifest.json beside an index has for each config, by its digest."""
    found: dict[str, list[str]] = {}
    if read.files.has("manifest.json"):
        for fields, path in _entries(read):
            if named := _CONFIG_NAME.fullmatch(path):
                names = documents.texts_in(fields, "RepoTags", "manifest.json")
                found.setdefault(named[1], []).extend(names)
    return found


def _of_docker(read: _Documents) -> Iterator[model.Image]:
    for fields, path in _entries(read):
        config = read.content(path)
        digest = _sha256(config)
        named = _CONFIG_NAME.fullmatch(path)
        if named and digest != f"sha256:{named[1]}":
            raise InvalidImage(f"{path} is not what its name says: it was damaged or replaced.")
        about = documents.as_object(read.document(path), path)
        diff_ids = documents.rootfs(about, path)
        layers = [checked(x) for x in documents.texts_in(fields, "Layers", "manifest.json")]
        _check_count(len(layers), len(diff_ids), "manifest.json")
        parts = tuple(model.Part(*pair) for pair in zip(layers, diff_ids, strict=True))
        names = tuple(documents.texts_in(fields, "RepoTags", "manifest.json"))
        yield model.Image(config, digest, documents.platform_of(about, path), parts, names)
