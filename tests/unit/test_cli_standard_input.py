"""Commands that read standard input, where there is none, or no text."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from unit.command_line import MAIN

if TYPE_CHECKING:
    from pathlib import Path

SERVER = ("--server", "http://localhost:9")
READERS = [
    ("call", "greet", "-", *SERVER),
    ("login", "--api-key", "-", *SERVER),
    ("secret", "set", "NAME", "--app", "shop", *SERVER),
]


def run(words: tuple[str, ...], home: Path, given: bytes | None) -> tuple[int, str]:
    """The code and the errors of the command; without `given`, its standard input is closed."""
    closed = ["sh", "-c", 'exec "$@" <&-', "sh"] if given is None else []
    done = subprocess.run(
        [*closed, sys.executable, "-c", MAIN, *words],
        cwd=home,
        env={**os.environ, "HOME": str(home), "FLASH_API_KEY": "k"},
        input=given or b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_what_is_read_must_be_there_and_be_text(words: tuple[str, ...], tmp_path: Path) -> None:
    closed = "Error: Standard input is closed: pipe in what is to be read.\n"
    assert run(words, tmp_path, None) == (1, closed)
    assert run(words, tmp_path, b"\xff\xfe") == (1, "Error: Standard input is no UTF-8 text.\n")
