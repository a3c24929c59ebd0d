"""Owns the rows about manifests: recording what a layer holds, and reading it all again in an audit,
against sha256sum of the same files; it must not print.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from measure import Clock, Row

from layerstore import Store
from layerstore.audit import audit
from layerstore.fs import layout, manifest

if TYPE_CHECKING:
    from archives import Load


class Ours:
    """Library calls on the layer `base` of the load's store."""

    def __init__(self, load: Load, *, again: bool) -> None:
        """`again`: what was recorded is compared, instead of being recorded."""
        self.load = load
        self._again = again
        self._store = Store.open(load.home)
        self._store.record_manifest("base")

    def read(self, clock: Clock) -> None:
        if not self._again:
            self._store.drop_manifest("base")
        with clock:
            if self._again:
                assert audit(self.load.home, content=True, only=["base"]).clean
            else:
                self._store.record_manifest("base")

    def sums(self) -> object:
        found = self._store.manifest("base")
        assert found is not None
        entries = manifest.read(str(self.load.home / layout.manifest("base")), found.digest)
        return sorted((entry.sha256, entry.path) for entry in entries if entry.sha256)

    def close(self) -> None:
        self._store.close()


class Sums:
    """sha256sum, of all files in as few calls as their names need."""

    def __init__(self, load: Load) -> None:
        self._content = load.home / "base" / "diff"

    def _run(self) -> str:
        command = "find . -type f -print0 | xargs -0 sha256sum"
        return subprocess.run(
            command, shell=True, cwd=self._content, check=True, capture_output=True, text=True
        ).stdout

    def read(self, clock: Clock) -> None:
        with clock:
            self._run()

    def sums(self) -> object:
        lines = (line.split("  ./") for line in self._run().splitlines())
        return sorted((digest, path) for digest, path in lines)

    def close(self) -> None:
        """Nothing is open."""


def _read(subject: Ours | Sums, clock: Clock, count: int) -> None:
    for _ in range(count):
        subject.read(clock)


def rows(words: str, lazy: Callable[[], Load]) -> Iterator[Row]:
    for again in (False, True):
        what = "audit of the content" if again else "record a manifest"
        yield Row(
            f"{what}, {words}; sha256sum",
            lambda again=again: Ours(lazy(), again=again),
            lambda: Sums(lazy()),
            _read,
            lambda subject: subject.sums(),
            turns=1,
        )
