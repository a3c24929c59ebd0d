"""Owns how the server's log looks: lines of key=value, or of JSON; it must not decide what is logged.

A message of this package is an event's name and fields, `request method=%s ms=%.1f`. As text it is that
line. As JSON each field has its value as it was given, a number as a number.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

FORMATS: Final = ("text", "json")
EVENT: Final = re.compile(r"(?P<event>[a-z][a-z-]*)(?P<fields>(?: \w+=\S+)*)")
"""What a message of the server looks like before its values are put in."""
FIELD: Final = re.compile(r" (\w+)=(\S+)")
_LIBRARY: Final = "library"
"""The event of what the store has to say, in words."""

log = logging.getLogger("layerstore.docker")


class AsJson(logging.Formatter):
    """One object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {"time": at, "level": record.levelname.lower()}
        found = EVENT.fullmatch(record.msg) if record.name == log.name else None
        if found is None:
            told |= {"event": _LIBRARY, "message": record.getMessage()}
        else:
            told |= {"event": found["event"], **_fields(found["fields"], record.args)}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def _fields(template: str, args: Any) -> dict[str, Any]:
    values = iter(args or ())
    told: dict[str, Any] = {}
    for name, form in FIELD.findall(template):
        if not form.startswith("%"):
            told[name] = form
            continue
        value = next(values)
        is_plain = value is None or isinstance(value, bool | int | str)
        told[name] = value if is_plain else float(form % value) if form[-1] == "f" else str(value)
    return told


def to_stderr(*, verbose: bool, form: str) -> None:
    """One line for each thing that is worth a word; `verbose`: for each request, too."""
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    if form == "text":
        if not verbose:  # else the program's own handler has it
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("level=%(levelname)s %(message)s"))
            log.addHandler(handler)
        return
    library = logging.getLogger("layerstore")
    for old in list(library.handlers):
        library.removeHandler(old)
    handler = logging.StreamHandler()
    handler.setFormatter(AsJson())
    library.addHandler(handler)


def say(message: str, *args: object, level: int = logging.INFO) -> None:
    """What is said whatever the level is."""
    log.handle(log.makeRecord(log.name, level, __file__, 0, message, args, None))
