"""Owns the life of a server: sockets, recovery, ready, end; it must not read the environment itself."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from layerstore.docker import http, sockets
from layerstore.docker.audits import Audits
from layerstore.docker.homes import Allowed
from layerstore.docker.server import Server, allowed_users, raise_limits
from layerstore.docker.service import Service
from layerstore.docker.watch import Pulse, Watch
from layerstore.errors import LayerstoreError

__all__ = ["Allowed", "serve"]

log = logging.getLogger("layerstore.docker")

ENDS_WITHIN: Final = 20.0
"""Seconds that requests have to be answered in when the server is told to end."""


def serve(
    paths: tuple[str, ...],
    *,
    default: str,
    allowed: Allowed,
    environment: Mapping[str, str],
    say: Callable[[str, str | None], None],
    patience: http.Patience | None = None,
    metrics: str | None = None,
    audit_every: float = 0.0,
) -> None:
    """Serve until an exception ends it: SIGTERM raises one in the main thread.

    Listens at `paths`, or at what systemd passed, or at `default`. Ready is said when what a server
    before it left open is settled, to `say` for each socket with its home. `metrics`: an address for
    Prometheus and for /healthz; `audit_every`: seconds between two audits for it, 0 for none.
    """
    passed = sockets.passed(environment)
    address = environment.get("NOTIFY_SOCKET")
    before, limit = raise_limits()
    log.info("limits descriptors=%d descriptors_before=%d", limit, before)
    listeners = {found.path: found for found in passed}
    server: Server | None = None
    audited: Audits | None = None
    ends: list[Callable[[], None]] = []
    try:
        watched = _listen_for_metrics(metrics)
        for path in paths or (() if passed else (default,)):
            listeners[path] = sockets.listen(path)
        services = {path: Service(path, allowed) for path in listeners}
        for service in services.values():
            service.resume()
        served = {path: (listeners[path], services[path]) for path in listeners}
        patience = patience or http.Patience()
        watch = Watch(allowed.answer_within, streams_within=patience.stall)
        if watched is not None and audit_every:
            audited = Audits(services, dict(environment), audit_every)
            ends.append(audited.end)
        observe = _observed(watched, services, watch, audited, ends)
        if audited is not None:
            audited.start()
        server = Server(served, patience=patience, users=allowed_users(), watch=watch, **observe)
        sockets.notify(address, f"READY=1\nSTATUS={_status(services)}")
        for path, service in services.items():
            home = service.home
            say(path, home)
        tender = _Tender(address, services, environment, watch)
        server.run(tend=tender, every=tender.every)
    finally:
        sockets.notify(address, "STOPPING=1")
        for end in ends:
            end()
        if server is not None:
            server.end(within=ENDS_WITHIN)
        else:
            for listener in listeners.values():
                listener.close()


def _listen_for_metrics(address: str | None) -> socket.socket | None:
    if address is None:
        return None
    from layerstore.docker import metrics  # it takes a while to import

    return metrics.listen(address)


def _observed(
    listener: socket.socket | None,
    services: Mapping[str, Service],
    watch: Watch,
    audited: Audits | None,
    ends: list[Callable[[], None]],
) -> dict[str, Callable[[str, str, float], None]]:
    """Tell metrics there, if anywhere; what the server is given for them."""
    if listener is None:
        return {}
    from layerstore.docker import metrics

    found = metrics.Metrics(services)
    found.watch(watch)
    if audited is not None:
        found.tell_audits(audited)
    ends.append(metrics.serve(listener, found))
    return {"observe": found.observe}


class _Tender:
    """Tells the service manager that requests get to their end, and what is served."""

    def __init__(
        self,
        address: str | None,
        services: Mapping[str, Service],
        environment: Mapping[str, str],
        watch: Watch,
    ) -> None:
        self._address = address
        self._services = services
        self._said = _status(services)
        try:
            watchdog = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
        except ValueError as error:
            raise LayerstoreError("WATCHDOG_USEC is no number.") from error
        self._watched = watchdog > 0
        self.every = min(watchdog / 3, 5.0) if watchdog else 5.0
        self._next = 0.0
        self._watch = watch
        self._pulse = Pulse(lambda: [service.status() for service in services.values()])

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self.every / 2
        goes_on = self._watched and self._watch.goes_on(self._pulse)
        message = ["WATCHDOG=1"] if goes_on else []
        status = _status(self._services)
        if status != self._said:
            message.append(f"STATUS={status}")
            self._said = status
        if message:
            sockets.notify(self._address, "\n".join(message))


def _status(services: Mapping[str, Service]) -> str:
    homes = [service.home for service in services.values() if service.home]
    return f"Serving {', '.join(homes)}" if homes else "Waiting for a daemon"
