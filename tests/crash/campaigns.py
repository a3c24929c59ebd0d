"""Owns how pytest runs a campaign: a process of its own, whose last line is what it found."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("LAYERSTORE_TEST_LONG") == "1"
"""Everything, for hours, instead of each point once."""
PROPERTY = "crash campaign"


def seed() -> int:
    """$LAYERSTORE_TEST_SEED, or another one each time; a failure says which it was."""
    return int(os.environ.get("LAYERSTORE_TEST_SEED") or random.randrange(1 << 32))


@attrs.frozen
class Campaigns:
    """Runs campaigns, and leaves their counts for the summary."""

    library: Path
    record: Any

    def run(
        self, campaign: str, scenario: str, *options: str, prefix: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Run one; its counts. Fails the test with everything that it found."""
        chosen = ["--seed", str(seed()), *options, *(["--all"] if LONG else [])]
        command = [
            *prefix,
            sys.executable,
            "-m",
            "tests.crash.harness",
            campaign,
            scenario,
            *chosen,
        ]
        environment = {**os.environ, "LAYERSTORE_FAULTSHIM": os.fspath(self.library)}
        environment.pop("LAYERSTORE_FAILPOINT", None)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        lines = done.stdout.splitlines()
        if not lines or not lines[-1].startswith("{"):
            pytest.fail(f"{campaign} {scenario} broke off:\n{done.stdout}\n{done.stderr}")
        result: dict[str, Any] = json.loads(lines[-1])
        self.record(PROPERTY, json.dumps(result))
        if result["failures"]:
            pytest.fail("\n\n".join(result["failures"]), pytrace=False)
        assert 0 == done.returncode, done.stderr
        return result
