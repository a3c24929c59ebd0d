"""Owns the JSON documents of images, and checks every field that is used; it must not do I/O.

They come from strangers: they are bounded, no field is taken for granted, and each error names the
document and the field.
"""

from __future__ import annotations

import json
from typing import Any, Final

from layerstore.errors import InvalidImage
from layerstore.images import model

LARGEST: Final = 4 << 20
"""Bytes of one document: what registries take."""
ALTOGETHER: Final = 64 << 20
"""Bytes of all documents that are read of one archive."""
MOST: Final = 1_000
"""Entries of one list."""


def parse(data: bytes, name: str) -> Any:
    """A JSON document; InvalidImage unless it is one, in proper Unicode."""
    try:
        found = json.loads(data.decode())
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate is no text
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidImage(f"{name} is no JSON document: {why}.") from error
    return found


def as_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidImage(f"{name} is no JSON object.")
    return value


def list_in(value: dict[str, Any], key: str, name: str) -> list[Any]:
    """A list in a document; there has to be one."""
    found = value.get(key)
    if not isinstance(found, list):
        raise InvalidImage(f"{name} has no list {key!r}.")
    if len(found) > MOST:
        raise InvalidImage(f"{name} has {len(found)} {key}; more than {MOST} are not believed.")
    return found


def text_in(value: dict[str, Any], key: str, name: str) -> str:
    """A text in a document; empty if there is none."""
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidImage(f"{key!r} of {name} is no text.")
    return found


def texts_in(value: dict[str, Any], key: str, name: str) -> list[str]:
    """A list of texts in a document; empty if there is none."""
    if value.get(key) is None:
        return []
    found = list_in(value, key, name)
    if not all(isinstance(item, str) for item in found):
        raise InvalidImage(f"{key!r} of {name} has an entry that is no text.")
    return found


def descriptor(value: Any, name: str) -> model.Descriptor:
    """What points to a blob."""
    fields = as_object(value, name)
    digest = text_in(fields, "digest", name)
    if not model.DIGEST.fullmatch(digest):
        raise InvalidImage(f"{name} has the digest {digest!r}; sha256 and sha512 are known.")
    size = fields.get("size")
    if type(size) is not int or size < 0:
        raise InvalidImage(f"{name} has no size.")
    return model.Descriptor(
        media_type=text_in(fields, "mediaType", name),
        digest=digest,
        size=size,
        platform=_platform(fields.get("platform"), name),
        names=_names(fields.get("annotations"), name),
    )


def _platform(value: Any, name: str) -> model.Platform | None:
    if value is None:
        return None
    fields = as_object(value, f"the platform of {name}")
    words = [text_in(fields, key, name) for key in ("os", "architecture", "variant")]
    return model.platform(*words)


def _names(annotations: Any, name: str) -> tuple[str, ...]:
    """containerd's annotation has the whole name, the specification's often the tag alone."""
    if annotations is None:
        return ()
    fields = as_object(annotations, f"the annotations of {name}")
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        if text := text_in(fields, key, name):
            return (text,)
    return ()


def is_attestation(value: Any) -> bool:
    """Whether an entry of an index is about an image, rather than one."""
    found = value.get("annotations") if isinstance(value, dict) else None
    return isinstance(found, dict) and "vnd.docker.reference.digest" in found


def kind(value: dict[str, Any], media_type: str, name: str) -> str:
    """`index` or `manifest`; what could be read as either is refused (CVE-2021-41190)."""
    media_type = text_in(value, "mediaType", name) or media_type
    if media_type in model.SCHEMA_1 or value.get("schemaVersion") == 1 or "fsLayers" in value:
        raise InvalidImage(
            f"{name} is a manifest of schema 1, which has no digests of layers' content.",
            hint="Save the image again with a Docker or skopeo of this decade.",
        )
    if ("manifests" in value) == ("layers" in value or "config" in value):
        raise InvalidImage(f"{name} is neither an index nor a manifest of an image.")
    found = "index" if "manifests" in value else "manifest"
    if media_type and media_type not in (model.INDEXES if found == "index" else model.MANIFESTS):
        raise InvalidImage(f"{name} has the media type {media_type!r}, which is not known.")
    return found


def rootfs(config: dict[str, Any], name: str) -> list[str]:
    """The DiffIDs of a config, the lowest first."""
    if "rootfs" not in config:
        raise InvalidImage(
            f"{name} has no rootfs: it does not say which layers the image has.",
            hint="It is no image, or was made before Docker 1.10: load and save it again.",
        )
    found = texts_in(as_object(config["rootfs"], f"the rootfs of {name}"), "diff_ids", name)
    if not found:
        raise InvalidImage(f"The image of {name} has no layers, so that there is nothing to make.")
    for diff_id in found:
        if not model.DIFF_ID.fullmatch(diff_id):
            raise InvalidImage(f"{name} has the DiffID {diff_id!r}, which is no sha256 digest.")
    return found


def platform_of(config: dict[str, Any], name: str) -> model.Platform:
    """The platform that a config says."""
    words = [text_in(config, key, name) for key in ("os", "architecture", "variant")]
    return model.platform(words[0] or "linux", *words[1:])
