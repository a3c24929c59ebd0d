"""The server's log is made of events and fields that are documented, as text and as JSON."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from layerstore.docker import logs
from tests.cli.running import ROOT, Program
from tests.docker.serving import Served, wait_for

LEVELS = {"debug", "info", "warning", "error", "exception"}
DOCUMENT = ROOT / "docs" / "docker.md"


def messages() -> Iterator[tuple[str, str]]:
    """Each message that the server logs, and where."""
    for path in [*(ROOT / "layerstore" / "docker").glob("*.py"), ROOT / "layerstore/cli/serve.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log" | "logs" as owner), attr=name),
                    args=[ast.Constant(value=str(message)), *_],
                ) if name in LEVELS if owner == "log" else name == "say":
                    yield message, f"{path.name}:{node.lineno}"


def documented() -> dict[str, set[str]]:
    """The events that the documentation has, each with its fields."""
    _, _, rest = DOCUMENT.read_text().partition("| event | fields |")
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", rest.partition("\n\n")[0], re.MULTILINE)
    return {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in rows}


def test_each_event_is_documented_with_its_fields() -> None:
    """Nothing is logged that the table lacks, and the table has nothing that is not logged."""
    logged: dict[str, set[str]] = {"library": {"message"}}
    for message, where in messages():
        found = logs.EVENT.fullmatch(message)
        assert found is not None, where
        names = {name for name, _ in logs.FIELD.findall(found["fields"])}
        logged.setdefault(found["event"], set()).update(names)
    assert documented() == logged
    assert len(logged) > 10


def test_a_line_of_json_has_values_as_they_are() -> None:
    """Numbers, truth and texts; an exception has its traceback; what the library says is a message."""

    def line(name: str, message: str, *args: object, exc_info: object = None) -> dict[str, object]:
        record = logging.makeLogRecord(
            {"name": name, "msg": message, "args": args, "levelname": "INFO", "exc_info": exc_info}
        )
        told = json.loads(logs.AsJson().format(record))
        assert datetime.fromisoformat(told.pop("time")).tzinfo is not None
        assert told.pop("level") == "info"
        return dict(told)

    own = "layerstore.docker"
    assert line(own, "a-b x=%d y=%r z=%.1f w=%s k=yes", 1, 'q"', 2.34, None) == {
        "event": "a-b", "x": 1, "y": 'q"', "z": 2.3, "w": None, "k": "yes"
    }  # fmt: skip
    assert line("layerstore", "what %s holds", "x") == {
        "event": "library",
        "message": "what x holds",
    }
    try:
        raise ValueError("no")
    except ValueError:
        told = line(own, "unexpected", exc_info=sys.exc_info())
    assert "ValueError: no" in str(told["traceback"])


@pytest.mark.root
def test_every_line_of_a_server_is_json(bare: Path) -> None:
    """From the first one to the last, with -v too, also when it cannot begin."""
    served = Served(bare / "run" / "test.sock", bare, bare / "server.log")
    served.words = ("--log-format", "json")
    served.start()
    try:
        ask = served.client()
        ask.err("Get", ID="none")  # there was no Init
        wait_for(lambda: '"Get"' in served.log.read_text())
        assert served.end() == 0
        second = Program(bare)(
            "serve", "docker", "--socket", "x" * 200, "--log-format", "json", code=16
        )
    finally:
        served.close()
    told = [json.loads(text) for text in served.log.read_text().splitlines()]
    assert [x["socket"] for x in told if x["event"] == "ready"] == [str(served.socket)]
    (get,) = (x for x in told if x["event"] == "request" and x["method"] == "Get")
    assert (get["outcome"], get["late"], type(get["ms"])) == ("Refused", False, float)
    assert [x["level"] for x in told if x["event"] == "error"] == ["warning"]
    (failed,) = (json.loads(text) for text in second.err.splitlines())
    assert ("failed", "critical") == (failed["event"], failed["level"])
