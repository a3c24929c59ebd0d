"""Writes the tables of docs/audit.md, and the JSON schemas of audit and repair, from the code."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

from layerstore.audit import codes  # noqa: E402 - from a checkout too
from layerstore.model import Severity  # noqa: E402


def schema() -> dict[str, object]:
    text, whole, yes = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
    maybe = {"type": ["string", "null"]}
    several = {"type": "array", "items": text}
    finding = {
        "code": {"type": "string", "enum": list(codes.CODES)},
        "severity": {"type": "string", "enum": [severity.value for severity in Severity]},
        "message": text,
        "layer": maybe,
        "path": maybe,
        "also": several,
        "dependents": whole,
        "depends": several,
        "bytes": {"type": ["integer", "null"]},
        "repairs": {"type": "array", "items": {"type": "string", "enum": list(codes.REPAIRS)}},
    }
    report = {
        "schema": {"const": 1},
        "audit": {"const": 1},
        "home": text,
        "kind": {"type": "string", "enum": ["layerstore", "overlay2"]},
        "clean": yes,
        "lost_metadata": yes,
        "summary": {
            "type": "object",
            "properties": {severity.value: whole for severity in Severity},
            "required": [severity.value for severity in Severity],
        },
        "findings": {
            "type": "array",
            "items": {"type": "object", "properties": finding, "required": list(finding)},
        },
        "checked": {"type": "object", "additionalProperties": whole},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "layerstore audit --json",
        "type": "object",
        "properties": report,
        "required": list(report),
    }


def repair_schema() -> dict[str, object]:
    text, yes = {"type": "string"}, {"type": "boolean"}
    maybe = {"type": ["string", "null"]}
    act: dict[str, object] = {
        "repair": {"type": "string", "enum": list(codes.REPAIRS)},
        "does": text,
        "layer": maybe,
        "path": maybe,
        "moves": yes,
    }
    done = act | {
        "outcome": {"type": "string", "enum": ["done", "skipped", "failed"]},
        "message": text,
        "operation": maybe,
        "event": {"type": ["integer", "null"]},
    }
    remedy: dict[str, object] = {
        "code": {"type": "string", "enum": list(codes.CODES)},
        "severity": {"type": "string", "enum": [severity.value for severity in Severity]},
        "message": text,
        "layer": maybe,
        "path": maybe,
        "acts": _several(act),
        "left": text,
    }
    report = {
        "schema": {"const": 1},
        "repair": {"const": 1},
        "home": text,
        "lost_metadata": yes,
        "plan": _several(remedy),
        "done": _several(done),
        "left": _several(remedy),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "layerstore repair --json",
        "type": "object",
        "properties": report,
        "required": list(report),
    }


def _several(properties: dict[str, object]) -> dict[str, object]:
    item = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "array", "items": item}


def main() -> None:
    document = ROOT / "docs/audit.md"
    text = document.read_text(encoding="utf-8")
    for mark, table in (("codes", codes.as_markdown()), ("repairs", codes.repairs_as_markdown())):
        start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
        text = re.sub(f"{start}.*?{end}", lambda _: start + table + end, text, flags=re.DOTALL)  # noqa: B023
    document.write_text(text, encoding="utf-8")
    for name, content in (("audit", schema()), ("repair", repair_schema())):
        whole = json.dumps(content, indent=2) + "\n"
        (ROOT / f"docs/{name}.schema.json").write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    main()
