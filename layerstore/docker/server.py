"""Owns the threads of a server: one for each connection; it must not know what a request means.

The main thread accepts, and answers for a thread that hangs. A signal raises there; what is being
answered then is answered, and what is idle is closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from layerstore.docker import http, protocol
from layerstore.docker.service import (
    METHODS,
    SILENT,
    STREAMS,
    WITHOUT_BODY,
    WITHOUT_EFFECT,
    Service,
)
from layerstore.docker.sockets import Listener
from layerstore.docker.watch import ANSWER_WITHIN, Request, Watch
from layerstore.errors import Busy, LayerstoreError, OwnerLost, WritesRefused
from layerstore.fs import trace

log = logging.getLogger("layerstore.docker")

MOST_CONNECTIONS: Final = 1024
_FATAL: Final = (WritesRefused, OwnerLost)
"""After one of these only a store that is opened anew can go on: the service manager restarts it."""


class Failed(LayerstoreError):
    """The server has to be started again."""


def raise_limits() -> tuple[int, int]:
    """Allow as many descriptors as the hard limit does; the limits before and now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


@attrs.define(eq=False)
class _Client:
    """One connection, as the main thread sees it."""

    sock: socket.socket
    service: Service
    pid: int
    once: bool
    """One request for each connection: see `_accept`."""
    busy: bool = False


class Server:
    """Sockets, each with its service, and the threads that answer there."""

    def __init__(
        self,
        served: Mapping[str, tuple[Listener, Service]],
        *,
        patience: http.Patience,
        users: frozenset[int],
        watch: Watch | None = None,
        observe: Callable[[str, str, float], None] = lambda _method, _outcome, _seconds: None,
    ) -> None:
        """`served`: by path. `users`: whose processes may talk to it. `observe` hears of each answer:
        the method, `ok` or what went wrong, and seconds.
        """
        self._observe = observe
        self._watch = watch or Watch(ANSWER_WITHIN, streams_within=patience.stall)
        self._served = served
        self._patience = patience
        self._users = users
        self._clients: set[_Client] = set()
        self._changed = threading.Condition()
        self._ending = False
        self._fatal: BaseException | None = None
        self._wake_read, self._wake_write = socket.socketpair()

    # --- the main thread ----------------------------------------------------------------------

    def run(self, *, tend: Callable[[], None] = lambda: None, every: float | None = None) -> None:
        """Accept until an exception ends it, or an error after which no request can succeed.

        `tend` is called at least each `every` seconds.
        """
        every = min(every or self._watch.every, self._watch.every)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ, None)
            for listener, service in self._served.values():
                listener.sock.setblocking(False)
                selector.register(listener.sock, selectors.EVENT_READ, (listener, service))
            while self._fatal is None:
                for key, _ in selector.select(every):
                    if key.data is None:
                        self._wake_read.recv(64)
                    else:
                        self._accept(*key.data)
                self._watch.look(give_up=self._give_up, keep=self._keep)
                tend()
        raise Failed(
            f"The server cannot go on: {self._fatal}",
            hint="Started again, it opens the store anew.",
        ) from self._fatal

    def _accept(self, listener: Listener, service: Service) -> None:
        try:
            sock, _ = listener.sock.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors, or no memory: those who wait go on waiting
            log.error("not-accepted socket=%r error=%r", listener.path, str(error))
            time.sleep(0.05)
            return
        pid, uid, _ = http.peer(sock)
        with self._changed:
            too_many = len(self._clients) >= MOST_CONNECTIONS
        if uid not in self._users or too_many:
            log.warning("refused pid=%d uid=%d too_many=%s", pid, uid, too_many)
            sock.close()
            return
        # What is sent to a connection of a process that dies is lost. A socket that systemd holds keeps
        # who connects meanwhile for the next server, so there nobody sends on an old connection.
        client = _Client(sock, service, pid, once=listener.is_passed)
        with self._changed:
            self._clients.add(client)
        thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            log.error("not-accepted pid=%d error=%r", pid, str(error))
            self._forget(client)
            sock.close()

    def _give_up(self, request: Request) -> None:
        spent = time.monotonic() - request.began
        error = Busy(
            f"{request.method} was not done within {spent:.0f} s, and is given up.",
            hint="It may hang over a disk or a mount; `layerstore status` names what is in flight.",
        )
        status = 500 if request.method == "Diff" else 200
        content = protocol.encode(protocol.failure(error))
        if request.connection.give_up(status, content, protocol.CONTENT_TYPE):
            log.error("overdue method=%s ms=%.1f", request.method, 1000 * spent)
            self._observe(request.method, "overdue", spent)
        if request.note is not None:  # it has its answer
            request.service.pending.settle(request.note)

    def _keep(self, request: Request) -> None:
        request.service.pending.keep(request.note)

    def end(self, *, within: float) -> None:
        """Accept no more, let what is being answered be answered, and close the stores."""
        for listener, _ in self._served.values():
            listener.close()
        deadline = time.monotonic() + within
        with self._changed:
            self._ending = True
            for client in self._clients:
                if not client.busy:
                    _shut(client.sock)
            while any(client.busy for client in self._clients):
                if not self._changed.wait(deadline - time.monotonic()):
                    log.warning("ending requests_left=%d", sum(c.busy for c in self._clients))
                    break
        for _, service in self._served.values():
            service.close()
        self._wake_read.close()
        self._wake_write.close()

    # --- a thread of one connection -------------------------------------------------------------

    def _serve(self, client: _Client) -> None:
        connection = http.Connection(client.sock, self._patience)
        try:
            while (request := connection.next()) is not None:
                if not self._begin(client):
                    break
                try:
                    self._answer(client, connection, *request)
                finally:
                    self._end(client)
        except http.BadRequest as error:
            self._refuse(connection, error)
        except (OSError, ValueError) as error:  # the client is gone, or its socket was shut
            log.info("connection pid=%d error=%r", client.pid, str(error))
        except Exception:
            log.exception("unexpected pid=%d", client.pid)
        finally:
            self._forget(client)
            with contextlib.suppress(OSError):
                connection.close()

    def _begin(self, client: _Client) -> bool:
        with self._changed:
            client.busy = not self._ending
            return client.busy

    def _end(self, client: _Client) -> None:
        with self._changed:
            client.busy = False
            if self._ending:  # else nobody waits for it
                _shut(client.sock, socket.SHUT_RD)
                self._changed.notify_all()

    def _forget(self, client: _Client) -> None:
        with self._changed:
            self._clients.discard(client)
            self._changed.notify_all()

    def _refuse(self, connection: http.Connection, error: http.BadRequest) -> None:
        connection.closing = True
        with contextlib.suppress(OSError):
            self._say(connection, error.status, {"Err": str(error)})

    def _answer(self, client: _Client, connection: http.Connection, verb: str, target: str) -> None:
        method = protocol.method_of(target)
        if method not in METHODS:
            raise http.BadRequest(404, f"There is no {target[:100]!r}.")
        if verb != "POST":
            raise http.BadRequest(405, "Requests are sent with POST.")
        connection.closing |= client.once
        is_stream = method in STREAMS
        request = self._watch.begin(method, connection, client.service, is_stream=is_stream)
        try:
            self._answer_watched(client, connection, request, target)
        finally:
            self._watch.end(request)

    def _answer_watched(
        self, client: _Client, connection: http.Connection, request: Request, target: str
    ) -> None:
        method, outcome = request.method, "ok"
        try:
            if method == "ApplyDiff":
                answer = client.service.apply_diff(protocol.query(target), connection)
                trace.trace("docker:ApplyDiff:done")
                self._say(connection, 200, answer)
                trace.trace("docker:ApplyDiff:answered")
            else:
                self._answer_small(client, connection, request)
        except (http.BadRequest, http.Gone):
            outcome = "gone"
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            outcome = type(error).__name__
            self._fail(connection, error, 500 if method == "Diff" else 200)
        finally:
            if request.note is not None:
                client.service.pending.settle(request.note)
            spent = time.monotonic() - request.began
            if not request.is_overdue:
                self._observe(method, outcome, spent)
            log.info(
                "request method=%s pid=%d ms=%.1f outcome=%s late=%s",
                method,
                client.pid,
                1000 * spent,
                outcome,
                request.is_overdue,
            )

    def _answer_small(
        self,
        client: _Client,
        connection: http.Connection,
        request: Request,
    ) -> None:
        """A request that is no stream is on record until it is answered, where it can be lost."""
        service, method = client.service, request.method
        body = connection.body()
        if method not in WITHOUT_EFFECT and connection.is_abandoned():
            # A daemon that is dead by now asked while no server ran: systemd's socket kept it. What
            # would be done for it nobody would know of, and so nobody would undo.
            raise http.Gone
        lost = None
        if not body.strip() and method not in WITHOUT_BODY:
            if method in SILENT:
                with service.doing_lost(method) as answer:
                    trace.trace(f"docker:{method}:again")
                    self._say(connection, 200, answer)
                return
            lost = service.lost(method)
            body = lost.body
        if method in WITHOUT_BODY:  # repeated it is the same one
            self._say(connection, 200, service.answer_anew(method))
            return
        note = request.note = service.pending.note(method, body, lost)
        trace.trace(f"docker:{method}:noted")
        if method == "Diff":
            self._send_diff(client, connection, protocol.fields(body))
            return
        answer = service.answer(note)
        trace.trace(f"docker:{method}:done")
        try:
            is_told = self._say(connection, 200, answer)
        except OSError:  # it died meanwhile
            service.take_back(note)
            raise
        if not is_told:
            service.take_back(note)
        trace.trace(f"docker:{method}:answered")

    def _send_diff(
        self, client: _Client, connection: http.Connection, values: Mapping[str, Any]
    ) -> None:
        """The archive in pieces; one that breaks off has no end, and no reader takes it for whole."""
        with client.service.diff(values) as pieces:
            try:
                connection.stream(pieces, "application/x-tar")
            except Exception as error:
                log.warning("broken-off method=Diff pid=%d error=%r", client.pid, str(error))
                raise http.Gone(f"the archive was broken off: {error}") from error

    def _fail(self, connection: http.Connection, error: Exception, status: int) -> None:
        if not isinstance(error, LayerstoreError | OSError):
            log.exception("unexpected")
        elif not isinstance(error, http.Gone):
            log.warning("error error=%r", str(error))
        if isinstance(error, _FATAL):
            self._fatal = error
            with contextlib.suppress(OSError):
                self._wake_write.send(b"\0")
        self._say(connection, status, protocol.failure(error))

    def _say(self, connection: http.Connection, status: int, answer: Mapping[str, Any]) -> bool:
        """False: the request was given up before."""
        return connection.answer(status, protocol.encode(answer), protocol.CONTENT_TYPE)


def _shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)


def allowed_users() -> frozenset[int]:
    """Root, and who runs the server."""
    return frozenset({0, os.geteuid()})
