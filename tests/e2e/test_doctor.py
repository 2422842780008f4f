"""`flash doctor`: what it finds, where that comes from, and what is amiss; no secret is told."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import runpod_flash
from unit.command_line import flash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECRET = "hunter2-swordfish"
PACKAGE = Path(runpod_flash.__file__).parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project directory of an otherwise empty home."""
    folder = tmp_path / "home" / "my-app"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    return folder


class Report:
    """What the command says as JSON."""

    def __init__(self, code: int, wire: dict[str, Any]) -> None:
        self.code = code
        self.usable: bool = wire["usable"]
        self.findings: list[dict[str, Any]] = wire["findings"]

    def __getitem__(self, name: str) -> dict[str, Any]:
        (found,) = (each for each in self.findings if each["name"] == name)
        return found

    def names(self, state: str) -> list[str]:
        return [each["name"] for each in self.findings if each["state"] == state]


def variables(place: Path, given: Mapping[str, str]) -> dict[str, str]:
    home = place.parent
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PATH": path, **given}


def doctor(place: Path, **given: str) -> Report:
    ended = flash("doctor", "--json", cwd=place, env=variables(place, given))
    assert ended.stderr == ""
    return Report(ended.returncode, json.loads(ended.stdout))


def shown(place: Path, **given: str) -> str:
    ended = flash("doctor", cwd=place, env=variables(place, given))
    assert "Traceback" not in ended.stderr
    return ended.stdout


# What it says


def test_an_ordinary_project_has_no_errors(place: Path) -> None:
    found = doctor(place)
    assert (found.code, found.usable, found.names("error")) == (0, True, [])
    assert found["target"]["value"].startswith("none")
    assert (found["app"]["value"], found["environment"]["value"]) == ("my-app", "production")
    assert found["project"]["value"] == str(place)
    assert found["project"]["source"] == "it has pyproject.toml"
    assert found["runpod_flash"]["data"] == {"path": str(PACKAGE)}
    assert found["version"]["value"] == runpod_flash.__version__
    assert platform.python_version() in found["this one"]["value"]
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found[minor]["data"]["version"] == platform.python_version()
    assert found["for workers"]["data"]["cores"] >= 1
    assert found["bound"]["data"] == {"bytes": 20_000_000_000}
    assert found["they take"]["data"] == {"number": 0, "bytes": 0}


def test_the_screen_says_the_same_for_people(place: Path) -> None:
    text = shown(place)
    assert re.search(r"^  app +my-app \(default: the directory's name\)$", text, re.MULTILINE)
    topics = re.findall(r"^(\w+)$", text, re.MULTILINE)
    assert topics == ["Settings", "Flash", "Python", "Packages", "Caches", "Machine", "GPUs"]
    assert re.fullmatch(r"Flash works here.*\.", text.splitlines()[-1])


@pytest.mark.parametrize("name", ["app", "environment"])
def test_the_source_of_a_setting_is_named(place: Path, name: str) -> None:
    variable = {"app": "FLASH_APP", "environment": "FLASH_ENV"}[name]
    assert "default" in doctor(place)[name]["source"]
    (place / ".env").write_text(f"{variable}=of-file\n")
    found = doctor(place)[name]
    assert (found["value"], found["source"]) == ("of-file", f"{variable} in .env")
    found = doctor(place, **{variable: "of-shell"})[name]
    assert (found["value"], found["source"]) == ("of-shell", f"variable {variable}")


def test_below_the_root_the_root_and_its_dotenv_are_found(place: Path) -> None:
    (place / ".env").write_text("A=1\nB=2\n")
    below = place / "src" / "deep"
    below.mkdir(parents=True)
    ended = flash("doctor", "--json", cwd=below, env=variables(place, {}))
    found = Report(ended.returncode, json.loads(ended.stdout))
    assert found["project"]["value"] == str(place)
    assert found[".env"]["value"] == str(place / ".env")
    assert found[".env"]["data"] == {"variables": ["A", "B"]}


def test_without_a_project_that_is_said(place: Path) -> None:
    (place / "pyproject.toml").unlink()
    found = doctor(place)
    assert found["project"]["value"].startswith("none")
    assert found.usable


def test_no_secret_is_shown(place: Path) -> None:
    (place / ".env").write_text(f"HF_TOKEN={SECRET}\nRUNPOD_API_KEY={SECRET}\n")
    settings = {
        "RUNPOD_API_KEY": SECRET,
        "FLASH_API_KEY": SECRET,
        "FLASH_TARGET": f"http://me:{SECRET}@localhost:9/{SECRET}",
        "UV_DEFAULT_INDEX": f"https://me:{SECRET}@index.example.invalid/simple?token={SECRET}",
        "UV_INDEX": f"https://{SECRET}@more.example.invalid/simple",
        "PIP_EXTRA_INDEX_URL": f"https://me:{SECRET}@pip.example.invalid/simple",
        "UV_FIND_LINKS": f"https://me:{SECRET}@links.example.invalid/",
    }
    for words in (["doctor"], ["doctor", "--json"]):
        ended = flash(*words, cwd=place, env=variables(place, settings))
        assert SECRET not in ended.stdout + ended.stderr
        for kept in ("index", "more", "links"):
            assert f"https://{kept}.example.invalid/" in ended.stdout
        assert "http://localhost:9 takes no user or password" in ended.stdout
    key = doctor(place, RUNPOD_API_KEY=SECRET)["RUNPOD_API_KEY"]
    assert key["data"] == {"set": True}
    assert "never chooses a target" in key["value"]
    (place / ".env").unlink()
    assert doctor(place)["RUNPOD_API_KEY"]["data"] == {"set": False}


@pytest.fixture
def no_index_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_index_settings")
def test_the_places_that_name_package_indexes_are_listed(place: Path) -> None:
    quiet = {"XDG_CONFIG_HOME": "", "XDG_CONFIG_DIRS": "/nowhere"}
    found = doctor(place, **quiet)
    assert found["index"]["value"] == "PyPI"
    config = place.parent / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = https://of-file.example.invalid/simple\n")
    found = doctor(place, **quiet)
    assert found["index"]["value"] == "https://of-file.example.invalid/simple"
    assert found["set by"]["data"]["sources"] == [str(config)]
    found = doctor(place, **quiet, UV_DEFAULT_INDEX="https://of-shell.example.invalid/simple")
    assert found["index"]["value"] == "https://of-shell.example.invalid/simple"
    assert found["set by"]["data"]["sources"] == ["UV_DEFAULT_INDEX", str(config)]
    (place / "pyproject.toml").write_text('[[tool.uv.index]]\nurl = "https://a.example.invalid"\n')
    found = doctor(place, **quiet)
    assert found["index"]["value"] == f"those of {place / 'pyproject.toml'}"


# What is amiss


def test_every_warning_and_error_has_a_remedy_and_a_mark(place: Path) -> None:
    (place / ".env").write_text("FLASH_TARGET=http://localhost:1\n")
    given = {"FLASH_CACHE_MAX_GB": "lots", "FLASH_TARGET": "nonsense"}
    found = doctor(place, **given)
    amiss = [each for each in found.findings if each["state"] != "ok"]
    assert {each["name"] for each in amiss} >= {"bound", "target", "FLASH_TARGET"}
    assert all(each["remedy"] for each in amiss)
    text = shown(place, **given)
    assert re.search(r"^x bound .+lots", text, re.MULTILINE)
    assert re.search(r"^! FLASH_TARGET ", text, re.MULTILINE)
    assert text.count("Remedy: ") == len(amiss)
    assert text.splitlines()[-1].startswith("Flash cannot work here: 2 errors")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("bound", {"FLASH_CACHE_MAX_GB": "lots"}),
        ("target", {"FLASH_TARGET": "no address"}),
        ("target", {"FLASH_TARGET": "http://localhost:1"}),
        ("environments", {"XDG_CACHE_HOME": "/dev/null/below"}),
    ],
)
def test_what_keeps_flash_from_working_is_an_error(
    place: Path, name: str, given: dict[str, str]
) -> None:
    found = doctor(place, **given)
    assert (found.code, found.usable) == (1, False)
    assert found.names("error") == [name]


def test_a_dotenv_that_cannot_be_read_is_an_error(place: Path) -> None:
    (place / ".env").write_bytes(b"A=\xff\xfe\n")
    found = doctor(place)
    assert (found.code, found.names("error")) == (1, [".env"])
    assert "UTF-8" in found[".env"]["value"]


def test_a_dotenv_chooses_no_target(place: Path) -> None:
    (place / ".env").write_text("FLASH_TARGET=http://localhost:1\n")
    found = doctor(place)
    assert (found.code, found.names("warning")) == (0, ["FLASH_TARGET"])
    assert found["target"]["value"].startswith("none")


@pytest.mark.parametrize("name", ["runpod_flash.py", "runpod_flash/__init__.py"])
def test_what_hides_this_package_from_programs_is_named(place: Path, name: str) -> None:
    other = place / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise SystemExit('imported')\n")
    below = place / "below"
    below.mkdir()
    for cwd in (place, below):
        ended = flash(
            "doctor", "--json", cwd=cwd, env=variables(place, {}), before=PATH_OF_A_SCRIPT
        )
        found = Report(ended.returncode, json.loads(ended.stdout))
        assert found.names("warning") == ["other copy"]
        assert str(place / name.partition("/")[0]) in found["other copy"]["value"]


# With `python -c`, the current directory is on the path, and with the installed command it is not.
PATH_OF_A_SCRIPT = "import sys; sys.path.remove(''); "


def test_a_folder_of_another_content_hides_nothing(place: Path) -> None:
    (place / "runpod_flash").mkdir()
    assert doctor(place).names("warning") == []


def test_what_another_program_of_the_name_left_is_named(place: Path) -> None:
    packages = place.parent / "packages"
    notes = packages / "runpod_flash-99.1.dist-info"
    notes.mkdir(parents=True)
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: runpod-flash\nVersion: 99.1\n")
    found = doctor(place, PYTHONPATH=os.pathsep.join([str(PACKAGE.parent), str(packages)]))
    assert "99.1" in found["other copy"]["value"]
    assert found["other copy"]["state"] == "warning"


def test_a_python_that_has_not_this_package_is_named(place: Path) -> None:
    tools = place.parent / "tools"
    tools.mkdir()
    python = tools / "python"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert f"{python} has no runpod_flash" in doctor(place, PATH=path)["your python"]["value"]
    python.write_text("#!/bin/sh\necho /elsewhere/runpod_flash/__init__.py\n")
    found = doctor(place, PATH=path)["your python"]
    assert "imports /elsewhere/runpod_flash" in found["value"]
    assert sys.executable in found["remedy"]
    python.write_text(f"#!/bin/sh\necho {PACKAGE / '__init__.py'}\n")
    assert doctor(place, PATH=path)["your python"]["state"] == "ok"


# A target that answers


@contextmanager
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()


def test_a_target_that_answers_is_fine(place: Path) -> None:
    with server() as address:
        found = doctor(place, FLASH_TARGET=address)
        assert found.usable
        assert found["target"]["value"] == f"{address}, which answers; asked without a key"
        assert found["target"]["source"] == "variable FLASH_TARGET"
        found = doctor(place, FLASH_TARGET=address, FLASH_API_KEY=SECRET)
        assert found["target"]["value"].endswith("asked with a key")
