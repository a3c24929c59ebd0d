"""What a server tells of itself."""

from __future__ import annotations

import http.client
import signal
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from layerstore.docker import metrics
from layerstore.errors import InvalidArgument
from tests.docker.serving import Client, Served, wait_for

pytestmark = pytest.mark.root


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, sorted by label, but for a home."""
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "home")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_metrics_and_health(bare: Path) -> None:
    """Requests by kind and outcome, their times, the store's own figures, and what recovery did."""
    served = Served(bare / "run" / "test.sock", bare, bare / "server.log")
    served.words = ("--metrics", str(bare / "metrics.sock"))
    watch = Client(bare / "metrics.sock")
    try:
        served.start()
        ask = served.client()
        assert watch.get("/healthz") == (200, "ok\n")
        ask.ok("Init", Home=str(served.home))
        ask.ok("Create", ID="base")
        ask.ok("CreateReadWrite", ID="top", Parent="base")
        ask.ok("Get", ID="top")
        ask.err("Remove", ID="base")
        refused = ("layerstore_operations_total", "Remove", "HasChildren", "docker")
        # A request is counted when its answer is sent, so that may be a moment later.
        wait_for(lambda: refused in samples(watch.get("/metrics")[1]))
        found = samples(watch.get("/metrics")[1])
        assert found["layerstore_operations_total", "Create", "ok", "docker"] == 1
        assert found[refused] == 1
        assert found["layerstore_operation_duration_seconds_count", "Get", "docker"] == 1
        assert (2, 1, 1) == tuple(found[f"layerstore_{n}",] for n in ("layers", "mounts", "holds"))
        assert watch.get("/healthz") == (200, "ok\n")
        assert watch.get("/else")[0] == 404
        assert watch.raw("/metrics")[0] == 405
        watch.close()
        served.end(signal.SIGKILL)
        served.start()
        found = samples(watch.get("/metrics")[1])
        assert found["layerstore_recovery_actions_total", "released"] == 1
    finally:
        watch.close()
        served.close()


def test_only_this_machine_is_told(bare: Path) -> None:
    """An address that others can reach, and one that is none, are refused in words."""
    for bad in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80", "localhost:80", "127.0.0.1", "x", ""):
        with pytest.raises(InvalidArgument):
            metrics.listen(bad)
    with metrics.listen("127.0.0.1:0") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        end = metrics.serve(listener, metrics.Metrics({}))
        connection = http.client.HTTPConnection(*listener.getsockname()[:2])
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        connection.close()
        address = listener.getsockname()
        end()
        with pytest.raises(OSError), socket.create_connection(address, timeout=5):
            pass
