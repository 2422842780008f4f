"""`flash login`, `logout`, `whoami` and `target`: whose key is used, and where programs run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from behaviour.servers import server
from integration.served import write
from unit.command_line import MAIN, flash, in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target

NO_SSH = {"SSH_CONNECTION": "", "SSH_CLIENT": "", "SSH_TTY": ""}
PROGRAM = """
    import os
    from runpod_flash import Endpoint

    @Endpoint(name="where", cpu="cpu3c-1-2")
    def where() -> bool:
        return "/apps/" in os.getcwd()

    if __name__ == "__main__":
        print("at the server" if where.call() else "here")
"""


class Place:
    """A home of somebody who does not run the server, with a program."""

    def __init__(self, folder: Path, target: Target, cache: Path) -> None:
        self.target = target
        self.home = folder
        self.folder = folder / "project"
        write(self.folder, {"app.py": PROGRAM})
        self.env = {"HOME": str(folder), "XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin"}

    def flash(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return flash(*words, cwd=self.folder, env=self.env, given=given)

    def program(self, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "app.py"],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or done.stderr

    def key(self, *words: str) -> str:
        made = flash("key", "create", *words, env=self.target.variables)
        return made.stdout.strip()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Target]:
    with server(tmp_path_factory.mktemp("server"), shared_cache, "--require-key") as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, target: Target, shared_cache: Path) -> Place:
    return Place(tmp_path, target, shared_cache)


def test_programs_run_at_the_server_that_one_has_logged_in_to(place: Place) -> None:
    address = place.target.address
    assert place.program() == "here"
    key = place.key("ada", "--scope", "deploy")
    done = place.flash("login", "--server", address, given=f"{key}\n")
    assert done.returncode == 0, done.stderr
    assert f"Logged in as ada at {address}, who may deploy." in done.stdout
    assert key not in done.stdout + done.stderr
    (kept,) = (place.home / ".local/state/flash/keys").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert place.flash("whoami").stdout == f"ada at {address}, who may deploy\n"
    assert place.program() == "at the server"
    assert place.program(FLASH_TARGET="") == "here"
    assert f"{address}  chosen by flash target use" in place.flash("target", "list").stdout
    assert "`flash target use`" in place.flash("doctor").stdout

    assert place.flash("target", "use", "none").stdout == "Programs run on this machine.\n"
    assert place.program() == "here"
    assert place.flash("whoami").stdout == f"ada at {address}, who may deploy\n"
    assert place.flash("target", "use", address).returncode == 0
    assert place.program() == "at the server"

    assert place.flash("logout").stdout == f"The key of {address} is forgotten here.\n"
    assert place.program() == "here"
    again = place.flash("logout", "--server", address)
    assert again.returncode == 1
    assert f"No key is kept for {address}" in again.stderr


def test_the_variables_are_those_of_the_hosted_service_s_clients(place: Place) -> None:
    key = place.key("env", "--scope", "invoke")
    place.flash("login", "--server", place.target.address, "--api-key", key)
    printed = place.flash("target", "env").stdout
    sourced = subprocess.run(
        ["/bin/sh", "-c", f"{printed}\nenv"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    found = dict(line.split("=", 1) for line in sourced.stdout.splitlines() if "=" in line)
    assert found["FLASH_TARGET"] == place.target.address
    assert found["RUNPOD_ENDPOINT_BASE_URL"] == f"{place.target.address}/v2"
    assert found["RUNPOD_API_KEY"] == found["FLASH_API_KEY"] == key


def test_variables_that_count_before_the_login_are_named(place: Place) -> None:
    key = place.key("varied", "--scope", "invoke")
    place.env |= {"FLASH_TARGET": "", "FLASH_API_KEY": "other"}
    done = place.flash("login", "--server", place.target.address, "--api-key", key)
    assert done.returncode == 0, done.stderr
    assert "But FLASH_TARGET and FLASH_API_KEY of your shell count before that" in done.stdout


def test_a_key_that_is_kept_to_an_endpoint_can_log_in(place: Place) -> None:
    key = place.key("narrow", "--endpoint", "resize")
    done = place.flash("login", "--server", place.target.address, "--api-key", key)
    assert f"narrow at {place.target.address}, who may invoke to resize" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 2, "No server is chosen; give --server URL (`flash server` starts one)."),
        (("--server", "URL", "--api-key", "wrong"), 1, "key"),
        (("--server", "URL", "--api-key", "-"), 1, "No key was given: pass --api-key KEY"),
        (("--server", "nowhere", "--api-key", "x"), 1, "'nowhere' is no address of a server"),
        (("--server", "http://gpu-box:1", "--api-key", "x"), 1, "over plain http"),
        (("--server", "http://localhost:9", "--api-key", "x"), 1, "cannot be reached"),
    ],
)
def test_who_cannot_log_in_is_told_why_and_nothing_is_kept(
    place: Place, words: tuple[str, ...], code: int, sentence: str
) -> None:
    given = [place.target.address if word == "URL" else word for word in words]
    done = place.flash("login", *given)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.home / ".local/state/flash").exists()
    assert place.program() == "here"


# In a terminal, where somebody allows it in a browser


def test_without_a_browser_here_a_code_is_shown(place: Place) -> None:
    address = place.target.address
    for env in ({"SSH_CONNECTION": "1 2 3 4", "DISPLAY": ":0"}, {"DISPLAY": ""}):
        screen = in_terminal(
            "login", "--server", address, "--timeout", "1", cwd=place.folder,
            env={**place.env, "NO_COLOR": "1", **env},
        )  # fmt: skip
        assert screen.code == 1
        assert f"Open {address}/oauth/device in a browser" in screen.text
        assert re.search(r"^  [A-Z]{4}-[A-Z]{4}$", screen.text, re.MULTILINE)
        assert "nobody allowed the login within 1 seconds" in screen.text
        assert "Traceback" not in screen.text
    assert not (place.home / ".local/state/flash").exists()


def test_with_a_browser_here_it_opens_the_page(place: Place) -> None:
    seen = place.home / "seen"
    opener = place.home / "open"
    opener.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    opener.chmod(0o755)
    screen = in_terminal(
        "login", "--server", place.target.address, "--timeout", "2", cwd=place.folder,
        env={**place.env, "BROWSER": f"{opener} %s", **NO_SSH},
    )  # fmt: skip
    assert screen.code == 1
    assert "nobody allowed the login within 2 seconds" in screen.text
    opened = seen.read_text()
    assert opened.startswith(f"{place.target.address}/oauth/authorize?")
    assert "code_challenge_method=S256" in opened
    assert opened.strip() in screen.text.replace("\n", "")


def test_who_has_a_key_that_counts_needs_no_other(place: Place) -> None:
    address = place.target.address
    words = ("login", "--server", address, "--timeout", "1")
    for name, already in (("two", True), ("one", False)):
        key = place.key(name, "--scope", "deploy" if already else "invoke")
        place.flash("login", "--server", address, "--api-key", key)
        screen = in_terminal(*words, cwd=place.folder, env={**place.env, "DISPLAY": ""})
        assert (screen.code == 0) == already
        assert (f"Logged in as two at {address}" in screen.text) == already


@pytest.mark.parametrize("way", ["--device", "--no-browser"])
def test_ctrl_c_ends_a_login_that_waits_and_leaves_nothing(place: Place, way: str) -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-c", MAIN, "login", "--server", place.target.address, way],
        cwd=place.folder,
        env={**place.env, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    _, error = waiting.communicate(timeout=30)
    assert (waiting.returncode, error.strip()) == (130, "")
    assert not (place.home / ".local/state/flash").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--server", "http://gpu-box:1", "--device"), 1, "over plain http"),
        (("--server", "http://gpu-box:1", "--no-browser"), 1, "over plain http"),
        (("--server", "http://localhost:9", "--device"), 1, "cannot be reached"),
        (("--server", "http://localhost:9", "--no-browser"), 1, "cannot be reached"),
        (("--server", "URL", "--device", "--api-key", "x"), 2, "--api-key needs no browser"),
    ],
)
def test_a_login_that_cannot_begin_says_why(
    place: Place, words: tuple[str, ...], code: int, sentence: str
) -> None:
    given = [place.target.address if word == "URL" else word for word in words]
    done = place.flash("login", *given)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
