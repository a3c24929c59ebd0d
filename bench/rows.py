"""Owns the list of the rows, in the order of the table, and the stores that they work in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import archives
import audits
import cases
import dockers
import growth
import reboots
from cases import Lazy
from measure import Row
from place import Place
from stores import Twins, build, deep, keep, kept, wide

_BIG = "s100000"


class Rows:
    """Every row. Stores are built when the first row needs them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._big: Twins | None = None
        self.twins: dict[str, Lazy] = {
            size: functools.cache(functools.partial(build, place.path, f"s{count}", wide(count)))
            for size, count in (("10", 10), ("1,000", 1_000))
        }
        if place.big:
            self.twins["100,000"] = self._keeper

    def _keeper(self) -> Twins:
        if self._big is None:
            self._big = kept(self._place.big, _BIG, wide(100_000))
        return self._big

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """After rows that ended well, say that the large store can be used again."""
        yield
        if self._big is not None:
            keep(self._place.big, _BIG)

    def all(self) -> Iterator[Row]:
        chain: Lazy = functools.cache(functools.partial(build, self._place.path, "deep", deep()))
        for size, lazy in self.twins.items():
            yield from cases.create_rows(lazy, size)
        yield from growth.threads_rows(self.twins["10"])
        yield from cases.mount_rows(chain)
        yield from cases.question_rows(chain)
        for size, lazy in self.twins.items():
            yield from cases.open_rows(lazy, size)
        middle: Lazy = functools.cache(
            functools.partial(build, self._place.path, "s10000", wide(10_000))
        )
        yield from audits.rows(middle, "10,000")
        yield from reboots.open_rows(middle, "10,000")
        yield from reboots.mount_rows(self._place.path)
        *_, (largest, lazy) = self.twins.items()
        if largest == "100,000":
            yield from audits.rows(lazy, largest)
            yield from reboots.open_rows(lazy, largest)
        yield from growth.rows(lazy, largest, self.twins["10"])
        yield from archives.rows(self._place)
        yield from dockers.rows(self._place)
        yield from cases.process_rows(self.twins["10"])
