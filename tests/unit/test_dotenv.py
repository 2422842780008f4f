"""`.env` is read once, when Endpoint is imported: which file, and what it may set."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SHOW = "import os, sys; print(*(os.environ.get(n, '-') for n in sys.argv[1:]))"
IN_WORKER = """
import runpod_flash.context as context
class Worker: endpoint = importing = ''
context.enter(Worker())
"""


def run(
    folder: Path, *names: str, before: str = "", code: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Import Endpoint in `folder`, and print the variables with these names."""
    code = f"{before}\nfrom runpod_flash import Endpoint\n{code or SHOW}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FLASH_", "RUNPOD_"))}
    environ = {**inherited, "HOME": "/nonexistent", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src" / "deep").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    return root


def test_the_file_sets_what_the_process_has_not_set(project: Path) -> None:
    (project / ".env").write_text("AA=one\nBB='two words'\nexport CC=${AA}3\nDD\n# EE=5\n")
    found = run(project, "AA", "BB", "CC", "DD", "EE", AA="mine")
    assert found.stdout == "mine two words mine3 - -\n"
    assert found.stderr == ""


def test_an_empty_variable_of_the_process_counts_as_set(project: Path) -> None:
    (project / ".env").write_text("AA=one\n")
    assert run(project, "AA", AA="").stdout == "\n"


def test_importing_the_package_alone_reads_nothing(project: Path) -> None:
    (project / ".env").write_text("AA=one\n")
    command = [sys.executable, "-c", f"import runpod_flash\n{SHOW}", "AA"]
    assert subprocess.check_output(command, cwd=project, text=True) == "-\n"


def test_it_is_found_from_a_folder_inside_the_project_and_the_nearest_wins(project: Path) -> None:
    (project / ".env").write_text("AA=root\nBB=root\n")
    assert run(project / "src" / "deep", "AA").stdout == "root\n"
    (project / "src" / ".env").write_text("AA=src\n")
    assert run(project / "src" / "deep", "AA", "BB").stdout == "src -\n"


def test_it_is_not_looked_for_above_the_project(project: Path) -> None:
    (project.parent / ".env").write_text("AA=outside\n")
    assert run(project / "src", "AA").stdout == "-\n"


def test_without_a_project_only_the_working_directory_counts(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / ".env").write_text("AA=outside\n")
    assert run(tmp_path / "work", "AA").stdout == "-\n"
    (tmp_path / "work" / ".env").write_text("AA=here\n")
    assert run(tmp_path / "work", "AA").stdout == "here\n"


def test_a_folder_of_that_name_is_passed_over(project: Path) -> None:
    (project / "src" / ".env").mkdir()
    (project / ".env").write_text("AA=root\n")
    assert run(project / "src", "AA").stdout == "root\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_read(project: Path) -> None:
    (project / ".env").write_text("AA=theirs\n")
    os.chown(project / ".env", 12345, 12345)
    assert run(project, "AA").stdout == "-\n"


@pytest.mark.parametrize(
    "name",
    ["FLASH_TARGET", "FLASH_INSECURE", "FLASH_SERVER_URL", "RUNPOD_API_BASE_URL",
     "RUNPOD_ENDPOINT_BASE_URL", "RUNPOD_REST_API_URL", "RUNPOD_HAPI_URL", "RUNPOD_CONSOLE_URL"],
)  # fmt: skip
def test_it_never_sets_where_code_and_keys_go(project: Path, name: str) -> None:
    (project / ".env").write_text(f"{name}=https://evil.example\nAA=one\n")
    assert run(project, name, "AA").stdout == "- one\n"


def test_it_sets_keys_apps_and_other_programs_addresses(project: Path) -> None:
    names = ("FLASH_APP", "FLASH_API_KEY", "RUNPOD_API_KEY", "OPENAI_BASE_URL", "DATABASE_URL")
    (project / ".env").write_text("".join(f"{name}=x\n" for name in names))
    assert run(project, *names).stdout == "x x x x x\n"


def test_in_a_worker_it_is_not_read(project: Path) -> None:
    (project / ".env").write_text("AA=one\n")
    assert run(project, "AA", before=IN_WORKER).stdout == "-\n"


def test_a_rented_machines_own_variable_does_not_make_it_a_worker(project: Path) -> None:
    (project / ".env").write_text("AA=one\n")
    assert run(project, "AA", RUNPOD_POD_ID="pod").stdout == "one\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"AA=\xff\n", "cannot be read: it is not UTF-8"), (b"AA=a\0b\n", "'AA' holds a NUL")],
)
def test_a_file_that_cannot_be_read_is_named_without_its_values(
    project: Path, content: bytes, why: str
) -> None:
    (project / ".env").write_bytes(content)
    last = run(project).stderr.splitlines()[-1]
    assert last.startswith(f"runpod_flash.errors.ConfigurationError: {project / '.env'}")
    assert why in last


def test_a_working_directory_that_is_gone_is_no_error(project: Path) -> None:
    gone = project / "gone"
    gone.mkdir()
    found = run(gone, "AA", before="import os; os.rmdir(os.getcwd())")
    assert (found.stdout, found.stderr) == ("-\n", "")


def test_a_key_of_the_hosted_service_chooses_no_target(project: Path) -> None:
    code = "from runpod_flash import functions\nfrom runpod_flash.client import backend, embedded\n"
    code += "found = backend.backend_for(functions.Target(None, None))\n"
    code += "print(isinstance(found, embedded.EmbeddedBackend))\n"
    found = run(project, code=code, RUNPOD_API_KEY="rpa_key", HOME=str(project))
    assert (found.stdout, found.stderr) == ("True\n", "")


def test_a_config_file_of_the_hosted_service_chooses_no_target_and_stays_as_it_is(
    project: Path,
) -> None:
    config = project / "home" / ".runpod" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[default]\napi_key = "rpa_key"\n')
    code = "from runpod_flash import functions\nfrom runpod_flash.client import backend, embedded\n"
    code += "print(type(backend.backend_for(functions.Target(None, None))).__name__)\n"
    assert run(project, code=code, HOME=str(project / "home")).stdout == "EmbeddedBackend\n"
    assert config.read_text() == '[default]\napi_key = "rpa_key"\n'
