"""Packages of others, each in an environment of its own, for tests that run them unmodified."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OPENAI = "openai==2.9.0"
RUNPOD = "runpod==1.12.0"
SCHEMATHESIS = "schemathesis==4.32.5"


# RunPod's package asks for the processor's name at import, through one that starts a process.
# The folder has a shorter answer, which saves a third of a second each time.
QUICK_ANSWERS = {"PYTHONPATH": str(Path(__file__).resolve().parent / "data" / "quick")}


def python_with(package: str) -> Path:
    """The interpreter of an environment with the package, made once and kept in the checkout."""
    name = package.partition("=")[0]
    home = Path(__file__).resolve().parents[2] / f".venv-{name}"
    stamp, found = home / ".installed", home / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != package:
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, home], check=True)
        subprocess.run([*uv, "pip", "install", "--python", found, package], check=True)
        stamp.write_text(package)
    return found
