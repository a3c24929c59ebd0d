"""Owns the floor of a request that does no work: threads, httptools, JSON in and out, and nothing else."""

from __future__ import annotations

import json
import socket
import sys
import threading

import httptools

ANSWER = b'{"Capabilities":{"ReproducesExactDiffs":false}}\n'


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._is_whole = False

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._is_whole = True

    def serve(self) -> None:
        while data := self._socket.recv(1 << 16):
            self._parser.feed_data(data)
            if self._is_whole:
                json.loads(b"".join(self._body))
                self._body.clear()
                self._is_whole = False
                self._socket.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
                )


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=Connection(sock).serve, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
