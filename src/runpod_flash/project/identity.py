"""Which project a directory is, wherever it was cloned to."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def identity(root: Path) -> str:
    """The address of its Git remote, else its first commit, else the machine and the path.

    A credential in the address is left out.
    """
    remote = _git(root, "remote", "get-url", "origin")
    if remote:
        scheme, separator, rest = remote.rpartition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2] if separator else rest}"
    first = _git(root, "rev-list", "--max-parents=0", "HEAD").splitlines()
    return f"git:{first[-1]}" if first else f"{socket.gethostname()}:{root}"


def _git(root: Path, *words: str) -> str:
    """What Git says of the directory if it is the top of a repository; empty where it is not."""
    try:
        top, said = (
            subprocess.run(
                ["git", "-C", str(root), *each], capture_output=True, text=True, check=False
            )
            for each in (("rev-parse", "--show-prefix"), words)
        )
    except OSError:  # no Git
        return ""
    return said.stdout.strip() if not said.returncode and not top.stdout.strip() else ""
