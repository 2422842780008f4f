"""`flash worker`: variables by which an unmodified RunPod worker serves an endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
from typing import TYPE_CHECKING

import httpx
import pytest

from e2e.dev_server import DevServer
from integration.foreign import QUICK_ANSWERS, RUNPOD, python_with
from unit.command_line import flash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.network

HANDLER = """
    import runpod

    def handler(job):
        return {"shout": job["input"]["text"].upper()}

    runpod.serverless.start({"handler": handler})
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DevServer]:
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    running = DevServer(
        tmp_path, ("--data-dir", str(tmp_path / "data"), "--port", "0"), "server", home
    )
    try:
        running.wait_for(r"flash_\S+")
        yield running
        assert running.interrupt() == 0, running.screen
    finally:
        running.kill()


def settings(server: DevServer) -> dict[str, str]:
    key = server.wait_for(r"flash_\S+")[0]
    return {"FLASH_TARGET": server.address, "FLASH_API_KEY": key}


def test_an_unmodified_program_serves_with_the_variables_that_are_printed(
    server: DevServer, tmp_path: Path
) -> None:
    (tmp_path / "handler.py").write_text(textwrap.dedent(HANDLER))
    made = flash("worker", "env", "shout", "--new", "--json", env=settings(server))
    assert made.returncode == 0, made.stderr
    worker = subprocess.Popen(
        [python_with(RUNPOD), tmp_path / "handler.py"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            **QUICK_ANSWERS,
            **json.loads(made.stdout),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        asked = {"input": {"text": "hello"}}
        answer = httpx.post(f"{server.address}/v2/shout/runsync", json=asked, timeout=90).json()
        assert answer["output"] == {"shout": "HELLO"}, answer
        assert answer["workerId"] == json.loads(made.stdout)["RUNPOD_POD_ID"]
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def test_the_lines_can_be_read_by_a_shell_and_the_token_ends_when_it_is_revoked(
    server: DevServer,
) -> None:
    made = flash("worker", "env", "shout", "--new", env=settings(server))
    lines = dict(line.removeprefix("export ").split("=", 1) for line in made.stdout.splitlines())
    worker_id = lines["RUNPOD_POD_ID"]
    token = lines["RUNPOD_AI_API_KEY"].strip("'")
    take = f"{server.address}/v2/shout/ping/{worker_id}?gpu=unknown"
    assert httpx.get(take, headers={"authorization": token}, timeout=30).status_code == 200
    revoked = flash("worker", "revoke", "shout", worker_id, env=settings(server))
    assert revoked.returncode == 0, revoked.stderr
    assert httpx.get(take, headers={"authorization": token}, timeout=30).status_code == 401


def test_an_endpoint_that_is_not_there_is_one_sentence(server: DevServer) -> None:
    refused = flash("worker", "env", "shuot", env=settings(server))
    assert refused.returncode == 1
    assert "there is no endpoint 'shuot'; `flash ps` shows all" in refused.stderr
