"""Owns telling whose tree lies at a path, by what is in it; it must not read the records, nor write.

Docker's data root has `image/<driver>/layerdb` beside `<driver>/`, containers/storage's graph root
`<driver>-layers/` beside `<driver>/`. A path to the layers themselves is taken for its root. Docker's old
driver `overlay` kept `root`, or `upper` and `lower-id`, in each layer: another layout.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import Final

import attrs

from layerstore.errors import InvalidArgument, NoStore, Refused
from layerstore.fs import layout
from layerstore.legacy import quietly

DOCKER: Final = "docker"
CONTAINERS_STORAGE: Final = "containers-storage"
OVERLAY: Final = "overlay"
"""Docker's old driver."""
LAYERSTORE: Final = "layerstore"
OTHER: Final = "other"
"""A tree of Docker's or containers/storage's in a layout that has no overlays."""
KINDS: Final = (DOCKER, CONTAINERS_STORAGE, OVERLAY)
"""What can be asked for by name."""

_REMAPPED: Final = re.compile(r"[0-9]+\.[0-9]+")
_OTHERS: Final = ("aufs", "btrfs", "devicemapper", "fuse-overlayfs", "vfs", "zfs")
_COMPOSEFS: Final = ("composefs-data", "composefs-layers")


@attrs.frozen
class Found:
    """What lies at a path. `home` are the layers, `root` what the records lie in."""

    kind: str
    root: str
    home: str
    driver: str
    refusal: str = ""
    """Why it cannot be read into a manifest; empty where it can."""


def detect(path: str, *, kind: str | None = None, driver: str | None = None) -> Found:
    """What lies at a path: a data root, a graph root, or the directory of layers in one.

    `kind`, `driver`: what it has to be, where it could be several. Raises NoStore where it is
    nothing known, Refused where it is not clear which of several is meant.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidArgument(
            f"{kind!r} is no kind of tree.", hint=f"Known are {', '.join(KINDS)}."
        )
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise NoStore(f"There is no directory {path}.", hint="Is the path right?")
    candidates = [found for look in _LOOKS for found in look(real)]
    above, name = os.path.split(real)
    if not candidates:  # it may be the layers themselves
        inner = [found for look in _LOOKS for found in look(above)]
        candidates = [found for found in inner if os.path.basename(found.home) == name]
    fitting = [
        found
        for found in candidates
        if kind in (None, found.kind) and driver in (None, found.driver)
    ]
    if not fitting:
        raise _nothing(real, candidates)
    if len(fitting) > 1:
        several = ", ".join(f"{found.kind} with the driver {found.driver}" for found in fitting)
        raise Refused(
            f"{real} has several trees: {several}.", hint="--kind and --driver choose one."
        )
    return fitting[0]


def require_readable(found: Found) -> None:
    """Refused, with the reason, for what cannot be read into a manifest."""
    if found.refusal:
        raise Refused(
            f"{found.home} cannot be taken over: {found.refusal}.", hint=_HINTS[found.kind]
        )


_HINTS: Final = {
    DOCKER: "",
    CONTAINERS_STORAGE: "'layerstore audit' looks at its layers all the same.",
    OVERLAY: "Docker itself moves to overlay2 only by saving images and loading them again.",
    LAYERSTORE: "'layerstore --home DIR status' shows it; 'layerstore db upgrade' brings an older one up to date.",
    OTHER: "Only trees of the overlay2 layout can be.",
}


def _nothing(path: str, candidates: list[Found]) -> NoStore:
    if candidates:
        there = ", ".join(f"{found.kind} ({found.driver})" for found in candidates)
        return NoStore(f"{path} has no such tree.", hint=f"It has: {there}.")
    remapped = [name for name in quietly.listed(path) if _REMAPPED.fullmatch(name)]
    if remapped:
        return NoStore(
            f"{path} has no layers itself.",
            hint=f"With userns-remap they are below it: {', '.join(f'{path}/{name}' for name in remapped)}.",
        )
    return NoStore(
        f"{path} is no data root of Docker's and no graph root of podman's.",
        hint="Docker's is /var/lib/docker, podman's /var/lib/containers/storage. "
        "'layerstore audit PATH' looks at any overlay2 tree.",
    )


# --- one kind each --------------------------------------------------------------------------------


def _docker(root: str) -> list[Found]:
    found = []
    for driver in quietly.listed(f"{root}/image"):
        home = f"{root}/{driver}"
        if not os.path.isdir(f"{root}/image/{driver}/layerdb") or not os.path.isdir(home):
            continue
        if driver in _OTHERS:
            said = f"it is of Docker's driver {driver}, which has no overlays"
            found.append(Found(OTHER, root, home, driver, said))
        elif _is_old_overlay(home):
            found.append(_old_overlay(root, home))
        else:
            found.append(Found(DOCKER, root, home, driver))
    return found


def _containers_storage(root: str) -> list[Found]:
    found = []
    for name in quietly.listed(root):
        driver = name.removesuffix("-layers")
        home = f"{root}/{driver}"
        if driver == name or not os.path.isdir(f"{root}/{name}") or not os.path.isdir(home):
            continue
        if driver != "overlay":
            said = f"it is of the driver {driver}, which has no overlays"
            found.append(Found(OTHER, root, home, driver, said))
        else:
            said = _unusual(home)
            found.append(Found(CONTAINERS_STORAGE, root, home, driver, said))
    return found


def _unusual(home: str) -> str:
    """What of containers/storage's forms has no place in a tree of overlays on plain directories."""
    try:
        program = quietly.word(f"{home}/.has-mount-program")
    except quietly.Unreadable:
        program = ""
    if program == "true":
        return "its layers are mounted by a program (fuse-overlayfs), with marks of its own"
    for layer in quietly.listed(home):
        for name in _COMPOSEFS:
            if os.path.lexists(f"{home}/{layer}/{name}"):
                return f"{layer} has {name}: composefs keeps its files elsewhere, and by digests"
        if os.path.lexists(f"{home}/{layer}/additionallayer") or _is_link(f"{home}/{layer}/diff"):
            return f"the files of {layer} lie in an additional layer store, outside of this tree"
    return ""


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def _overlay(root: str) -> list[Found]:
    """The old driver where nothing of the records is left."""
    home = f"{root}/overlay"
    known = os.path.isdir(f"{root}/image/overlay/layerdb") or os.path.isdir(
        f"{root}/overlay-layers"
    )
    return [_old_overlay(root, home)] if not known and _is_old_overlay(home) else []


def _is_old_overlay(home: str) -> bool:
    """Whether layers have `root`, or `upper` with `lower-id`, and none has a `link`."""
    old = False
    for name in quietly.listed(home):
        path = f"{home}/{name}"
        if os.path.lexists(f"{path}/{layout.LINK}"):
            return False
        old = old or os.path.isdir(f"{path}/root") or os.path.lexists(f"{path}/lower-id")
    return old


def _old_overlay(root: str, home: str) -> Found:
    said = (
        "it is of Docker's old driver 'overlay', which has one lower directory and another layout"
    )
    return Found(OVERLAY, root, home, OVERLAY, said)


def _layerstore(root: str) -> list[Found]:
    if not os.path.isfile(f"{root}/{layout.STORE_FILE}"):
        return []
    above, name = os.path.split(root)
    if os.path.isdir(f"{above}/image/{name}/layerdb"):
        return []  # a dockerd's, whose driver this store is, or one that was adopted
    return [Found(LAYERSTORE, root, root, LAYERSTORE, "it is a layerstore itself")]


_LOOKS: Final[tuple[Callable[[str], list[Found]], ...]] = (
    _docker,
    _containers_storage,
    _overlay,
    _layerstore,
)
