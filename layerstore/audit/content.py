"""Owns the findings about what layers hold: manifests against files; it must not change anything.

Everything that a manifest tells of is read. A layer that somebody mounts read-write, or removes,
meanwhile has no manifest any more when its files were looked at, and is not judged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from layerstore import model as m
from layerstore import rows
from layerstore.audit.census import names_in
from layerstore.audit.view import View, finding
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.fs import layout, mounttables

if TYPE_CHECKING:
    from layerstore.audit.census import Progress
    from layerstore.fs.manifest import Finding, Held
    from layerstore.reader import Reader

_NAMED: Final = 5
"""How many files a finding names."""
_STEP: Final = 256
"""Files between two words about how far it is."""
_CODES: Final = {
    "missing": ("content-missing", "gone", "gone"),
    "short": ("content-short", "shorter than it was", "shorter than they were"),
    "zeroed": ("content-zeroed", "nothing but zeros", "nothing but zeros"),
    "changed": ("content-changed", "not what it was", "not what they were"),
    "metadata": (
        "content-metadata",
        "other in mode, owner, time or xattrs",
        "other in mode, owner, time or xattrs",
    ),
    "extra": ("content-extra", "new", "new"),
    "unreadable": ("content-unreadable", "unreadable", "unreadable"),
}
"""The code of each kind of difference, and how it is said of one file and of several."""


def listed(view: View) -> Iterator[m.Finding]:
    """Without reading any content: manifests that no row tells of. A row without one is told by `check`."""
    known = {item.layer for item in _manifests(view.reader)}
    for name in names_in(f"{view.home}/{layout.MANIFESTS}"):
        if name not in known and not view.in_flight(name):
            path = f"{view.home}/{layout.manifest(name)}"
            said = f"{layout.manifest(name)} is no manifest that the index knows"
            yield finding("unrecorded-manifest", said, path=path)


def unasked(view: View, layer: str) -> m.Finding | None:
    """Of a layer with a mount in its content whose server would have to answer: that it is not read."""
    served = view.tree.served
    path = mounttables.at_or_below(served, layout.diff(layer))
    if path is None:
        return None
    said = f"what {layer} holds is not read: {path} is a mount of {served[path]}, whose server may never answer"
    return finding("content-unreadable", said, layer, f"{view.home}/{path}")


def check(
    view: View,
    reader: Reader,
    only: Iterable[str],
    progress: Progress | None,
    checked: dict[str, int],
) -> Iterator[m.Finding]:
    """Compare what layers hold with their manifests, each of `only`, or all. What was looked at is
    counted in `checked`.
    """
    wanted = frozenset(only)
    every = [item for item in _manifests(reader) if not wanted or item.layer in wanted]
    checked |= {"manifests": 0, "files": 0}
    files = _Counter(progress, sum(item.files for item in every))
    for item in every:
        if item.layer in view.tree.unreadable:
            continue  # that says another finding
        hanging = unasked(view, item.layer)
        if hanging is not None:
            yield hanging
            continue
        found = list(_compared(view.home, item, files))
        if reader.manifest_or_none(item.layer) != item:
            continue  # it was mounted read-write, or removed, while it was read
        checked["manifests"] += 1
        checked["files"] += item.files
        yield from found
    files.told()


class _Counter:
    """How many files were looked at."""

    def __init__(self, progress: Progress | None, of: int) -> None:
        self._progress = progress
        self._of = of
        self._done = 0

    def watch(self, held: Iterable[Held]) -> Iterator[Held]:
        for entry in held:
            self._done += 1
            if self._done % _STEP == 0:
                self.told()
            yield entry

    def told(self) -> None:
        if self._progress is not None:
            self._progress("files", min(self._done, self._of), self._of)


def _manifests(reader: Reader) -> list[m.Manifest]:
    found: list[m.Manifest] = []
    after = ""
    while page := reader.select(sql.SELECT_MANIFESTS, after=after, page=engine.PAGE):
        found += map(rows.manifest, page)
        after = page[-1][0]
    return found


def _compared(home: str, item: m.Manifest, files: _Counter) -> Iterator[m.Finding]:
    from layerstore.fs import manifest

    path = f"{home}/{layout.manifest(item.layer)}"
    try:
        kept = manifest.read(path, item.digest)
    except (OSError, ValueError) as error:
        yield _lost(item.layer, path, error)
        return
    content = f"{home}/{layout.diff(item.layer)}"
    try:
        now = files.watch(manifest.take(content, tolerate=True))
        different = list(manifest.compare(kept, now))
    except ValueError as error:
        yield _lost(item.layer, path, error)
        return
    except OSError as error:
        if not os.path.isdir(content):
            return  # that says another finding
        said = f"what {item.layer} holds cannot be read: {error}"
        yield finding("content-unreadable", said, item.layer, content)
        return
    yield from told(item.layer, content, different)


def _lost(layer: str, path: str, error: OSError | ValueError) -> m.Finding:
    why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    said = f"what {layer} held is recorded in {layout.manifest(layer)}: {why}"
    return finding("lost-manifest", said, layer, path)


def told(layer: str, content: str, different: Iterable[Finding]) -> Iterator[m.Finding]:
    """One finding for each kind of difference, however many files have it."""
    kinds: dict[str, list[Finding]] = {}
    for one in different:
        kinds.setdefault(one.kind.value, []).append(one)
    for kind, some in kinds.items():
        named = ", ".join(_name(one) for one in some[:_NAMED])
        dots = ", …" if len(some) > _NAMED else ""
        code, one_is, they_are = _CODES[kind]
        what = f"a file is {one_is}" if len(some) == 1 else f"{len(some)} files are {they_are}"
        said = f"{layer}: {what}: {named}{dots}"
        path = f"{content}/{some[0].path}"
        yield finding(code, said, layer, path)


def _name(one: Finding) -> str:
    text = one.path.encode("utf-8", "backslashreplace").decode()
    return f"{text} ({', '.join(one.what)})" if one.what else text
