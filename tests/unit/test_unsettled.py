"""Which failed loads are tried again: those of files that were being saved."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from runpod_flash.spec import Entry
from runpod_flash.worker.unsettled import changed

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds_ago", "again"),
    [
        ("x = 1", -1.0, True),  # saved while it was loaded
        ("x = 1", 0.1, True),
        ("x = 1", 1.0, False),
        ("", 1.0, True),  # emptied by an editor that did not come to fill it yet
        ("", 10.0, False),
    ],
)
def test_a_load_is_tried_again_if_its_file_was_being_saved(
    tmp_path: Path, text: str, seconds_ago: float, again: bool
) -> None:
    (tmp_path / "app.py").write_text(text)
    os.utime(tmp_path / "app.py", (NOW - seconds_ago, NOW - seconds_ago))
    entry = Entry("app", "f", file="app.py", root=str(tmp_path))
    assert changed(entry, AttributeError("f"), NOW) is again
