"""Which project a directory is: the same in every clone, and never a credential."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from runpod_flash.project.identity import identity

if TYPE_CHECKING:
    from pathlib import Path


def git(folder: Path, *words: str) -> str:
    own = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    command = ["git", "-C", str(folder), *own, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@example.com/shop.git", "https://example.com/shop.git"),
        ("https://example.com/shop.git", "https://example.com/shop.git"),
        ("git@example.com:shop.git", "git@example.com:shop.git"),
    ],
)
def test_a_remote_counts_without_its_credential(tmp_path: Path, address: str, shown: str) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", address)
    assert identity(tmp_path) == shown


def test_without_one_the_first_commit_does_else_the_place(tmp_path: Path) -> None:
    place = f"{socket.gethostname()}:{tmp_path}"
    assert identity(tmp_path) == place
    git(tmp_path, "init", "--quiet")
    assert identity(tmp_path) == place
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "one")
    first = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "two")
    assert identity(tmp_path) == f"git:{first}"
    (tmp_path / "below").mkdir()
    assert identity(tmp_path / "below") == f"{place}/below"
