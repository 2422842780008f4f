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
    ("name", "text", "seconds_ago", "again"),
    [
        ("app.py", "x = 1", -1.0, True),  # saved while it was loaded
        ("app.py", "x = 1", 0.1, True),
        ("app.py", "x = 1", 1.0, False),
        ("app.py", "", 1.0, True),  # emptied by an editor that did not come to fill it yet
        ("app.py", "", 10.0, False),
        ("__init__.py", "", 1.0, False),  # as it is meant to be
    ],
)
def test_a_load_is_tried_again_if_its_file_was_being_saved(
    tmp_path: Path, name: str, text: str, seconds_ago: float, again: bool
) -> None:
    (tmp_path / name).write_text(text)
    os.utime(tmp_path / name, (NOW - seconds_ago, NOW - seconds_ago))
    entry = Entry("app", "f", file=name, root=str(tmp_path))
    assert changed(entry, AttributeError("f"), NOW) is again
