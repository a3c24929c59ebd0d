"""Owns one fresh process: it audits a store, and prints its peak of memory in bytes."""

from __future__ import annotations

import sys

from weight import tell_peak

from layerstore.audit import audit

if __name__ == "__main__":
    audit(sys.argv[1])
    tell_peak()
