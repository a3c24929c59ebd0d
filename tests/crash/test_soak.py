"""What has to stay flat for a year: a minute of it here, an hour with `make soak`."""

from __future__ import annotations

import os

import pytest

from tests.crash.campaigns import Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

SECONDS = int(os.environ.get("LAYERSTORE_SOAK_SECONDS") or 60)
PAIRS = 1_000_000 if SECONDS >= 600 else 25_000
"""Of a get and a put: 50,000 gets and puts, or two million."""


def test_nothing_grows(campaigns: Campaigns) -> None:
    """Under a mixed load, with kills and SIGTERM all the time, everything but the archives is flat."""
    result = campaigns.run("soak", "crowd", "--limit", str(SECONDS))
    assert result["calls"]["samples"] >= 40
    assert result["calls"]["kills"] >= SECONDS // 4
    assert result["calls"]["ended"] >= SECONDS // 4
    assert result["calls"]["rounds"] >= SECONDS


def test_very_many_gets_and_puts(campaigns: Campaigns) -> None:
    """Tens of thousands of gets and puts are all told, and leave a bounded log and database."""
    result = campaigns.run("traffic", "crowd", "--limit", str(PAIRS))
    assert result["calls"]["pairs"] == PAIRS
