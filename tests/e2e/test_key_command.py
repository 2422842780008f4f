"""`flash key` and `flash server` as people run them: the first key, others, and their end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from e2e.dev_server import DevServer
from integration.served import write
from unit.command_line import flash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "worker.py": """
        from runpod_flash import Endpoint

        @Endpoint(name="double", cpu="cpu3c-1-2")
        def double(x: int) -> int:
            return 2 * x
    """,
    "program.py": """
        from worker import double

        print(double.call({1, 2}.pop()))
    """,
}

ASKS = """
    from runpod_flash import Endpoint

    @Endpoint(name="asks", cpu="cpu3c-1-2")
    async def asks() -> int:
        return (await Endpoint(id="double").runsync({"x": 4})).output
"""


class Place:
    """A home with a project in it, and the commands that are run there."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        write(self.project, FILES)
        self.home = {
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_DATA_HOME": str(folder / "data"),
        }

    @contextmanager
    def server(self, *options: str) -> Iterator[DevServer]:
        arguments = ("--app", str(self.project), *(options or ("--port", "0")))
        server = DevServer(self.project, arguments, "server", self.home)
        try:
            server.wait_for(r"\(docs")
            yield server
            assert server.interrupt() == 0, server.screen
        finally:
            server.kill()

    def key(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return flash("key", *words, cwd=self.project, env={**self.home, **env})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def call(address: str, key: str = "", **options: Any) -> int:
    """The status that a call gets."""
    body = {"input": {"x": 1}}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"{address}/v2/double/runsync"
    return httpx.post(url, json=body, headers=headers, timeout=60, **options).status_code


def test_the_first_start_tells_a_key_that_makes_and_revokes_others(place: Place) -> None:
    with place.server("--port", "0", "--require-key") as server:
        first = server.wait_for(r"(?m)^    (flash_\S+)$")[1]
        link = server.wait_for(rf"(?m)^    ({server.address}/setup\?token=\S+)$")[1]
        assert httpx.get(link).status_code == 200
        assert call(server.address) == 401
        assert call(server.address, first) == 200

        made = place.key("create", "ci", "--expires", "30d", FLASH_TARGET=server.address)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        assert re.fullmatch(r"ci \(key_\w+\) may invoke until .+\nIt is .+\n", made.stderr)
        assert call(server.address, key) == 200
        listed = place.key("list", "--server", server.address)
        assert [line.split()[0] for line in listed.stdout.splitlines()] == [
            "NAME", "first", "ci", "setup"
        ]  # fmt: skip
        assert key not in listed.stdout
        refused = place.key("list", "--server", server.address, FLASH_API_KEY=key)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "has the scope invoke, and this needs admin" in refused.stderr
        revoked = place.key("revoke", "ci", "--server", server.address)
        assert re.fullmatch(r"ci \(key_\w+\) is revoked\.\n", revoked.stdout)
        assert call(server.address, key) == 401

        invited = place.key("invite", "ada", "--scope", "deploy", "--server", server.address)
        assert re.fullmatch(rf"{server.address}/setup\?token=\S+\n", invited.stdout)
        assert "Whoever opens it first gets the key ada, which may deploy." in invited.stderr
        assert "has another name than in the link" in invited.stderr
        assert httpx.get(invited.stdout.strip()).status_code == 200
        assert "invited" in place.key("list", "--server", server.address).stdout
        revoked = place.key("revoke", "ada", "--server", server.address)
        assert re.fullmatch(r"ada \(inv_\w+\) is revoked\.\n", revoked.stdout)
        assert httpx.get(invited.stdout.strip()).status_code == 410


def test_keys_and_programs_of_this_user_last_over_a_restart(place: Place) -> None:
    with place.server() as server:
        first = server.wait_for(r"(?m)^    (flash_\S+)$")[1]
        address = server.address
        port = address.rpartition(":")[2]
        made = place.key("create", "ci", "--json", "--server", address)
        key = json.loads(made.stdout)
    for _ in range(2):
        with place.server("--port", port) as server:
            assert "first start" not in server.screen
            assert first not in server.screen
            assert key["key"] not in server.screen
            found = json.loads(place.key("list", "--json", "--server", address).stdout)
            assert {"first", "ci", "local"} == {each["name"] for each in found}
            assert call(address) == 200
            done = subprocess.run(
                [sys.executable, "program.py"],
                cwd=place.project,
                env={**os.environ, **place.home, "FLASH_TARGET": address},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stdout == "2\n", done.stderr


def test_other_machines_are_let_in_with_keys_and_over_tls_only(
    place: Place, tmp_path: Path
) -> None:
    refused = flash("server", "--host", "0.0.0.0", cwd=place.project, env=place.home)
    assert refused.returncode == 1
    assert "send their keys unencrypted; give --tls-cert" in refused.stderr
    with place.server("--port", "0", "--host", "0.0.0.0", "--insecure") as server:
        address = f"http://127.0.0.1:{server.address.rpartition(':')[2]}"
        assert call(address) == 401
        assert call(address, "flash_forged") == 401
        assert call(address, server.wait_for(r"(?m)^    (flash_\S+)$")[1]) == 200
    if shutil.which("openssl") is None:
        return
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {cert}",
        shell=True, check=True, capture_output=True,
    )  # fmt: skip
    options = ("--port", "0", "--host", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key))
    with place.server(*options) as server:
        address = f"https://localhost:{server.address.rpartition(':')[2]}"
        trusted = {"SSL_CERT_FILE": str(cert)}
        listed = place.key("list", "--json", "--server", address, **trusted)
        assert [each["name"] for each in json.loads(listed.stdout)] == ["first", "local"]
        unknown = place.key("list", "--server", address)
        assert (unknown.returncode, "certificate" in unknown.stderr.lower()) == (1, True)
        plain = place.key("list", "--server", address.replace("https:", "http:"))
        assert f"; use {address} where it has a certificate" in plain.stderr
        # Deployed workers ask on the loopback, with neither certificate nor network between.
        write(place.project, {"asks.py": ASKS})
        given = {**place.home, **trusted}
        done = flash("deploy", "--app", "it", "--server", address, cwd=place.project, env=given)
        assert done.returncode == 0, done.stderr
        words = ("call", "it-production-asks", "{}", "--server", address)
        asked = flash(*words, cwd=place.project, env=given)
        assert asked.stdout == "8\n", asked.stderr


# Wrong words


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["create", "ci"], 2, "No server is chosen; give --server URL, or `flash target use URL`"),
        (["create", "ci", "--expires", "soon"], 2, "'soon' is no length of time; give one such"),
        (
            ["create", "ci", "--scope", "root"],
            2,
            "'root' is not one of 'invoke', 'deploy', 'admin'",
        ),
        (["list", "--server", "nowhere"], 1, "'nowhere' is no address of a server"),
        (["list", "--server", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_wrong_words_are_told_in_a_sentence(
    place: Place, words: list[str], code: int, said: str
) -> None:
    found = place.key(*words)
    assert (found.returncode, found.stdout) == (code, "")
    assert said in found.stderr
    assert found.stderr.startswith("Error: ")


def test_a_key_does_not_leave_this_machine_over_plain_http_unless_told_to(place: Place) -> None:
    words = ("list", "--server", "http://box.invalid:8000")
    refused = place.key(*words, FLASH_API_KEY="flash_secret")
    assert "would be sent over plain http" in refused.stderr
    assert "flash_secret" not in refused.stderr
    for allowed in ((*words, "--insecure"), words):
        tried = place.key(*allowed, FLASH_API_KEY="flash_secret", FLASH_INSECURE="1")
        assert "cannot be reached" in tried.stderr


def test_a_name_that_is_not_there_or_wrong_is_told_by_the_server(place: Place) -> None:
    with place.server() as server:
        for words, said in (
            (["revoke", "nobody"], "has no key 'nobody'"),
            (["revoke", "first"], "'first' is the last key that can make keys"),
            (["create", "first"], "there is a key named 'first'"),
            (["create", "key_x"], "ids begin with key_"),
            (["create", "x", "--scope", "admin", "--endpoint", "a"], "cannot be kept to endpoints"),
        ):
            found = place.key(*words, "--server", server.address)
            assert (found.returncode, found.stdout) == (1, ""), words
            assert said in found.stderr
