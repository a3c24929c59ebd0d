"""Owns the bytes of an archive: compression, digest, counts and ratio; of tar it knows how one begins.

The digest is computed by a thread, which hashlib lets run beside this one: it releases the
interpreter for buffers of this size. Reading stays with the caller, whom an interruption reaches.
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Protocol, Self

from layerstore.fs.archive.member import BLOCK, Limits, bad, beyond

CHUNK: Final = 1 << 18
"""Bytes per read."""
_AHEAD: Final = 32
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_OTHERS: Final = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x04\x22\x4d\x18": "lz4"}


def _is_header(block: bytes) -> bool:
    """Whether an archive begins here that is not compressed, whatever its first name begins with."""
    try:
        stored = int(block[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    return len(block) == BLOCK and stored == sum(block[:148] + b" " * 8 + block[156:])


class Readable(Protocol):
    """What an archive is read from: a binary file, a pipe, the body of a request."""

    def read(self, size: int, /) -> bytes: ...


class Digest:
    """A sha256 that is computed beside the work."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, name="layerstore-sha256", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)

    def update(self, chunk: bytes) -> None:
        self._queue.put(chunk)

    def end(self) -> str:
        """The digest as `sha256:<hex>`; the thread is gone then."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        return f"sha256:{self._hash.hexdigest()}"


class Source:
    """The uncompressed stream, in chunks, with what is counted on the way; `digested`: its digest, too."""

    def __init__(self, stream: Readable, limits: Limits, *, digested: bool = True) -> None:
        self._stream = stream
        self._limits = limits
        self.bytes = 0
        self.compressed_bytes = 0
        self._digest = Digest() if digested else None
        self._chunks = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._digest is not None:
            self._digest.end()

    def digest(self) -> str:
        """The sha256 of all that was given out; nothing more can be read."""
        if self._digest is None:
            raise ValueError("this source has no digest")
        return self._digest.end()

    def chunk(self) -> bytes:
        """The next bytes of the stream; empty at its end."""
        chunk = next(self._chunks, b"")
        if chunk:
            self.bytes += len(chunk)
            if self._digest is not None:
                self._digest.update(chunk)
        return chunk

    def _read(self) -> bytes:
        raw = self._stream.read(CHUNK)
        self.compressed_bytes += len(raw)
        return raw

    def _open(self) -> Iterator[bytes]:
        head = b""
        while len(head) < BLOCK and (more := self._read()):
            head += more
        plain = _is_header(head[:BLOCK])
        for magic, name in _OTHERS.items():
            if head.startswith(magic) and not plain:
                raise bad(None, f"it is compressed with {name}; gzip and zstd are known")
        if plain:
            yield from self._rest(head)
        elif head.startswith(_GZIP):
            yield from self._bounded(self._gunzip(head))
        elif head.startswith(_ZSTD) or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
            yield from self._bounded(self._unzstd(head))
        else:
            yield from self._rest(head)

    def _rest(self, head: bytes) -> Iterator[bytes]:
        """What is not compressed, as it comes."""
        yield from (head[at : at + CHUNK] for at in range(0, len(head), CHUNK))
        while raw := self._read():
            yield raw

    def _bounded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Refuse to go on where a few bytes become too many."""
        limit = self._limits.ratio
        for chunk in chunks:
            if limit and self.bytes > max(self._limits.ratio_from, limit * self.compressed_bytes):
                why = f"it grows to more than {limit} times its compressed size"
                raise beyond("ratio", None, why)
            if chunk:
                yield chunk

    def _gunzip(self, raw: bytes) -> Iterator[bytes]:
        """Each gzip member in turn; zeros may follow the last one, as gzip(1) has it."""
        zlib = _zlib()
        while raw:
            member = zlib.decompressobj(31)
            try:
                while not member.eof:
                    if not raw and not (raw := self._read()):
                        raise bad(None, "its gzip stream is cut off")
                    yield member.decompress(raw, CHUNK)
                    raw = member.unconsumed_tail
            except zlib.error as error:
                raise bad(None, f"its gzip stream is damaged: {error}") from error
            raw = member.unused_data or self._read()
            while raw and not raw.strip(b"\0"):
                raw = self._read()

    def _unzstd(self, raw: bytes) -> Iterator[bytes]:
        """Each zstd frame in turn; none may be cut off."""
        library = zstd()
        largest = {library.DecompressionParameter.window_log_max: 27}
        while raw:
            frame = library.ZstdDecompressor(options=largest)
            try:
                while not frame.eof:
                    if frame.needs_input and not raw and not (raw := self._read()):
                        raise bad(None, "its zstd stream is cut off")
                    chunk = frame.decompress(raw, CHUNK)
                    raw = b""
                    yield chunk
            except library.ZstdError as error:
                raise bad(None, f"its zstd stream is damaged: {error}") from error
            raw = frame.unused_data or self._read()


def _zlib() -> Any:
    """ISA-L inflates 2.1 times as fast as zlib here; it is not made for every machine."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def zstd() -> Any:
    """The zstd module of Python 3.14, or its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd as library
    else:
        from backports import zstd as library
    return library
