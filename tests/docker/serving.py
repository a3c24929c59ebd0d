"""Runs the server as a process of its own, and talks to it as dockerd does."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socket import socket as Socket
from typing import IO, Any

import attrs

from tests.cli.running import PROGRAM, environment


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


@attrs.define
class Client:
    """One connection, kept open."""

    path: Path
    _connection: UnixConnection | None = None

    def get(self, target: str) -> tuple[int, str]:
        """Status and text of a GET."""
        status, content = self.raw(target, method="GET")
        return status, content.decode()

    def raw(self, target: str, body: Any = b"", method: str = "POST") -> tuple[int, bytes]:
        """Status and content of the answer."""
        if self._connection is None:
            self._connection = UnixConnection(self.path)
        self._connection.request(method, target, body, encode_chunked=not _has_length(body))
        response = self._connection.getresponse()
        return response.status, response.read()

    def __call__(self, method: str, **values: Any) -> Any:
        """The answer to a request whose body is JSON."""
        service = "Plugin" if method == "Activate" else "GraphDriver"
        body = json.dumps(values).encode() + b"\n" if method != "Activate" else b""
        status, content = self.raw(f"/{service}.{method}", body)
        assert status == 200, content
        return json.loads(content)

    def ok(self, method: str, **values: Any) -> Any:
        """The same where no error is expected."""
        answer = self(method, **values)
        assert not answer.get("Err"), answer
        return answer

    def err(self, method: str, **values: Any) -> str:
        """What the error says, where one is expected."""
        found = self(method, **values).get("Err")
        assert found
        return str(found)

    def apply(self, layer: str, parent: str, pieces: Iterable[bytes]) -> Any:
        """ApplyDiff with a chunked body."""
        target = f"/GraphDriver.ApplyDiff?id={layer}&parent={parent}"
        status, content = self.raw(target, iter(pieces))
        assert status == 200, content
        return json.loads(content)

    def diff(self, layer: str, parent: str = "") -> bytes:
        body = json.dumps({"ID": layer, "Parent": parent}).encode()
        status, content = self.raw("/GraphDriver.Diff", body)
        assert status == 200, content
        return content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _has_length(body: Any) -> bool:
    return isinstance(body, bytes)


def tar_of(files: dict[str, bytes]) -> bytes:
    """An archive with these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


ACTIVATED = """\
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Hands a listening socket to a program, as systemd does."""


@attrs.define
class Served:
    """A server on a socket, which can be killed and started again."""

    socket: Path
    root: Path
    log: Path
    variables: dict[str, str] = attrs.Factory(dict)
    words: tuple[str, ...] = ()
    """Further words of the command."""
    logs_requests: bool = True
    is_default: bool = False
    """The socket is where the server listens unasked."""
    listener: Socket | None = None
    """One that systemd would hold: who connects while no server runs waits."""
    process: subprocess.Popen[bytes] | None = None
    _clients: list[Client] = attrs.Factory(list)
    _out: IO[bytes] | None = None

    def activate(self) -> None:
        """Hold the socket, as systemd does for a server that it starts."""
        self.socket.parent.mkdir(exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(self.socket))
        self.listener.listen(128)

    @property
    def home(self) -> Path:
        return self.root / "layers"

    def start(self, failpoint: str = "") -> None:
        """Returns when the socket accepts. `failpoint`: where it kills itself."""
        if self._out is None:
            self._out = self.log.open("ab")
        program = [*PROGRAM, "-v"] if self.logs_requests else list(PROGRAM)
        words = [*program, "serve", "docker", "--root", str(self.root), *self.words]
        if self.listener is None:
            words += [] if self.is_default else ["--socket", str(self.socket)]
        else:
            words = [PROGRAM[0], "-c", ACTIVATED, str(self.listener.fileno()), *words]
        self.process = subprocess.Popen(
            words,
            env=environment(
                **{"LAYERSTORE_DURABILITY": "process", "LAYERSTORE_FAILPOINT": failpoint}
                | self.variables
            ),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._out,
            pass_fds=() if self.listener is None else (self.listener.fileno(),),
        )
        deadline = time.monotonic() + 60
        while not self.accepts():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def accepts(self) -> bool:
        """Whether somebody listens there."""
        with socket.socket(socket.AF_UNIX) as trial:
            try:
                trial.connect(os.fspath(self.socket))
            except OSError:
                return False
        return True

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code."""
        assert self.process is not None
        self._hang_up()
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process = None

    def client(self) -> Client:
        made = Client(self.socket)
        self._clients.append(made)
        return made

    def _hang_up(self) -> None:
        for client in self._clients:
            client.close()

    def close(self) -> None:
        self._hang_up()
        if self.process is not None:
            self.end(signal.SIGKILL)
        if self.listener is not None:
            self.listener.close()
        if self._out is not None:
            self._out.close()


@contextlib.contextmanager
def serving(bare: Path, **variables: str) -> Iterator[Served]:
    """A server whose homes may lie in `bare`."""
    served = Served(bare / "run" / "test.sock", bare, bare / "server.log", variables)
    try:
        served.start()
        yield served
    finally:
        served.close()


def in_threads(count: int, action: Any) -> None:
    """Call action(0), action(1), … at once, each in a thread of its own; raise the first error."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            action(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def wait_for(there: Callable[[], bool]) -> None:
    """Until it is so; a minute at most."""
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
