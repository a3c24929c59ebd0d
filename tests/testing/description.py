"""One description for every kind of tree: every kind of file, and everything that a crash leaves."""

from __future__ import annotations

from typing import Any

from layerstore.testing import REMOVED, Container, Directory, File, Image, Layer, State, Symlink

LAYERS = (
    Layer(
        "base",
        files={
            "etc/os": "old",
            "bin/sh": File(b"\x7fELF" * 999, mode=0o4755),
            "bin/ls": Symlink("sh"),
            "srv/gone": "1",
        },
    ),
    Layer(
        "app",
        parent="base",
        files={"etc/os": "new", "srv/gone": REMOVED, "var": Directory(mode=0o1777)},
    ),
    Layer("top", parent="app", files={"bin": Directory(opaque=True), "bin/only": "x"}),
    Layer("other", files={"other": File("y", owner=(7, 8))}),
)
IMAGES = (Image("app:1", "app"), Image("top", "top"), Image("other:2", "other"))
CONTAINERS = (
    Container("web", "app:1", {"tmp/x": "1"}),
    Container("idle", "top", running=True),
)
ORPHAN = Layer("orphan", parent="app", files={"o": "1"}, state=State.ORPHAN)
CONDEMNED = Layer("condemned", parent="app", files={"c": "1"}, state=State.CONDEMNED)
UNFINISHED = Layer("unfinished", parent="app", files={"u": "1"}, state=State.UNFINISHED)
KIT = Layer("kit", parent="base", files={"k": "1"}, by_buildkit=True)
CACHE = Layer("cache", parent="kit", files={"k2": "1"}, state=State.CACHE)
WHOLE: dict[str, Any] = {"layers": LAYERS, "images": IMAGES, "containers": CONTAINERS}
LEFT_BY_DOCKER = (*LAYERS, ORPHAN, CONDEMNED, UNFINISHED, KIT, CACHE)
LEFT_BY_PODMAN = (*LAYERS, ORPHAN, CONDEMNED)
KIT_ON_SHELL = Layer("kit", parent="shell", files={"k": "1"}, by_buildkit=True)
CACHE_ON_KIT = Layer("cache", parent="kit", files={"k2": "1"}, state=State.CACHE)
