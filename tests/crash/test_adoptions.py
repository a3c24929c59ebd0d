"""Kills in adopts, releases and take-overs of trees of other programs."""

from __future__ import annotations

import pytest

from tests.crash.adoptions import VERBS
from tests.crash.campaigns import LONG, Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

LIMIT = "0" if LONG else "12"
"""Points of each kind: before a call, after it, in the middle of it."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_of_an_adopt_touches_nothing(campaigns: Campaigns, verb: str) -> None:
    """At any mutating call: the tree is as it was, and the same command does the rest."""
    result = campaigns.run("adoptions", f"docker-{verb}", "--limit", LIMIT)
    assert result["points"] > 20


@pytest.mark.parametrize("verb", ["first", "again", "release"])
def test_a_kill_beside_a_graph_root_touches_nothing(campaigns: Campaigns, verb: str) -> None:
    """The same of a tree of podman's, whose index is in a directory beside it."""
    result = campaigns.run("adoptions", f"podman-{verb}", "--limit", LIMIT)
    assert result["points"] > 20
