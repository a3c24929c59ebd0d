"""Owns what dockerd's graphdriver protocol says: requests to values, answers to JSON; it must not do I/O.

An id is checked before anything else is done with it. Keys are found in either case and in either
spelling: Docker's documentation and what dockerd sends differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from layerstore.answers import Change, ChangeKind
from layerstore.errors import InvalidArgument, LayerstoreError
from layerstore.model import LayerId, check_layer_id

CONTENT_TYPE: Final = "application/vnd.docker.plugins.v1.2+json"
ACTIVATE: Final = "/Plugin.Activate"
DRIVER: Final = "/GraphDriver."

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_KINDS: Final = {ChangeKind.MODIFY: 0, ChangeKind.ADD: 1, ChangeKind.DELETE: 2}


@attrs.frozen
class Init:
    """Where the store is, and what Docker gives a driver with it."""

    home: str
    options: tuple[str, ...] = ()
    uid_maps: tuple[Mapping[str, int], ...] = ()
    gid_maps: tuple[Mapping[str, int], ...] = ()


@attrs.frozen
class Create:
    """A layer to be made."""

    id: LayerId
    parent: LayerId | None
    mount_label: str
    storage_options: Mapping[str, str]


@attrs.frozen
class About:
    """A request about one layer; `parent` is the one that it is to be compared with."""

    id: LayerId
    parent: LayerId | None = None
    mount_label: str = ""


def method_of(target: str) -> str | None:
    """The method that a request's path names; None for a path of no plugin."""
    path = target.partition("?")[0]
    if path == ACTIVATE:
        return "Activate"
    method = path.removeprefix(DRIVER)
    return method if method != path and method.isascii() and method.isalpha() else None


def fields(body: bytes) -> Mapping[str, Any]:
    """The one JSON object of a body, its keys case-folded; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("The body is not JSON.") from error
    if not isinstance(value, dict):
        raise InvalidArgument("The body is not a JSON object.")
    return {key.casefold(): inner for key, inner in value.items()}


def init(values: Mapping[str, Any]) -> Init:
    """What Init asks for. The home is absolute; whether it may be used is not decided here."""
    home = _text(values, "home")
    if not home.startswith("/") or "\0" in home:
        raise InvalidArgument(f"{home!r} cannot be a home: it is no absolute path.")
    options = values.get("opts") or values.get("options") or []
    if not isinstance(options, list) or not all(isinstance(text, str) for text in options):
        raise InvalidArgument("Opts is not a list of texts.")
    maps = [_maps(values, name) for name in ("uidmaps", "gidmaps")]
    return Init(home, tuple(options), *maps)


def _maps(values: Mapping[str, Any], name: str) -> tuple[Mapping[str, int], ...]:
    found = values.get(name) or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InvalidArgument(f"{name} is not a list of ranges.")
    return tuple(found)


def create(values: Mapping[str, Any]) -> Create:
    options = values.get("storageopt") or {}
    if not isinstance(options, dict):
        raise InvalidArgument("StorageOpt is not an object of texts.")
    return Create(
        check_layer_id(_text(values, "id")),
        _parent(_text(values, "parent")),
        _text(values, "mountlabel"),
        options,
    )


def about(values: Mapping[str, Any]) -> About:
    return About(
        check_layer_id(_text(values, "id")),
        _parent(_text(values, "parent")),
        _text(values, "mountlabel"),
    )


def query(target: str) -> About:
    """What the query of an ApplyDiff says. Its values come as they are, not escaped."""
    values: dict[str, Any] = {}
    for pair in target.partition("?")[2].split("&"):
        name, _, text = pair.partition("=")
        if name.casefold() in values:
            raise InvalidArgument(f"The query has {name!r} twice.")
        values[name.casefold()] = text
    return about(values)


def _text(values: Mapping[str, Any], name: str) -> str:
    found = values.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidArgument(f"{name} is not a text.")
    return found


def _parent(text: str) -> LayerId | None:
    return check_layer_id(text) if text else None


# --- answers ----------------------------------------------------------------------------------


def encode(answer: Mapping[str, Any]) -> bytes:
    """An answer as dockerd reads it; a path that is not text keeps its bytes as they can be told."""
    return _ENCODER.encode(answer).encode("utf-8", "surrogateescape") + b"\n"


def failure(error: BaseException) -> dict[str, Any]:
    """The answer that says what went wrong, with the way out."""
    if isinstance(error, LayerstoreError):
        return {"Err": f"{error.message} {error.hint}".rstrip()}
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return {"Err": f"{where}{error.strerror}"}
    return {"Err": f"unexpected {type(error).__name__}: {error}"}


def changes(found: Iterable[Change]) -> dict[str, Any]:
    return {"Changes": [{"Path": c.path, "Kind": _KINDS[c.kind]} for c in found]}
