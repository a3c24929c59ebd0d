"""Kills in adopts, releases and take-overs of trees of other programs."""

from __future__ import annotations

import pytest

from tests.crash.adoptions import VERBS
from tests.crash.campaigns import Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_of_an_adopt_touches_nothing(campaigns: Campaigns, verb: str) -> None:
    """At every mutating call: the tree is as it was, and the same command does the rest."""
    result = campaigns.run("adoptions", f"docker-{verb}")
    assert result["points"] > 20


@pytest.mark.parametrize("verb", ["first", "again", "release"])
def test_a_kill_beside_a_graph_root_touches_nothing(campaigns: Campaigns, verb: str) -> None:
    """The same of a tree of podman's, whose index is in a directory beside it."""
    result = campaigns.run("adoptions", f"podman-{verb}")
    assert result["points"] > 20
