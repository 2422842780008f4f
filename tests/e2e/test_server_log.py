"""What `flash server` tells of itself: whole JSON lines, with names and ids, and no secrets."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from e2e.dev_server import DevServer
from integration.served import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "app.py": """
        import os
        import time
        from runpod_flash import Endpoint

        @Endpoint(name="talk", cpu="cpu3c-1-2", env={"TOKEN": "value-of-env"})
        def talk(text: str) -> str:
            print("printed by the function")
            return os.environ["TOKEN"] + text

        @Endpoint(name="bad", cpu="cpu3c-1-2")
        def bad(text: str):
            raise ValueError(text)

        @Endpoint(name="endless", cpu="cpu3c-1-2")
        def endless():
            print("begun")
            time.sleep(600)
    """
}
SECRETS = ("value-of-env", "text-of-input", "key-that-was-sent", "query-that-was-sent")


@contextmanager
def server(root: Path, *arguments: str, **env: str) -> Iterator[DevServer]:
    write(root / "app", FILES)
    where = ("--app", "app", "--data-dir", str(root / "data"), "--port", "0")
    running = DevServer(root, (*where, *arguments), "server", env)
    try:
        yield running
    finally:
        running.kill()


def call(address: str, path: str, **options: Any) -> httpx.Response:
    headers = {"authorization": "Bearer key-that-was-sent", "x-request-id": "request-1"}
    url = f"{address}{path}?q=query-that-was-sent"
    body = {"input": {"text": "text-of-input"}}
    return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False, **options)


@pytest.mark.parametrize("level", ["info", "debug"])
def test_every_line_is_json_with_names_and_ids_and_without_secrets(
    tmp_path: Path, level: str
) -> None:
    with server(tmp_path, "--log-format", "json", "--log-level", level) as running:
        address = running.wait_for(r'"address": "(http://[^"]+)"')[1]
        assert call(address, "/v2/talk/runsync").json()["output"] == "value-of-envtext-of-input"
        call(address, "/v2/bad/runsync")
        call(address, "/nowhere")
        running.wait_for("/nowhere")
        assert running.interrupt() == 0
    # (Standard output has the first key, shown once.)
    lines = [json.loads(line) for line in running.lines if line and not line.startswith("  ")]
    assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)
    by_event = {line["event"]: line for line in lines}
    assert by_event["worker_ready"]["worker"].startswith("bad-")
    ended = by_event["job_ended"]
    assert (ended["endpoint"], ended["error"]) == ("bad", "ValueError")
    assert (ended["request_id"], ended["job"] != "") == ("request-1", True)
    asked = by_event["request"]
    assert (asked["status"], asked["path"], asked["request_id"]) == (404, "/nowhere", "request-1")
    assert {"serving", "draining", "worker_ended"} <= by_event.keys()
    assert ("job_started" in by_event) == (level == "debug")
    for secret in SECRETS:
        assert secret not in running.screen


def test_json_is_what_programs_get_and_the_function_s_own_words_are_not_among_it(
    tmp_path: Path,
) -> None:
    with server(tmp_path, FLASH_LOG_FORMAT="") as running:
        address = running.wait_for(r'"address": "(http://[^"]+)"')[1]
        call(address, "/v2/talk/runsync")
        running.wait_for("worker_ready")
        key = running.wait_for(r"flash_[\w-]{40,}")[0]
        admin = {"Authorization": f"Bearer {key}"}
        logs = f"{address}/v2/serverless/talk/logs?follow=false"
        assert httpx.get(logs, trust_env=False).status_code == 401
        kept = httpx.get(logs, headers=admin, trust_env=False).text
        assert "printed by the function" in kept
        assert "printed by the function" not in running.screen


def test_people_get_plain_lines_and_what_functions_print(tmp_path: Path) -> None:
    with server(tmp_path, "--log-format", "text") as running:
        call(running.address, "/v2/talk/runsync")
        running.wait_for(r"\[talk\] printed by the function")
        running.wait_for(r"flash: talk-\w+ ready after")
        assert "{" not in running.screen
        assert running.interrupt() == 0
        assert "draining: running jobs get 30 s" in running.screen


def test_a_server_that_stops_says_so_to_those_who_ask_whether_it_is_ready(tmp_path: Path) -> None:
    slow = """
        import time
        from runpod_flash import Endpoint

        @Endpoint(name="slow", cpu="cpu3c-1-2")
        def slow():
            print("begun")
            time.sleep(3)
    """
    write(tmp_path / "app", {"slow.py": slow})
    with server(tmp_path) as running:
        address = running.address
        httpx.post(f"{address}/v2/slow/run", json={"input": {}}, trust_env=False)
        running.wait_for("begun")
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
        running.signal()
        running.wait_for("draining")
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 503
        assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
        assert running.wait() == 0


def test_a_client_writes_nothing_but_its_path_on_the_terminal(tmp_path: Path) -> None:
    with server(tmp_path, "--log-format", "text") as running:
        call(running.address, "/foo%0aFAKE%20LINE%1b%5b2J")
        running.wait_for(re.escape(r"POST /foo\nFAKE LINE\x1b[2J 404"))
        assert "\x1b" not in running.screen


def test_a_worker_that_outlasts_the_grace_was_ended_by_flash(tmp_path: Path) -> None:
    with server(tmp_path, "--grace", "0.1", "--log-format", "text") as running:
        httpx.post(f"{running.address}/v2/endless/run", json={"input": {}}, trust_env=False)
        running.wait_for("begun")
        running.interrupt()
        running.wait_for("endless-[0-9a-f]+ was ended by Flash")
        assert "SIGKILL" not in running.screen
