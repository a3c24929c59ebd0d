"""What a server tells of itself."""

from __future__ import annotations

import http.client
import signal
import socket
import time
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
        assert found["layerstore_journal_events_total",] >= found["layerstore_events",] > 5
        assert found["layerstore_archives",] == 0
        assert min(found[f"layerstore_{n}_bytes",] for n in ("database", "wal", "free")) >= 4096
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


def audited(bare: Path, *, of: Path) -> dict[tuple[str, ...], float]:
    """What a server of that home says of the last audit, when there is one."""
    watch = Client(bare / "metrics.sock")

    def there() -> dict[tuple[str, ...], float]:
        found = samples(watch.get("/metrics")[1])
        return found if ("layerstore_audit_age_seconds",) in found else {}

    wait_for(lambda: bool(there()))
    found = there()
    assert f'home="{of}"' in watch.get("/metrics")[1]
    watch.close()
    return found


@pytest.mark.crash
@pytest.mark.campaign
def test_the_last_audit_is_told_with_its_age(bare: Path) -> None:
    """A server audits what it serves; the next one tells of that audit, and does not repeat it."""
    served = Served(bare / "run" / "test.sock", bare, bare / "server.log")
    served.words = ("--metrics", str(bare / "metrics.sock"), "--audit-every", "0.5")
    try:
        served.start()
        ask = served.client()
        ask.ok("Init", Home=str(served.home))
        ask.ok("Create", ID="base")
        (served.home / "base" / "link").write_text("no link")
        found = audited(bare, of=served.home)
        assert found["layerstore_audits_total", "found"] >= 1
        assert found["layerstore_audits_total", "failed"] == 0
        assert found["layerstore_audit_findings", "damage"] >= 1
        assert found["layerstore_audit_findings", "note"] == 0
        assert found["layerstore_audit_duration_seconds",] > 0
        served.end()
        served.words = (*served.words[:-1], "86400")
        served.start()
        again = audited(bare, of=served.home)
        assert again["layerstore_audits_total", "found"] == 0
        assert again["layerstore_audit_findings", "damage"] >= 1
        before = found["layerstore_audit_timestamp_seconds",]
        at, age = (again[f"layerstore_audit_{n}_seconds",] for n in ("timestamp", "age"))
        assert before <= at <= time.time() - age + 1
    finally:
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
