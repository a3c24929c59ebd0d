"""Writes the tables of docs/audit.md, and the codes of its JSON schema, from the code."""

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


def main() -> None:
    document = ROOT / "docs/audit.md"
    text = document.read_text(encoding="utf-8")
    for mark, table in (("codes", codes.as_markdown()), ("repairs", codes.repairs_as_markdown())):
        start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
        text = re.sub(f"{start}.*?{end}", lambda _: start + table + end, text, flags=re.DOTALL)  # noqa: B023
    document.write_text(text, encoding="utf-8")
    content = json.dumps(schema(), indent=2) + "\n"
    (ROOT / "docs/audit.schema.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
