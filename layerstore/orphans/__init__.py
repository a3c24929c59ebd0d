"""Owns the removal of orphans of foreign trees: set aside, put back, removed for good after a while.

A tree that was not adopted has no journal: what was set aside says itself what it was. `notes` is
that, `plan` the steps, `place` where it lies, `acting` does it. What is an orphan `verdicts` says,
and is asked again immediately before each act. Layers of a store go by its own `remove`.
"""

from __future__ import annotations
