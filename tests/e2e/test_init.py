"""`flash init`: what it asks, what it writes, and that the project it writes runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from uv import find_uv_bin

from runpod_flash.cli.init import _template
from unit.command_line import MAIN, flash, in_terminal

if TYPE_CHECKING:
    from behaviour.programs import Programs

ROOT = Path(__file__).parents[2]
FILES = {
    ".env.example",
    ".gitignore",
    "README.md",
    "cpu_worker.py",
    "gpu_worker.py",
    "lb_worker.py",
    "pipeline.py",
    "pyproject.toml",
    "requirements.txt",
    "tests/__init__.py",
    "tests/test_workers.py",
}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(programs: Programs) -> Path:
    """A new project, in the folder of the programs."""
    made = flash("init", ".", cwd=programs.folder)
    assert made.returncode == 0, made.stderr
    return programs.folder


# What is written


def test_a_project_is_written_and_shown_with_the_next_steps(tmp_path: Path) -> None:
    made = flash("init", "my-app", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    folder = tmp_path / "my-app"
    assert files(folder) == FILES
    assert 'name = "my-app"' in (folder / "pyproject.toml").read_text()
    assert (folder / "README.md").read_text().startswith("# my-app\n")
    for name in FILES:
        assert name.rpartition("/")[2] in made.stdout
        assert "{{" not in (folder / name).read_text()
    assert re.search(r"^  cd my-app\n  flash dev\n  curl ", made.stdout, re.MULTILINE)


def test_in_the_current_directory_there_is_no_step_to_enter_it(tmp_path: Path) -> None:
    made = flash("init", ".", cwd=tmp_path)
    assert files(tmp_path) == FILES
    assert "cd " not in made.stdout


def test_a_directory_with_another_name_than_a_project_may_have_is_no_hindrance(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "My first (app)"
    folder.mkdir()
    assert flash("init", ".", cwd=folder).returncode == 0
    assert 'name = "My-first-app"' in (folder / "pyproject.toml").read_text()


def test_without_a_name_its_help_is_shown(tmp_path: Path) -> None:
    found = flash("init", cwd=tmp_path)
    assert found.stdout.startswith("Usage: flash init ")
    assert (found.returncode, found.stderr) == (0, "")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["my app", "-app-"[1:], ".app", "a;b", "gr\u00f6\u00dfe"])
def test_a_name_that_a_project_cannot_have_is_refused_with_one_that_it_can(
    tmp_path: Path, name: str
) -> None:
    found = flash("init", name, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert f"{name!r} is no name for a project" in found.stderr
    assert re.search(r"such as '[A-Za-z0-9._-]+'", found.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["runpod_flash", "runpod-flash"])
def test_a_project_does_not_hide_flash_itself(tmp_path: Path, name: str) -> None:
    found = flash("init", name, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert "is the name of Flash's own package" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_the_directory_would_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    found = flash("init", name, "--force", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert "is not a directory" in found.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["README.md/", "tests"])
def test_what_is_in_the_way_is_named_before_anything_is_written(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.mkdir() if place.endswith("/") else path.write_text("mine")
    found = flash("init", ".", "--force", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert re.search(r"is a directory|is not a directory", found.stderr)
    assert files(tmp_path) <= {"tests"}


# What is there already


def changed(folder: Path) -> dict[str, str]:
    """A project with two files of the user's own in it, and what those hold."""
    assert flash("init", ".", cwd=folder).returncode == 0
    own = {"README.md": "my own\n", "pyproject.toml": "[project]\n"}
    for name, text in own.items():
        (folder / name).write_text(text)
    return own


def texts(folder: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names}


@pytest.mark.parametrize("answer", ["n", "", "no"])
def test_declined_nothing_is_changed(tmp_path: Path, answer: str) -> None:
    own = changed(tmp_path)
    (tmp_path / "lb_worker.py").unlink()
    screen = in_terminal("init", ".", typed=f"{answer}\n", cwd=tmp_path)
    assert screen.code == 0
    assert "  pyproject.toml\n  README.md\n" in screen.text
    assert "Replace 2 files? [y/N]" in screen.text
    assert "Nothing was changed." in screen.text
    assert texts(tmp_path, own) == own
    assert not (tmp_path / "lb_worker.py").exists()


def test_with_consent_files_are_replaced(tmp_path: Path) -> None:
    own = changed(tmp_path)
    screen = in_terminal("init", ".", typed="y\n", cwd=tmp_path)
    assert screen.code == 0
    assert "flash dev" in screen.text
    assert not set(texts(tmp_path, own).values()) & set(own.values())


def test_ctrl_c_at_the_question_changes_nothing(tmp_path: Path) -> None:
    own = changed(tmp_path)
    screen = in_terminal("init", ".", typed="\x04", cwd=tmp_path)  # the end of input, to Flash
    assert screen.code == 130
    assert "Traceback" not in screen.text
    assert texts(tmp_path, own) == own


def test_without_a_terminal_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    own = changed(tmp_path)
    found = flash("init", ".", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith("Error: pyproject.toml, README.md in ")
    assert "--force" in found.stderr
    assert texts(tmp_path, own) == own


@pytest.mark.parametrize("option", ["--force", "-f"])
def test_force_replaces_without_asking(tmp_path: Path, option: str) -> None:
    own = changed(tmp_path)
    (tmp_path / "mine.py").write_text("mine")
    found = flash("init", ".", option, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert not set(texts(tmp_path, own).values()) & set(own.values())
    assert (tmp_path / "mine.py").read_text() == "mine"


def test_files_that_are_the_same_are_not_asked_about(tmp_path: Path) -> None:
    for _ in range(2):
        found = flash("init", ".", cwd=tmp_path)
        assert (found.returncode, found.stderr) == (0, "")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "README.md").symlink_to(outside)
    assert flash("init", ".", cwd=folder).returncode == 1
    assert flash("init", ".", "--force", cwd=folder).returncode == 0
    assert outside.read_text() == "mine"
    assert not (folder / "README.md").is_symlink()


# The project runs


PRINTED = {
    "cpu_worker": (
        r"\{'greetings': \['hello Ada', 'hello Ada'\]\}\n4 \['be', 'to'\]\n"
        r"token-0 token-1 token-2 token-3 token-4 \n"
    ),
    "gpu_worker": r"\{'device': .+, 'input': \{'message': 'hello'\}\}\n",
    "lb_worker": r"\{'status': 'ok'\}\n\{'text': 'HELLO', 'length': 5\}\n",
    "pipeline": r"\{'device': .+'greetings': \['hello Ada', 'hello Ada'\].+\n",
}


def test_every_worker_file_is_expected_here() -> None:
    root = {name.removesuffix(".py") for name in FILES if name.endswith(".py") and "/" not in name}
    assert root == set(PRINTED)


@pytest.mark.parametrize("name", [*PRINTED])
def test_a_file_of_the_project_runs_as_a_program(
    programs: Programs, project: Path, name: str
) -> None:
    ended = programs.run(arguments=[f"{name}.py"], cwd=project)
    assert ended.code == 0, ended
    assert re.fullmatch(PRINTED[name], ended.stdout), ended


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_the_projects_own_tests_pass(programs: Programs, project: Path, runner: str) -> None:
    ended = programs.run(arguments=["-m", runner], cwd=project)
    assert ended.code == 0, ended
    assert re.search(r"Ran 6 tests|6 passed", ended.stdout + ended.stderr)


def test_the_project_is_typed(project: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "."]
    checked = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_project_is_formatted_and_linted(project: Path) -> None:
    for words in (["format", "--check"], ["check", "--select", "E,F,I,UP,B,N,ASYNC,RUF,SIM"]):
        command = [sys.executable, "-m", "ruff", *words, "--isolated", "--line-length", "100", "."]
        checked = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


ON_A_GPU = """
from runpod_flash import GpuType
from runpod_flash.testing import use_node

if __name__ == "__main__":
    use_node([GpuType.NVIDIA_L4])
    from gpu_worker import gpu_hello
    print(json.dumps(gpu_hello.call({"n": 1})))
"""


def test_on_a_gpu_the_function_says_its_name(programs: Programs, project: Path) -> None:
    tools = project / "tools"
    tools.mkdir()
    program = tools / "nvidia-smi"
    program.write_text('#!/bin/sh\ntest "$1" = --id=0 && echo NVIDIA L4\n')
    program.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    found = programs.run(ON_A_GPU, env={"PATH": path}).result
    assert found == {"device": "NVIDIA L4", "input": {"n": 1}}


def test_on_a_gpu_without_its_program_the_function_gives_the_number(
    programs: Programs, project: Path
) -> None:
    found = programs.run(ON_A_GPU, env={"PATH": "/usr/bin:/bin"}).result
    assert found == {"device": "GPU 0", "input": {"n": 1}}


def test_on_the_cpu_the_function_says_why(programs: Programs, project: Path) -> None:
    source = ON_A_GPU.replace("[GpuType.NVIDIA_L4]", "[]")
    found = programs.run(source).result
    assert found["device"] == "cpu"
    assert "flash doctor" in found["why"]


# The project is served


def curls(readme: Path) -> list[str]:
    lines = readme.read_text().replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.startswith("    curl ")]


ANSWERS = {
    "gpu_worker/runsync": '"input":{"message":"hello"}',
    "cpu_hello/runsync": '"output": {"greetings":["hello Ada","hello Ada"]}',
    "lb_worker/health": '{"status":"ok"}',
    "lb_worker/process": '{"text":"HELLO","length":5}',
    "lb_worker/items/lamp": '{"name":"lamp","size":1}',
    "lb_worker/words": "one\nafter\nanother\n",
}


@pytest.mark.network  # what answers the routes comes from the index
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_every_curl_line_of_the_readme_is_answered(programs: Programs, project: Path) -> None:
    lines = curls(project / "README.md")
    assert len(lines) == len(ANSWERS)
    with programs.start(arguments=["-c", MAIN, "dev", "--port", "0"], cwd=project) as server:
        server.until_printed("Ctrl-C stops")
        address = re.search(r"http://localhost:(\d+)", "".join(server.lines))
        assert address
        for line, (path, answer) in zip(lines, ANSWERS.items(), strict=True):
            assert path in line
            called = shlex.split(line.replace("localhost:8888", f"localhost:{address[1]}"))
            found = subprocess.run(
                [*called, "--fail-with-body", "--silent"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert answer in found.stdout, (line, found, server.text())
        server.interrupt()
        assert server.finish().code == 0


@pytest.mark.network  # what builds the wheel comes from the index
def test_the_projects_files_come_with_the_wheel(tmp_path: Path) -> None:
    command = [find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {_template(file).relative_to(ROOT / "src").as_posix() for file in FILES} <= packed
