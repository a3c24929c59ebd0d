"""Owns what a server tells of itself: metrics in Prometheus's format, and whether it is well.

It must not change anything, nor keep a request waiting: what is counted is counted in memory, and
what is asked of a store is what `status` asks, for some seconds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from layerstore.docker import http, sockets
from layerstore.errors import InvalidArgument, LayerstoreError

if TYPE_CHECKING:
    from layerstore.docker.audits import Audits
    from layerstore.docker.service import Service
    from layerstore.docker.watch import Watch

log = logging.getLogger("layerstore.docker")

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
_PATIENCE: Final = http.Patience(idle=60, request=10, stall=30, drain=1)
_MOST: Final = 16
"""Connections at once."""
_WITHIN: Final = 5.0
"""Seconds that a store has to say how it is."""

_GAUGES: Final = (
    ("layers", "Layers in the store."),
    ("damaged", "Layers that cannot be used."),
    ("mounts", "Layers that are mounted."),
    ("holds", "Holds of layers, by anybody."),
    ("operations", "Operations in flight."),
    ("events", "Events in the journal's database."),
    ("archives", "Archives of older events."),
    ("database_bytes", "Size of the journal's database."),
    ("wal_bytes", "Size of its write-ahead log."),
    ("free_bytes", "Free on the home's file system."),
)
"""Fields of a store's status."""


class Metrics:
    """What is counted, for all sockets of one server."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services
        self._registry = CollectorRegistry()
        self._done = Counter(
            "layerstore_operations",
            "Requests that were answered.",
            ("surface", "op", "result"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "layerstore_operation_duration_seconds",
            "From a request's head to the end of its answer.",
            ("surface", "op"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Stores(services))

    def observe(self, method: str, outcome: str, seconds: float) -> None:
        """One request was answered; `outcome` is `ok`, `gone`, or the class of an error."""
        self._done.labels("docker", method, outcome).inc()
        self._seconds.labels("docker", method).observe(seconds)

    def watch(self, watch: Watch) -> None:
        """Tell of the requests that were given up and hang still."""
        Gauge(
            "layerstore_requests_overdue",
            "Requests that were answered with an error after their time, and hang still.",
            registry=self._registry,
        ).set_function(watch.overdue)

    def tell_audits(self, audits: Audits) -> None:
        """Tell what the last audit of each home found, and how old that is."""
        self._registry.register(_Audited(audits))

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def unwell(self) -> str:
        """Why a store that is served cannot be asked; empty if all is well."""
        for path, service in self._services.items():
            try:
                service.pulse.latest(_WITHIN)
            except (LayerstoreError, OSError) as error:
                return f"{path}: {error}"
        return ""


class _Stores(Collector):
    """What the stores that are being served say of themselves at this moment."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services

    def collect(self) -> Iterator[Any]:
        gauges = {
            name: GaugeMetricFamily(f"layerstore_{name}", text, labels=["home"])
            for name, text in _GAUGES
        }
        last = CounterMetricFamily("layerstore_journal_events", "Events ever.", labels=["home"])
        recovered = CounterMetricFamily(
            "layerstore_recovery_actions", "What opening a store settled.", labels=["action"]
        )
        for service in self._services.values():
            for action, count in service.recovered.copy().items():
                recovered.add_metric([action], count)
            with contextlib.suppress(LayerstoreError, OSError):
                status = service.pulse.latest(_WITHIN)
                if status is not None:
                    for name, gauge in gauges.items():
                        gauge.add_metric([status.home], getattr(status, name))
                    last.add_metric([status.home], status.seq)
        about = InfoMetricFamily("layerstore_build", "What runs.")
        about.add_metric([], {"version": version("layerstore")})
        yield from (*gauges.values(), last, recovered, about)


class _Audited(Collector):
    """What the last audits found."""

    def __init__(self, audits: Audits) -> None:
        self._audits = audits

    def collect(self) -> Iterator[Any]:
        findings = GaugeMetricFamily(
            "layerstore_audit_findings",
            "Findings of the last audit.",
            labels=["home", "severity"],
        )
        gauges = [
            GaugeMetricFamily(f"layerstore_audit_{name}", text, labels=["home"])
            for name, text in (
                ("timestamp_seconds", "When the last audit ended."),
                ("age_seconds", "How long ago that is: so old the findings are."),
                ("duration_seconds", "How long it took."),
            )
        ]
        ended = CounterMetricFamily("layerstore_audits", "Audits by result.", labels=["result"])
        for result in self._audits.results.values():
            if result is not None:
                for severity, count in result.findings.items():
                    findings.add_metric([result.home, severity], count)
                values = (result.at, max(time.time() - result.at, 0.0), result.seconds)
                for gauge, value in zip(gauges, values, strict=True):
                    gauge.add_metric([result.home], value)
        for name in ("clean", "found", "failed"):
            ended.add_metric([name], self._audits.outcomes[name])
        yield from (findings, *gauges, ended)


def listen(address: str) -> socket.socket:
    """A socket at a path, or at HOST:PORT of this machine itself; InvalidArgument for another."""
    if address.startswith("/"):
        return sockets.listen(address).sock  # locked and named as long as the process lives
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError as error:
        raise InvalidArgument(
            f"{address!r} is no address.", hint="It is a path, or as in 127.0.0.1:9150."
        ) from error
    if not ip.is_loopback:
        raise InvalidArgument(
            f"{address} can be reached from elsewhere.", hint="Use 127.0.0.1, [::1], or a path."
        )
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    return socket.create_server((str(ip), number), family=family)


def serve(listener: socket.socket, metrics: Metrics) -> Callable[[], None]:
    """Answer there in threads of its own; what ends that."""
    places = threading.BoundedSemaphore(_MOST)

    def answer(sock: socket.socket) -> None:
        try:
            _answer(http.Connection(sock, _PATIENCE), metrics)
        finally:
            places.release()

    def accept() -> None:
        while True:
            places.acquire()
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # it was shut
            threading.Thread(target=answer, args=(sock,), daemon=True).start()

    def end() -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()

    threading.Thread(target=accept, daemon=True).start()
    return end


def _answer(connection: http.Connection, metrics: Metrics) -> None:
    try:
        while (request := connection.next()) is not None:
            connection.body()
            method, target = request
            path = target.partition("?")[0]
            if method != "GET":
                connection.answer(405, b"Ask with GET.\n", _TEXT)
            elif path == "/metrics":
                connection.answer(200, metrics.text(), _TEXT)
            elif path == "/healthz":
                why = metrics.unwell()
                connection.answer(503 if why else 200, f"{why or 'ok'}\n".encode(), _TEXT)
            else:
                connection.answer(404, b"There are /metrics and /healthz.\n", _TEXT)
    except http.BadRequest as error:
        connection.closing = True
        with contextlib.suppress(OSError):
            connection.answer(error.status, f"{error}\n".encode(), _TEXT)
    except OSError as error:
        log.info("metrics error=%r", str(error))
    finally:
        with contextlib.suppress(OSError):
            connection.close()
