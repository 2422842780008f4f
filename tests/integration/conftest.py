"""Fixtures of several files here."""

from __future__ import annotations

import math

import pytest

from runpod_flash.plane.store import journal


@pytest.fixture(params=["by the loop", "by the thread"])
def committer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who commits what is waited for, however fast this disk is."""
    fast = math.inf if request.param == "by the loop" else 0.0
    monkeypatch.setattr(journal, "_FAST_SECONDS", fast)
    monkeypatch.setattr(journal, "_STALL_SECONDS", math.inf)
    monkeypatch.setattr(journal, "_SEEN_COMMITS", 1)
