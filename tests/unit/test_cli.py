"""The real `flash` command: version, help, wrong words, and where it does not run."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runpod_flash
from runpod_flash.cli import output
from runpod_flash.cli.group import _COMMANDS
from unit.command_line import MAIN, flash, in_terminal

RED = "\x1b[31m"


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_the_version_says_which_program_this_is(option: str) -> None:
    found = flash(option)
    where = Path(runpod_flash.__file__).parent
    expected = f"(runpod-flash, self-hosted; {where}, Python {platform.python_version()})"
    assert found.stdout == f"flash {runpod_flash.__version__} {expected}\n"
    assert (found.returncode, found.stderr) == (0, "")


def test_the_module_is_the_command_too() -> None:
    command = [sys.executable, "-m", "runpod_flash.cli.main", "--version"]
    assert subprocess.check_output(command, text=True).startswith("flash ")


# Help


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_is_shown_when_asked_for_and_without_arguments(arguments: tuple[str, ...]) -> None:
    found = flash(*arguments)
    assert found.stdout.startswith("Usage: flash [OPTIONS]")
    assert "--version" in found.stdout
    assert (found.returncode, found.stderr) == (0, "")


def test_help_lists_every_command_and_none_that_is_hidden_or_comes_later() -> None:
    listed = re.findall(r"^  (\w+)  +\S", flash("--help").stdout, re.MULTILINE)
    assert listed == [*_COMMANDS]
    assert "run" not in listed


@pytest.mark.parametrize("words", [*([name] for name in _COMMANDS), ["run"], ["cache", "clear"]])
def test_the_help_of_a_command_says_what_it_does_with_an_example(words: list[str]) -> None:
    found = flash(*words, "--help")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith(f"Usage: flash {' '.join(words)} ")
    example = re.search(r"^  Example: (.+)$", found.stdout, re.MULTILINE)
    assert example
    assert "flash " in example[1]


def test_help_loads_no_command_nor_the_plane() -> None:
    after = "import atexit; atexit.register(lambda: print(*sys.modules)); "
    loaded = set(flash("--help", before=f"import sys; {after}").stdout.split())
    assert "click" in loaded
    assert not loaded & {f"runpod_flash.cli.{name}" for name in _COMMANDS}
    heavy = {"asyncio", "runpod_flash.plane", "runpod_flash.endpoint"}
    if sys.version_info >= (3, 11):  # (before, uuid imports it, and click that)
        heavy.add("subprocess")
    assert not loaded & heavy


# Wrong words


@pytest.mark.parametrize(
    ("words", "sentence", "helper"),
    [
        (
            ["server", "--max-gb", "0"],
            "Invalid value for '--max-gb': 0.0 is not in the range x>0.",
            "flash server",
        ),
        (["inti"], "No such command 'inti'. Did you mean 'init'?", "flash"),
        (["doc"], "No such command 'doc'. Did you mean 'doctor'?", "flash"),
        (["zzz"], "No such command 'zzz'.", "flash"),
        (["init", "a", "b"], "Got unexpected extra argument (b).", "flash init"),
    ],
)
def test_a_wrong_word_is_a_usage_error_of_one_sentence(
    words: list[str], sentence: str, helper: str
) -> None:
    found = flash(*words)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"Error: {sentence}\nHelp: {helper} --help\n"


@pytest.mark.parametrize(
    "words",
    [
        *(["server", option] for option in ("--max-gb", "--retention", "--grace")),
        ["worker", "run", "endpoint", "--grace"],
        ["cache", "clear", "--unused-days"],
        ["login", "--timeout"],
    ],
    ids=" ".join,
)
def test_a_number_is_finite(words: list[str]) -> None:
    for given in ("nan", "inf"):
        found = flash(*words, given)
        assert found.returncode == 2
        said = f"Error: Invalid value for '{words[-1]}': {given} is no finite number."
        assert found.stderr.splitlines()[0] == said


@pytest.mark.parametrize("words", [["--versoin"], ["init", "--frce"], ["cache", "clear", "--yse"]])
def test_the_option_that_was_meant_is_named(words: list[str]) -> None:
    found = flash(*words)
    meant = {"--versoin": "--version", "--frce": "--force", "--yse": "--yes"}[words[-1]]
    assert found.returncode == 2
    assert re.match(rf"Error: No such option:? '?{words[-1]}'?\.? .*{meant}", found.stderr)


# Where it runs


def test_on_windows_itself_one_sentence_points_to_wsl() -> None:
    found = flash("--version", before="import sys; sys.platform = 'win32'; ")
    assert (found.returncode, found.stdout) == (1, "")
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith("Error: ")
    assert "WSL2" in found.stderr


def test_errors_are_red_on_a_terminal_unless_colours_are_unwanted() -> None:
    assert in_terminal("inti").text.startswith(f"{RED}Error:")
    for unwanted in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert in_terminal("inti", env=unwanted).text.startswith("Error: No such")
    assert "\x1b" in in_terminal("doctor").text
    assert "\x1b" not in in_terminal("doctor", env={"NO_COLOR": "1"}).text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_knows_few_characters_breaks_nothing(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "gr\u00f6\u00dfe \u2713"
    folder.mkdir()
    env = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "XDG_CACHE_HOME": str(folder)}
    for utf8 in ("0", "1"):
        for words in (["init", "."], ["doctor"], ["cache"], ["init", "a\u2713"]):
            found = flash(*words, cwd=folder, env={**env, "PYTHONUTF8": utf8})
            assert "Traceback" not in found.stderr
            assert found.returncode == (2 if words[-1] == "a\u2713" else 0)


def test_a_closed_pipe_is_no_crash() -> None:
    command = f"{sys.executable} -c '{MAIN}' doctor | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert found.stdout == "Settings\n"
    assert found.stderr == ""


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    found = flash("init", "a" * 300, cwd=tmp_path)
    assert found.returncode == 1
    assert re.fullmatch(r"Error: .+: File name too long\.\n", found.stderr)


# `flash dev` and the project's .env


def test_the_projects_dotenv_gives_options_of_dev_their_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FLASH_HOST=of-dotenv.invalid\n")
    for command in ("dev", "run"):
        found = flash(command, cwd=tmp_path)
        assert found.returncode == 1
        assert "--host of-dotenv.invalid" in found.stderr
    given = flash("dev", cwd=tmp_path, env={"FLASH_HOST": "of-shell.invalid"})
    assert "--host of-shell.invalid" in given.stderr
    option = flash("dev", "--host", "of-option.invalid", cwd=tmp_path)
    assert "--host of-option.invalid" in option.stderr


# Parts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "just now"), (60, "1 minute ago"), (7200, "2 hours ago")],
)
def test_a_time_is_said_in_the_largest_unit(seconds: float, text: str) -> None:
    assert output.ago(seconds) == text


def test_words_that_do_not_fit_are_counted() -> None:
    assert output.shortened(["numpy", "pillow", "torch"], 40) == "numpy, pillow, torch"
    assert output.shortened(["numpy", "pillow", "torch"], 14) == "numpy, +2"
    assert output.shortened(["numpy"], 2) == "+1"
    assert output.shortened([], 2) == ""
