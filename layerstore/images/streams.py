"""Owns the bytes of one layer on their way into a store: digests and sizes are checked, and they are
read ahead; it must not know what they unpack to.

A thread reads, verifies the blob, and decompresses. The last bytes are given out only when the digest is
right: an apply that reads them is undone by the error instead. The DiffID is for whoever unpacks.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import Final

from layerstore.errors import InvalidImage
from layerstore.fs.archive import Limits
from layerstore.fs.archive.source import CHUNK, Source
from layerstore.images.files import File
from layerstore.images.model import Part

_AHEAD: Final = 64
"""Pieces of at most 256 KiB that wait for whoever unpacks them."""
_MOMENT: Final = 0.1
"""Seconds between two looks whether anybody still wants them."""


class Blob:
    """A layer's blob as it lies in the archive; `digested`: verified when its end is read."""

    def __init__(self, file: File, part: Part, *, digested: bool = True) -> None:
        self._file = file
        self._part = part
        self._hash = None
        if part.digest is not None and digested:
            self._hash = hashlib.new(part.digest.partition(":")[0])

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        if self._hash is not None:
            self._hash.update(data)
        if not data:
            self._check()
        return data

    def _check(self) -> None:
        path, digest = self._part.path, self._part.digest
        if self._file.at != self._file.size:
            raise InvalidImage(f"{path} became shorter while it was read.")
        if self._hash is not None and digest != f"{self._hash.name}:{self._hash.hexdigest()}":
            raise InvalidImage(f"{path} is not what its digest says: it was damaged or replaced.")


def check(file: File, part: Part) -> None:
    """Read a blob for its digest alone. Raises InvalidImage."""
    blob = Blob(file, part)
    while blob.read(CHUNK):
        pass


class LayerStream:
    """The uncompressed tar of a layer, to be read once; close it whatever happens."""

    def __init__(self, file: File, part: Part, limits: Limits) -> None:
        self._file = file
        self._part = part
        self._limits = limits
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._rest = b""
        self._ended = self._touched = False
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="layerstore-layer", daemon=True)
        self._thread.start()

    @property
    def done(self) -> int:
        """Bytes of the archive that were read."""
        return self._file.at

    @property
    def size(self) -> int:
        return self._file.size

    @property
    def touched(self) -> bool:
        """Whether something of it was given out: it cannot be read again."""
        return self._touched

    def read(self, size: int, /) -> bytes:
        """The next bytes; InvalidImage instead of the last ones where the digest is wrong."""
        self._touched = True
        if not self._rest and not self._ended:
            found = self._queue.get()
            if isinstance(found, BaseException):
                self._ended = True
                raise found
            self._rest, self._ended = found, not found
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def close(self) -> None:
        self._unwanted.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        try:
            # What is not compressed has its DiffID for its digest: once is enough.
            once = self._part.digest == self._part.diff_id
            blob = Blob(self._file, self._part, digested=not once)
            with Source(blob, self._limits, digested=False) as source:
                last = source.chunk()
                while chunk := source.chunk():
                    if not self._give(last):
                        return
                    last = chunk
            if last:
                self._give(last)
            self._give(b"")
        except BaseException as error:  # noqa: BLE001 - whoever reads gets it
            self._give(error)

    def _give(self, what: bytes | BaseException) -> bool:
        """Have it wait in the queue; False if nobody wants any more."""
        while not self._unwanted.is_set():
            try:
                self._queue.put(what, timeout=_MOMENT)
            except queue.Full:
                continue
            return True
        return False
