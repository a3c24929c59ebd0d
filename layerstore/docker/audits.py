"""Owns the audits that a server has made now and then, for its metrics; what they find, it must not judge.

Each is a process of its own, with the least priority: it takes no time from requests, and one that
hangs is ended or left alone. The last result is kept in a file beside the socket, so that a restart
of the server neither forgets nor repeats it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from layerstore.fs import durable
from layerstore.model import Severity

if TYPE_CHECKING:
    from layerstore.docker.service import Service

log = logging.getLogger("layerstore.docker")

EVERY: Final = 86_400.0
"""Seconds."""
_SOON: Final = 60.0
"""After the start, where there is no result yet."""
_MOST: Final = 4 * 3600.0
"""Seconds that one may take."""
_RAN: Final = (0, 4)
"""Exit codes of an audit that ran to its end: clean, or with findings."""
_LEAST: Final = 19
_OF_A_SERVICE: Final = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "LAYERSTORE_FAILPOINT")


@attrs.frozen
class Result:
    """What the last audit of a home found, by severity."""

    home: str
    at: float
    """Seconds since 1970, when it ended."""
    seconds: float
    findings: Mapping[str, int]


class Audits:
    """One thread, which audits the homes that are served one after the other."""

    def __init__(
        self, services: Mapping[str, Service], environment: Mapping[str, str], every: float
    ) -> None:
        """`services`: by the path of their socket."""
        self._services = services
        self._environment = {
            key: value for key, value in environment.items() if not key.startswith(_OF_A_SERVICE)
        }
        self._every = every
        self._began = time.time()
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.results = {path: _read(f"{path}.audit") for path in services}
        """By socket; None where there is none yet."""
        self.outcomes: Counter[str] = Counter()
        """How audits ended here: clean, found, failed."""
        self._tried: dict[str, float] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        """Begin none, and end the one that runs."""
        self._ended.set()
        if (process := self._process) is not None:
            process.terminate()

    def _run(self) -> None:
        while not self._ended.wait(min(self._every, 1.0)):
            for path, service in self._services.items():
                home = service.home
                if home is not None and self._is_due(path, home) and not self._ended.is_set():
                    self._tried[path] = time.time()
                    self._audit(path, home)

    def _is_due(self, path: str, home: str) -> bool:
        result = self.results[path]
        if result is None or result.home != home:
            last = self._began + min(_SOON, self._every) - self._every
        else:
            last = result.at
        return time.time() - max(last, self._tried.get(path, 0.0)) >= self._every

    def _audit(self, path: str, home: str) -> None:
        began = time.monotonic()
        try:
            counts = self._counts(home)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.outcomes["failed"] += 1
            log.warning("not-audited home=%r error=%r", home, str(error))
            return
        spent = time.monotonic() - began
        found = sum(n for severity, n in counts.items() if severity != Severity.NOTE.value)
        self.outcomes["found" if found else "clean"] += 1
        result = self.results[path] = Result(home, time.time(), spent, counts)
        log.info("audited home=%r seconds=%.1f findings=%d", home, spent, found)
        with contextlib.suppress(OSError):
            text = json.dumps(attrs.asdict(result)) + "\n"
            durable.replace_file(f"{path}.audit", text, mode=0o600)

    def _counts(self, home: str) -> dict[str, int]:
        words = [sys.executable, "-m", "layerstore", "--home", home, "audit", "--json"]
        process = self._process = subprocess.Popen(
            words,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, _LEAST)
            out, said = process.communicate(timeout=_MOST)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            self._process = None
        if process.returncode not in _RAN:
            raise OSError(f"exit code {process.returncode}: {said.strip()[-500:]}")
        summary = json.loads(out)["summary"]
        return {severity.value: int(summary[severity.value]) for severity in Severity}


def _read(path: str) -> Result | None:
    try:
        with open(path, encoding="utf-8") as file:
            kept: dict[str, Any] = json.load(file)
        counts = {severity.value: int(kept["findings"][severity.value]) for severity in Severity}
        return Result(str(kept["home"]), float(kept["at"]), float(kept["seconds"]), counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # there will be one
