"""Which project a directory is, wherever it was cloned to."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def identity(root: Path) -> str:
    """The address of its Git remote, else its first commit, else the machine and the path.

    Git counts where the directory is the top of a repository. A credential in the address is left
    out.
    """
    if (root / ".git").exists():
        remote = _git(root, "remote", "get-url", "origin")
        if remote:
            scheme, separator, rest = remote.rpartition("://")
            return f"{scheme}{separator}{rest.rpartition('@')[2] if separator else rest}"
        first = _git(root, "rev-list", "--max-parents=0", "HEAD").splitlines()
        if first:
            return f"git:{first[-1]}"
    return f"{socket.gethostname()}:{root}"


def _git(root: Path, *words: str) -> str:
    """What Git says; empty where it refuses, or is not installed."""
    command = ["git", "-C", str(root), *words]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if said.returncode else said.stdout.strip()
