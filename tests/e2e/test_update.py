"""`flash update`, in an environment of its own and with repositories of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.invalid"]


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def succeed(*command: str | Path, cwd: Path | None = None) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A repository with this very source in it."""
    folder = tmp_path / "upstream"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    succeed("git", "init", "--quiet", cwd=folder)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    succeed("git", "add", "--all", cwd=folder)
    succeed(*GIT, "commit", "--quiet", "--message", "Change", cwd=folder)


def publish(folder: Path, version: str) -> None:
    init = folder / "src" / "runpod_flash" / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', f'__version__ = "{version}.'))
    commit(folder)


@pytest.mark.network
@pytest.mark.parametrize("option", [[], pytest.param(["--editable"], marks=pytest.mark.slow)])
def test_an_update_pulls_the_clone_that_this_was_installed_from(
    tmp_path: Path, upstream: Path, option: list[str]
) -> None:
    clone, venv = tmp_path / "clone", tmp_path / "venv"
    succeed("git", "clone", "--quiet", upstream, clone)
    uv = find_uv_bin()
    succeed(uv, "venv", "--quiet", "--python", sys.executable, venv)
    python, flash = venv / "bin" / "python", venv / "bin" / "flash"
    succeed(uv, "pip", "install", "--quiet", "--python", python, *option, clone)
    said = succeed(flash, "update")
    assert ", as before (from file://" in said
    assert "\nStart servers that run again: " in said

    publish(upstream, "9")
    assert " is now 9.0.1.0 (from file://" in succeed(flash, "update")
    assert succeed(flash, "--version").startswith("flash 9.0.1.0 ")

    shutil.rmtree(upstream)
    failed = run(flash, "update")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: `git -C ")

    shutil.rmtree(clone / ".git")
    (clone / "pyproject.toml").rename(clone / "elsewhere.toml")
    failed = run(flash, "update")
    assert "is no clone of it" in failed.stderr


@pytest.mark.network
def test_what_came_from_an_index_is_not_updated_from_anywhere(
    tmp_path: Path, upstream: Path
) -> None:
    venv, uv = tmp_path / "venv", find_uv_bin()
    succeed(uv, "venv", "--quiet", "--python", sys.executable, venv)
    python = venv / "bin" / "python"
    succeed(uv, "pip", "install", "--quiet", "--python", python, upstream)
    (note,) = venv.glob("lib/python*/site-packages/runpod_flash-*.dist-info/direct_url.json")
    note.unlink()
    failed = run(venv / "bin" / "flash", "update")
    assert failed.returncode == 1
    assert "was not installed from a clone" in failed.stderr
