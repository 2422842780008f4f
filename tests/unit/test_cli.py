"""The real `flash` command: version, help, and where it does not run."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

import runpod_flash

MAIN = "from runpod_flash.cli.main import main; main()"  # what the installed command does


def flash(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{before}{MAIN}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_the_version_says_which_program_this_is(option: str) -> None:
    found = flash(option)
    where = Path(runpod_flash.__file__).parent
    expected = f"(runpod-flash, self-hosted; {where}, Python {platform.python_version()})"
    assert found.stdout == f"flash {runpod_flash.__version__} {expected}\n"
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_is_shown_when_asked_for_and_without_arguments(arguments: tuple[str, ...]) -> None:
    found = flash(*arguments)
    assert found.stdout.startswith("Usage: flash [OPTIONS]")
    assert "--version" in found.stdout
    assert (found.returncode, found.stderr) == (0, "")


def test_an_unknown_command_is_a_usage_error() -> None:
    found = flash("deplyo")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.endswith("Error: No such command 'deplyo'.\n")


def test_on_windows_itself_one_sentence_points_to_wsl() -> None:
    found = flash("--version", before="import sys; sys.platform = 'win32'; ")
    assert (found.returncode, found.stdout) == (1, "")
    assert len(found.stderr.splitlines()) == 1
    assert "WSL2" in found.stderr


def test_the_module_is_the_command_too() -> None:
    command = [sys.executable, "-m", "runpod_flash.cli.main", "--version"]
    assert subprocess.check_output(command, text=True).startswith("flash ")


def test_the_command_loads_neither_the_plane_nor_asyncio() -> None:
    after = "import atexit; atexit.register(lambda: print(*sys.modules)); "
    loaded = flash("--version", before=f"import sys; {after}").stdout.split()
    assert "click" in loaded
    assert not {"asyncio", "runpod_flash.plane", "runpod_flash.endpoint"} & set(loaded)


def test_help_comes_fast() -> None:
    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True)
        return time.perf_counter() - started

    flash("--help")
    assert min(seconds(MAIN) - seconds("pass") for _ in range(5)) < 0.2
