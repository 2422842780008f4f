"""`flash completion`: the script, and that a real shell completes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from unit.command_line import MAIN, flash

if TYPE_CHECKING:
    from pathlib import Path

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_how_to_install_it(shell: str) -> None:
    found = flash("completion", shell)
    assert (found.returncode, found.stderr) == (0, "")
    first, second, *_ = found.stdout.splitlines()
    assert first.startswith("# To install: ")
    assert f"flash completion {shell}" in first
    assert second
    assert f"_FLASH_COMPLETE={shell}_complete" in found.stdout


def test_an_unknown_shell_is_a_usage_error() -> None:
    found = flash("completion", "tcsh")
    assert (found.returncode, found.stdout) == (2, "")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in found.stderr


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `flash` is."""
    program = tmp_path / "flash"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{MAIN}' \"$@\"\n")
    program.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


# Does what bash does at <TAB>: calls the registered function, which leaves its answer in COMPREPLY.
TAB = """
eval "$(flash completion bash)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
registered=$(complete -p flash)
function=${registered#*-F }
${function%% *} flash
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(line: str, path: str) -> list[str]:
    """What bash offers at the end of the line, with the script loaded as its first line says."""
    found = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", *line.split(" ")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stderr == ""
    return found.stdout.split()


@needs_bash
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("flash ini", ["init"]),
        ("flash do", ["doctor"]),
        ("flash ru", []),
        ("flash init --f", ["--force"]),
        ("flash cache cl", ["clear"]),
        ("flash cache clear --unu", ["--unused-days"]),
        ("flash completion z", ["zsh"]),
    ],
)
def test_bash_completes(path: str, line: str, offered: list[str]) -> None:
    assert completed(line, path) == offered
