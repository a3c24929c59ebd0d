"""Owns one connection of HTTP/1.1: requests in, answers out, both also as streams; it must not know Docker.

httptools, the parser of Node.js, reads the requests. Whatever a client sends or does not send, a
connection takes bounded memory and ends: a head has a size and a time, a small body too, and a stream
has to move. Where the thread that is to answer hangs, another one can give up for it.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    import httptools

_HEAD: Final = 1 << 14
_CHUNK: Final = 1 << 18
LARGEST_HEAD: Final = 1 << 16
LARGEST_BODY: Final = 1 << 20
"""Of a request that is no stream."""

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@attrs.frozen
class Patience:
    """Seconds."""

    idle: float = 600.0
    """Between two requests."""
    request: float = 30.0
    """For a head and a small body together."""
    stall: float = 300.0
    """For a stream that does not move."""
    drain: float = 10.0
    """For what a client still sends when it has its answer."""


class BadRequest(Exception):
    """What cannot be answered but with an HTTP status, after which the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gone(ConnectionError):
    """The client closed the connection."""

    def __init__(self, message: str = "the client went away") -> None:
        super().__init__(message)
        self.strerror = message


class Connection:
    """One client, from its first byte to its last. Used by one thread, but for `give_up`."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        import select

        import httptools

        self._socket = sock
        sock.setblocking(True)  # the kernel keeps the time, without a call for each wait
        self._waits: dict[int, float] = {}
        self._hang_up = select.poll()
        self._hang_up.register(sock, 0)  # POLLHUP is told unasked
        self._patience = patience
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self._upgrade, self._garbage = httptools.HttpParserUpgrade, httptools.HttpParserError
        self._buffer = bytearray(_CHUNK)
        self._view = memoryview(self._buffer)
        self._pieces: collections.deque[bytes] = collections.deque()
        self._deadline = 0.0
        self._claim = threading.Lock()
        self._reset()
        self.closing = False
        """No further request is read."""

    def _reset(self) -> None:
        self.moved = time.monotonic()
        """When something was read or sent last."""
        self._is_answered = self._is_streaming = False
        self._method = self._target = b""
        self._began = self._has_head = self._is_whole = False
        self._expects = False
        self._size = 0
        self._pieces.clear()

    # --- what the parser calls ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._began:
            self.closing = True  # nobody who waits for answers sends a second request before
        self._began = True

    def on_url(self, url: bytes) -> None:
        if not self._has_head:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 6 and name.lower() == b"expect" and value.lower() == b"100-continue":
            self._expects = True

    def on_headers_complete(self) -> None:
        if not self._has_head:
            self._has_head = True
            self._method = self._parser.get_method()
            self.closing |= not self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if not self._is_whole:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._is_whole = True

    # --- reading --------------------------------------------------------------------------------

    def next(self) -> tuple[str, str] | None:
        """Method and target of the next request, when its head is there; None: there is none."""
        if self.closing:
            return None
        self._reset()
        self._wait(self._patience.idle)
        try:
            if not self._feed(_HEAD):
                return None
        except TimeoutError:
            return None
        self._deadline = time.monotonic() + self._patience.request
        while not self._has_head:
            if self._size >= LARGEST_HEAD:
                raise BadRequest(431, "The head is too large.")
            self._wait_until_deadline()
            if not self._feed(_HEAD):
                return None
        if self._expects and not self._is_whole:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return self._method.decode("ascii"), self._target.decode("ascii")
        except UnicodeDecodeError as error:
            raise BadRequest(400, "The target is not in ASCII.") from error

    def body(self) -> bytes:
        """The whole of a small body, within the time of the request."""
        while not self._is_whole:
            self._check_size()
            self._wait_until_deadline()
            if not self._feed(_CHUNK):
                raise Gone
        self._check_size()
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return whole

    def _check_size(self) -> None:
        if self._size > LARGEST_BODY and sum(map(len, self._pieces)) > LARGEST_BODY:
            raise BadRequest(413, "The body is too large.")

    def read(self, size: int, /) -> bytes:
        """Some bytes of the body, at most `size`; none at its end.

        Gone where the client broke it off, TimeoutError where nothing came for long.
        """
        while not self._pieces:
            if self._is_whole:
                return b""
            self._wait(self._patience.stall)
            try:
                if not self._feed(_CHUNK):
                    raise Gone("the client broke the stream off")
            except BadRequest as error:
                self.closing = True
                raise Gone(f"the stream is garbled: {error}") from error
        piece = self._pieces.popleft()
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
            piece = piece[:size]
        return piece

    def _wait_until_deadline(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise BadRequest(408, "The request took too long.")
        self._wait(left)

    def _wait(self, seconds: float, option: int = socket.SO_RCVTIMEO) -> None:
        """How long a call may wait from now on: TimeoutError afterwards."""
        if self._waits.get(option) != seconds:
            self._socket.setsockopt(socket.SOL_SOCKET, option, _timeval(seconds))
            self._waits[option] = seconds

    def _send(self, content: bytes) -> None:
        self._wait(self._patience.stall, socket.SO_SNDTIMEO)
        try:
            self._socket.sendall(content)
        except BlockingIOError as error:
            raise TimeoutError("the client does not read") from error

    def _feed(self, size: int) -> bool:
        """Give the parser what came; False at the end of the connection."""
        try:
            count = self._socket.recv_into(self._view, size)
        except BlockingIOError as error:
            raise TimeoutError("nothing came") from error
        if not count:
            return False
        self._size += count
        self.moved = time.monotonic()
        try:
            self._parser.feed_data(self._view[:count])
        except self._upgrade as error:
            raise BadRequest(400, "There is nothing to upgrade to.") from error
        except self._garbage as error:
            raise BadRequest(400, f"This is not HTTP: {error}") from error
        return True

    def is_abandoned(self) -> bool:
        """Whether the client closed its end altogether, so that nobody hears an answer.

        One that only has no more to send still reads.
        """
        return bool(self._hang_up.poll(0))

    # --- answering --------------------------------------------------------------------------------

    def answer(self, status: int, content: bytes, content_type: str) -> bool:
        """Send a whole answer; False: `give_up` was before. What is left of the request's body ends
        the connection.
        """
        if not self._claimed():
            return False
        self.closing |= not self._is_whole
        head = self._head(status, content_type, f"Content-Length: {len(content)}")
        self._send(head + content)
        return True

    def _claimed(self, *, streaming: bool = False) -> bool:
        with self._claim:
            is_first, self._is_answered = not self._is_answered, True
            self._is_streaming = streaming and is_first
        return is_first

    def give_up(self, status: int, content: bytes, content_type: str) -> bool:
        """Answer instead of the thread whose connection this is, from another one, and end it.

        Waits for nobody. A stream only ends, without its last piece. False: there is an answer.
        """
        with self._claim:
            if self._is_answered and not self._is_streaming:
                return False
            is_first, self._is_answered = not self._is_answered, True
            self.closing = True
            with contextlib.suppress(OSError):
                if is_first:  # nothing was sent before, so that there is room
                    head = self._head(status, content_type, f"Content-Length: {len(content)}")
                    self._socket.send(head + content, socket.MSG_DONTWAIT)
                self._socket.shutdown(socket.SHUT_RDWR)
        return True

    def stream(self, pieces: Iterable[bytes], content_type: str) -> None:
        """Send an answer in chunks. An error on the way ends the connection without the last one."""
        if not self._claimed(streaming=True):
            raise Gone("it was given up")
        self.closing |= not self._is_whole
        try:
            self._send(self._head(200, content_type, "Transfer-Encoding: chunked"))
            for piece in pieces:
                if piece:
                    self._send(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.moved = time.monotonic()
            self._send(b"0\r\n\r\n")
        except BaseException:
            self.closing = True
            raise

    def _head(self, status: int, content_type: str, length: str) -> bytes:
        connection = "close" if self.closing else "keep-alive"
        return (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
            f"{length}\r\nConnection: {connection}\r\n\r\n"
        ).encode()

    def close(self) -> None:
        """Close it; a client that is still sending gets the time to read its answer.

        A unix socket that is closed with something unread in it takes the answer away.
        """
        try:
            if not self._is_whole and self._has_head:
                self._drain()
        finally:
            with self._claim:  # whoever gives up must not meet another file with this number
                self._socket.close()

    def _drain(self) -> None:
        deadline = time.monotonic() + self._patience.drain
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._wait(left)
                if not self._socket.recv_into(self._buffer):
                    break


def _timeval(seconds: float) -> bytes:
    """struct timeval; no time at all would be for ever."""
    import struct

    whole, part = divmod(max(int(seconds * 1_000_000), 1), 1_000_000)
    return struct.pack("@ll", whole, part)


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end of a unix socket, when it connected."""
    import struct

    form = struct.Struct("3i")
    found: Any = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    pid, uid, gid = form.unpack(found)
    return pid, uid, gid
