"""Runs programs by this Python and by the others that are here, with Flash's source on the path."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SRC = str(Path(__file__).parents[2] / "src")


def run(*command: str, cwd: Path, path: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `path` are folders of modules besides."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([SRC, *path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def pythons() -> list[str]:
    """Other interpreters that really run here, from PATH and from pyenv."""
    found = []
    for minor in ("3.10", "3.11", "3.12", "3.13"):
        pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{minor}.*/bin/python"))
        for candidate in [*map(str, pyenv), shutil.which(f"python{minor}")]:
            check = "import sys; print('%d.%d' % sys.version_info[:2])"
            if candidate and output_of(candidate, "-c", check) == minor:
                found.append(candidate)
                break
    return found


def output_of(*command: str) -> str:
    """What a command prints, whether or not it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()
