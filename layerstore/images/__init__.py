"""Owns images: from a docker-archive or an OCI layout to layers, and back; it must not print, nor
know how a layer is made.

    model      what an image is; chain ids, platforms, media types        pure
    documents  the JSON of manifests, indexes and configs, checked        pure
    files      where the files of an archive are: a tar, or a directory
    reading    which image of an archive is meant, and of what it is made
    streams    the bytes of a layer: digests checked, read ahead
    records    what a store remembers of an image besides its layers
    importing  layers of an image
    writing    the tar of an image
    exporting  an image of layers

The public names are resolved when they are asked for: a question needs the records alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerstore.images.exporting import Exported, export_image
    from layerstore.images.importing import import_image
    from layerstore.images.model import Imported, ImportedLayer

_HOMES = {
    "Exported": "exporting",
    "Imported": "model",
    "ImportedLayer": "model",
    "export_image": "exporting",
    "import_image": "importing",
}

__all__ = ["Exported", "Imported", "ImportedLayer", "export_image", "import_image"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
