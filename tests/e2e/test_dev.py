"""`flash dev` from start to Ctrl-C: the screen, the addresses, reloads, wrong projects."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from e2e.dev_server import dev
from integration.served import write

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
    import torch
    from runpod_flash import Endpoint

    @Endpoint(name="hello", cpu="cpu3c-1-2")
    async def hello(name: str = "world", times: int = 1) -> dict:
        print(f"greets {name}")
        return {"message": f"hello {name}" * times, "version": VERSION}

    VERSION = 1
"""
ROUTES = """
    from runpod_flash import Endpoint

    api = Endpoint(name="api", cpu="cpu3c-1-2")

    @api.get("/items/{number}")
    async def item(number: int) -> dict:
        return {"number": number}
"""


QUOTES = """
    from typing import Literal

    from runpod_flash import Endpoint

    @Endpoint(name="it's", cpu="cpu3c-1-2")
    def echo(text: Literal["it's"]) -> dict:
        return {"text": text}

    api = Endpoint(name="quoted", cpu="cpu3c-1-2")

    @api.get("/it's/{name}")
    async def item(name: Literal["a b?c"], mark: Literal["d&e'f"]) -> dict:
        return {"name": name, "mark": mark}
"""


def test_lines_to_try_are_quoted_for_the_shell(tmp_path: Path) -> None:
    with dev(tmp_path, {"my script's.py": QUOTES}) as server:
        server.wait_for("ready in")
        assert "POST /my%20script%27s/runsync" in server.screen
        assert "GET /my%20script%27s/it%27s/{name}" in server.screen
        curls = [line.strip() for line in server.lines if line.strip().startswith("curl ")]
        answers = []
        for line in curls:
            words = ["sh", "-c", f"{line} -sS --fail-with-body"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done
            answers.append(json.loads(done.stdout))
        assert answers[0]["output"] == {"text": "it's"}
        assert answers[1] == {"name": "a b?c", "mark": "d&e'f"}


def test_every_line_on_the_screen_can_be_pasted_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with dev(tmp_path, {"worker.py": WORKER, "web/routes.py": ROUTES}) as server:
        server.wait_for("ready in")
        assert "POST /worker/runsync" in server.screen
        assert "GET /web/routes/items/{number}" in server.screen
        curls = [line.strip() for line in server.lines if line.strip().startswith("curl ")]
        assert len(curls) == 2
        for line in curls:
            done = subprocess.run(
                [*shlex.split(line), "-s", "-S", "--fail-with-body"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done
            json.loads(done.stdout)
        server.wait_for(r"\[hello\] greets world")
        server.wait_for(r"POST /worker/runsync  200 OK")
        workers = server.children()
        assert workers
        assert server.interrupt() == 0
        left = psutil.wait_procs(workers, timeout=10)[1]
        assert not left, [(each.pid, each.status()) for each in left]


def test_what_a_function_raised_is_shown_where_it_is_served(tmp_path: Path) -> None:
    raises = WORKER.replace("print(", "raise LookupError(")
    with dev(tmp_path, {"worker.py": raises}) as server:
        server.wait_for("ready in")
        httpx.post(f"{server.address}/worker/run", json={"input": {"name": "Ada"}})
        server.wait_for(r"flash: hello: LookupError: .*Ada")
        server.wait_for(r'  File ".*worker.py", line \d+, in hello')


def test_a_client_writes_nothing_but_its_path_on_the_screen(tmp_path: Path) -> None:
    raises = WORKER.replace("print(", "raise LookupError(")
    with dev(tmp_path, {"worker.py": raises}) as server:
        server.wait_for("ready in")
        httpx.get(f"{server.address}/foo%0aFAKE%20LINE%1b%5b2J")
        server.wait_for(re.escape(r"GET /foo\nFAKE LINE\x1b[2J  404 Not Found"))
        name = {"name": "\x1b[2J\nFAKE LINE"}
        httpx.post(f"{server.address}/worker/runsync", json={"input": name})
        server.wait_for(r"POST /worker/runsync")
        assert "\x1b" not in server.screen
        assert not [line for line in server.lines if line.startswith("FAKE")]


def test_a_saved_change_is_served_and_an_error_is_shown_until_it_is_mended(tmp_path: Path) -> None:
    with dev(tmp_path, {"worker.py": WORKER, "web/routes.py": ROUTES}) as server:
        address = server.address

        def version() -> int:
            answer = httpx.post(f"{address}/worker/runsync", json={"input": {}})
            return int(answer.json()["output"]["version"]) if answer.status_code == 200 else 0

        server.wait_for("ready in")
        assert version() == 1
        write(tmp_path, {"worker.py": WORKER.replace("VERSION = 1", "VERSION = 2")})
        server.wait_for("worker.py changed: now serves the new hello")
        assert version() == 2
        write(tmp_path, {"worker.py": WORKER + "\n    def broken(:\n"})
        server.wait_for(r"Error: worker.py:12: invalid syntax")
        server.wait_for("worker.py changed: served again when that is mended")
        answer = httpx.post(f"{address}/worker/runsync", json={"input": {}})
        assert answer.status_code == 500
        assert "worker.py:12" in answer.json()["error"]
        assert httpx.get(f"{address}/web/routes/items/3").json() == {"number": 3}
        write(tmp_path, {"worker.py": WORKER.replace("VERSION = 1", "VERSION = 3")})
        until = time.monotonic() + 20
        while version() != 3:
            assert time.monotonic() < until, server.screen
            time.sleep(0.02)
        new = WORKER.replace("hello", "other")
        write(tmp_path, {"new/deeper/other.py": new})
        server.wait_for("other.py changed")
        answer = httpx.post(f"{address}/new/deeper/other/runsync", json={"input": {}})
        assert answer.status_code == 200


def test_a_file_that_cannot_be_read_is_said_and_later_changes_are_served(tmp_path: Path) -> None:
    with dev(tmp_path, {"worker.py": WORKER}) as server:
        server.wait_for("ready in")
        (tmp_path / ".env").write_bytes(b"NAME=\xff\n")
        server.wait_for(r"\.env changed, and is not served: .*cannot be read: it is not UTF-8")
        (tmp_path / ".env").write_text("NAME=plain\n")
        server.wait_for(r"\.env changed: nothing to replace")
        write(tmp_path, {"worker.py": WORKER + "\n    def broken(:\n"})
        server.wait_for("Error: worker.py:12: invalid syntax")
        assert "Traceback" not in server.screen


def test_what_comes_and_what_goes_is_said_with_its_address(tmp_path: Path) -> None:
    second = """
    @Endpoint(name="second", cpu="cpu3c-1-2")
    def second() -> int:
        return 2
"""
    with dev(tmp_path, {"worker.py": WORKER}) as server:
        server.wait_for("ready in")
        write(tmp_path, {"web/routes.py": ROUTES})
        server.wait_for(r"routes.py changed: api is new \(\d+ ms\)")
        server.wait_for(
            r"changed: .*\n  ENDPOINT .*\n  api +cpu 0-\d +GET /web/routes/items/{number}"
        )
        write(tmp_path, {"web/routes.py": ROUTES + "\n    def broken(:\n"})
        server.wait_for("routes.py changed: served again when that is mended")
        write(tmp_path, {"web/routes.py": ROUTES.replace("/items/", "/things/")})
        server.wait_for(
            r"routes.py changed: (now serves the new api; )?api has new addresses; "
            r"GET /web/routes/items/{number} is gone"
        )
        server.wait_for(r"  api +cpu 0-\d +GET /web/routes/things/{number}")
        (tmp_path / "web/routes.py").unlink()
        server.wait_for("routes.py changed: api is gone")
        # (The only function of a file is called by the file's name alone.)
        write(tmp_path, {"worker.py": WORKER + second})
        server.wait_for(
            "worker.py changed: second is new; hello has new addresses; "
            "POST /worker/runsync is gone"
        )
        server.wait_for(r"  hello +cpu 0-\d +POST /worker/hello/runsync\n  second +cpu")


@pytest.mark.skipif(bool(shutil.which("wrk")), reason="wrk does the same with more requests")
def test_no_request_fails_across_ten_reloads(tmp_path: Path) -> None:
    files = {"worker.py": WORKER, "web/routes.py": ROUTES}

    async def load(address: str, done: asyncio.Event) -> list[httpx.Response]:
        answers: list[httpx.Response] = []
        async with httpx.AsyncClient(base_url=address, timeout=60) as http:
            while not done.is_set() or len(answers) < 250:
                answers.append(await http.post("/worker/runsync", json={"input": {}}))
                answers.append(await http.get("/web/routes/items/1"))
        return answers

    async def scenario(address: str) -> list[httpx.Response]:
        done = asyncio.Event()
        clients = [asyncio.create_task(load(address, done)) for _ in range(4)]
        for version in range(2, 12):
            write(tmp_path, {"worker.py": WORKER.replace("VERSION = 1", f"VERSION = {version}")})
            write(tmp_path, {"web/routes.py": ROUTES + f"\n    V = {version}\n"})
            await asyncio.sleep(0.6)
        done.set()
        return [answer for client in clients for answer in await client]

    with dev(tmp_path, files) as server:
        address = server.address
        server.wait_for("ready in")
        answers = asyncio.run(scenario(address))
        assert len(answers) >= 500
        assert [answer.text for answer in answers if answer.status_code != 200] == []
        answer = httpx.post(f"{address}/worker/runsync", json={"input": {}})
        assert answer.json()["output"]["version"] == 11


WRK = """
local requests = {}
init = function()
    local json = {["content-type"] = "application/json"}
    requests[1] = wrk.format("POST", "/worker/runsync", json, '{"input": {}}')
    requests[2] = wrk.format("GET", "/web/routes/items/1")
end
local count = 0
delay = function()
    return 10  -- enough requests, and time for the reloads
end
request = function()
    count = count + 1
    return requests[count % 2 + 1]
end
response = function(status, headers, body)
    if status ~= 200 then print(status .. " " .. body) end
end
"""


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_no_request_of_wrk_fails_across_ten_reloads(tmp_path: Path) -> None:
    def version() -> int:
        time.sleep(0.02)
        answer = httpx.post(f"{server.address}/worker/runsync", json={"input": {}}, timeout=60)
        return int(answer.json()["output"]["version"])

    (tmp_path / "requests.lua").write_text(WRK)
    with dev(tmp_path, {"worker.py": WORKER, "web/routes.py": ROUTES}) as server:
        server.wait_for("ready in")
        options = ["-t1", "-c8", "-d300s", "--timeout", "60s", "-s", str(tmp_path / "requests.lua")]
        command = ["wrk", *options, server.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            try:
                for number in range(2, 12):
                    write(tmp_path, {"web/routes.py": ROUTES + f"\n    V = {number}\n"})
                    source = WORKER.replace("VERSION = 1", f"VERSION = {number}")
                    write(tmp_path, {"worker.py": source})
                    until = time.monotonic() + 20
                    while version() != number:
                        assert time.monotonic() < until, server.screen
                while len(re.findall(r"  200 OK  ", server.screen)) < 600:  # some are ours
                    time.sleep(0.05)
            finally:
                wrk.send_signal(signal.SIGINT)  # it says then how it went
            told, _ = wrk.communicate(timeout=20)
    sent = re.search(r"(\d+) requests in", told)
    assert sent is not None, told
    assert int(sent[1]) >= 500, told
    assert "Non-2xx" not in told, told
    assert "Socket errors" not in told


def test_workers_are_there_before_the_first_request_with_auto_provision(tmp_path: Path) -> None:
    files = {"worker.py": WORKER, "web/routes.py": ROUTES}
    with dev(tmp_path, files, "--port", "0", "--auto-provision") as server:
        server.wait_for("2 of 2 endpoints ready in")
        began = time.monotonic()
        answer = httpx.post(f"{server.address}/worker/runsync", json={"input": {}})
        assert answer.json()["delayTime"] < 100
        assert time.monotonic() - began < 5


def test_a_port_in_use_is_said_and_the_next_one_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with dev(tmp_path, {"worker.py": WORKER}, "--port", str(port)) as server:
            server.wait_for(rf"port {port} is in use: this is \d+")
            assert httpx.get(f"{server.address}/ping").status_code == 200


def test_a_directory_without_endpoints_says_what_to_write(tmp_path: Path) -> None:
    with dev(tmp_path, {"script.py": "print('never')\n"}) as server:
        assert server.wait() == 1
        assert "no endpoint in" in server.screen
        assert "@Endpoint(" in server.screen
        assert "never" not in server.screen


def test_problems_of_some_files_are_shown_and_the_rest_is_served(tmp_path: Path) -> None:
    files = {
        "worker.py": WORKER,
        "again.py": WORKER,
        "broken.py": "from runpod_flash import Endpoint\n@Endpoint(\n",
        "v2.py": WORKER.replace("hello", "reserved"),
        "fails.py": "from runpod_flash import Endpoint\n\n@Endpoint()\ndef f(): ...\n\n1 / 0\n",
    }
    with dev(tmp_path, files) as server:
        server.wait_for("ready in")
        assert "the endpoint 'hello' is declared at again.py:" in server.screen
        assert "broken.py:2:" in server.screen
        assert "/v2 is an address of the server itself" in server.screen
        assert "fails.py:6: ZeroDivisionError: division by zero" in server.screen
        answer = httpx.post(f"{server.address}/again/runsync", json={"input": {}})
        assert answer.status_code == 200
        broken = httpx.post(f"{server.address}/fails/runsync", json={"input": {}})
        assert (broken.status_code, "ZeroDivisionError" in broken.text) == (500, True)


def test_other_machines_are_not_let_in_by_accident(tmp_path: Path) -> None:
    with dev(tmp_path, {"worker.py": WORKER}, "--host", "0.0.0.0") as server:
        assert server.wait() == 1
        assert "--insecure" in server.screen


def test_a_program_calls_the_running_server_with_its_own_values(tmp_path: Path) -> None:
    files = {
        "worker.py": """
            from runpod_flash import Endpoint

            @Endpoint(name="echo", cpu="cpu3c-1-2")
            async def echo(value):
                if isinstance(value, str):
                    raise KeyError(value)
                return value, {1, 2}

            @Endpoint(name="steps", cpu="cpu3c-1-2")
            def steps(n: int):
                for i in range(n):
                    yield (i, i)

            @Endpoint(name="counter", cpu="cpu3c-1-2")
            class Counter:
                def __init__(self, start: int = 0):
                    self.n = start

                async def add(self, by: int) -> int:
                    self.n += by
                    return self.n
        """,
        "program.py": """
            import asyncio
            from worker import Counter, echo, steps

            async def main():
                assert await echo(b"bytes") == (b"bytes", {1, 2})
                try:
                    await echo("no")
                except KeyError as error:
                    assert error.args == ("no",)
                else:
                    raise AssertionError
                assert [item async for item in steps(3)] == [(0, 0), (1, 1), (2, 2)]
                assert await Counter(10).add(5) == 15
                job = echo.run(7)
                await job.wait(20)
                assert job.output == (7, {1, 2})
                print("all right")

            asyncio.run(main())
            assert echo.call(8) == (8, {1, 2})
        """,
    }
    with dev(tmp_path, files) as server:
        server.wait_for("ready in")
        for key, code in ((None, 0), ("wrong", 1)):
            extra = {} if key is None else {"FLASH_API_KEY": key}
            done = subprocess.run(
                [sys.executable, "program.py"],
                cwd=tmp_path,
                env={**os.environ, "FLASH_TARGET": server.address, **extra},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == code, done
            assert ("all right" if key is None else "server's keys") in done.stdout + done.stderr


def test_nothing_is_left_when_the_server_is_killed(tmp_path: Path) -> None:
    with dev(tmp_path, {"worker.py": WORKER}) as server:
        httpx.post(f"{server.address}/worker/runsync", json={"input": {}})
        workers = server.children()
        assert workers
        psutil.Process(server.pid).kill()
        left = psutil.wait_procs(workers, timeout=2)[1]
        assert not left, [
            (p.pid, p.status(), p.cmdline(), p.ppid()) for p in left if p.is_running()
        ]
