"""`flash ps`, `flash logs` and `flash call` against a running `flash server`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from e2e.dev_server import DevServer
from integration.served import write
from runpod_flash.cli.call_session import await_job, run, submit
from runpod_flash.client import control
from runpod_flash.client.control import ControlClient
from unit.command_line import MAIN, flash, in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "app.py": """
        import sys
        import time
        from runpod_flash import Endpoint

        @Endpoint(name="greet", cpu="cpu3c-1-2")
        def greet(name: str = "world") -> dict:
            print(f"greeting {name}")
            return {"message": f"hello {name}"}

        @Endpoint(name="outer", cpu="cpu3c-1-2")
        async def outer() -> str:
            print("asking")
            return (await greet("from inside"))["message"]

        @Endpoint(name="count", cpu="cpu3c-1-2")
        def count(n: int):
            for i in range(n):
                yield {"at": i}

        @Endpoint(name="slow", cpu="cpu3c-1-2")
        def slow(seconds: float):
            print("begun")
            time.sleep(seconds)

        @Endpoint(name="bad", cpu="cpu3c-1-2")
        def bad():
            print("before the end")
            raise ValueError("not today")

        @Endpoint(name="counter", cpu="cpu3c-1-2")
        class Counter:
            def up(self, by: int) -> int:
                return by + 1

            def down(self, by: int) -> int:
                return by - 1
    """
}


class Place:
    """A server, and the commands that ask it."""

    def __init__(self, root: Path) -> None:
        write(root / "app", FILES)
        self.root = root
        self.home = {"HOME": str(root), "XDG_STATE_HOME": str(root / "state")}
        self.server = self.serve("0")
        self.env = {**self.home, "FLASH_TARGET": self.server.address}

    def serve(self, port: str) -> DevServer:
        arguments = ("--app", "app", "--data-dir", str(self.root / "data"), "--port", port)
        return DevServer(self.root, arguments, "server", self.home)

    def kill(self) -> None:
        """The server, as `kill -9` does."""
        self.port = self.server.address.rpartition(":")[2]
        self.server.kill()

    def start_again(self) -> None:
        self.server = self.serve(self.port)
        assert self.server.address

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return flash(*words, cwd=self.root, env=self.env, given=given)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        environ = {**os.environ, **self.env, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", MAIN, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=environ, stdout=pipe, stderr=pipe, text=True
        )

    def status(self, endpoint: str, job: str) -> str:
        url = f"{self.server.address}/v2/{endpoint}/status/{job}"
        return str(httpx.get(url, trust_env=False).json()["status"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("served"))
    try:
        yield found
        assert found.server.interrupt() == 0, found.server.screen
    finally:
        found.server.kill()


# call


def test_the_result_is_json_and_what_is_printed_goes_to_standard_error(place: Place) -> None:
    done = place.run("call", "greet", '{"name": "you"}')
    assert (done.returncode, done.stdout) == (0, '{"message": "hello you"}\n')
    assert done.stderr == "[greet] greeting you\n"


def test_the_lines_of_nested_jobs_are_shown_too(place: Place) -> None:
    done = place.run("call", "outer")
    assert done.stdout == '"hello from inside"\n'
    assert done.stderr.splitlines() == ["[outer] asking", "[greet] greeting from inside"]


def test_the_input_comes_from_the_argument_a_file_or_standard_input(place: Place) -> None:
    place.root.joinpath("in.json").write_text('{"name": "file"}')
    assert place.run("call", "greet").stdout == '{"message": "hello world"}\n'
    assert "hello file" in place.run("call", "greet", "@in.json").stdout
    assert "hello pipe" in place.run("call", "greet", "-", given='{"name": "pipe"}').stdout


def test_a_generator_is_printed_line_by_line_or_as_a_list(place: Place) -> None:
    streamed = place.run("call", "count", '{"n": 3}', "--stream")
    assert streamed.stdout == '{"at": 0}\n{"at": 1}\n{"at": 2}\n'
    assert json.loads(place.run("call", "count", '{"n": 2}').stdout) == [{"at": 0}, {"at": 1}]


def test_what_is_no_generator_is_printed_with_stream_too(place: Place) -> None:
    assert place.run("call", "greet", "--stream").stdout == '{"message": "hello world"}\n'
    assert place.run("call", "count", '{"n": 0}', "--stream").stdout == ""


def test_a_method_of_a_class_is_named_by_an_option(place: Place) -> None:
    assert place.run("call", "counter", '{"by": 1}', "--method", "down").stdout == "0\n"
    done = place.run("call", "counter", '{"by": 1}')
    assert done.returncode == 1
    assert "one of up, down (`flash call` has --method for that)" in done.stderr
    done = place.run("call", "counter", "--method", "dow")
    told = "Counter has no method 'dow'. Did you mean 'down'? It has: up, down."
    assert (done.returncode, told in done.stderr) == (1, True)


def test_a_failed_job_ends_with_1_its_lines_and_the_remote_traceback(place: Place) -> None:
    done = place.run("call", "bad")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("[bad] before the end\nTraceback")
    assert 'raise ValueError("not today")' in done.stderr
    assert done.stderr.rstrip().endswith("failed: ValueError: not today")
    assert done.stderr.count("ValueError: not today") == 1


def test_without_waiting_the_job_s_id_is_printed(place: Place) -> None:
    done = place.run("call", "greet", "--no-wait")
    accepted = json.loads(done.stdout)
    assert accepted["status"] == "IN_QUEUE"
    assert place.status("greet", accepted["id"]) in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")


def test_a_job_is_waited_for_later(place: Place) -> None:
    job = json.loads(place.run("call", "count", '{"n": 2}', "--no-wait").stdout)["id"]
    assert json.loads(place.run("call", "count", "--job", job).stdout) == [{"at": 0}, {"at": 1}]
    assert place.run("call", "count", "--job", job, "--stream").stdout == '{"at": 0}\n{"at": 1}\n'
    told = place.run("call", "count", "--job", job, "--no-wait").stdout
    assert json.loads(told) == {"id": job, "status": "COMPLETED"}
    done = place.run("call", "count", "{}", "--job", job)
    assert (done.returncode, "a job that has its input" in done.stderr) == (2, True)
    done = place.run("call", "count", "--job", "nowhere")
    assert (done.returncode, "nowhere" in done.stderr) == (1, True)


def test_ctrl_c_leaves_a_job_alone_that_was_queued_before(place: Place) -> None:
    job = json.loads(place.run("call", "slow", '{"seconds": 60}', "--no-wait").stdout)["id"]
    running = place.start("call", "slow", "--job", job)
    while not psutil.Process(running.pid).net_connections("tcp"):
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert f"--job {job} --server {place.server.address}` waits for job {job}." in said
    assert place.status("slow", job) in ("IN_QUEUE", "IN_PROGRESS")
    httpx.post(f"{place.server.address}/v2/slow/cancel/{job}", trust_env=False)


def test_a_job_and_the_logs_go_on_when_the_server_is_back(tmp_path: Path) -> None:
    place = Place(tmp_path)
    try:
        logs = place.start("logs", "-f", "--tail", "100")
        call = place.start("call", "slow", '{"seconds": 2}')
        assert call.stderr is not None
        assert call.stderr.readline() == "[slow] begun\n"
        assert logs.stdout is not None
        shown = [logs.stdout.readline()]
        while not shown[-1].endswith("begun\n"):
            shown.append(logs.stdout.readline())
            assert shown[-1], shown
        place.kill()
        time.sleep(3)
        place.start_again()
        out, said = call.communicate(timeout=60)
        assert (call.returncode, out) == (0, "null\n"), said
        place.run("call", "greet", '{"name": "follower"}')
        while "greeting follower" not in shown[-1]:
            shown.append(logs.stdout.readline())
            assert shown[-1], shown
        assert len([line for line in shown if line.endswith("begun\n")]) == 2, "one of each attempt"
        logs.send_signal(signal.SIGINT)
        assert f"{place.env['FLASH_TARGET']} is away" in logs.communicate(timeout=30)[1]
    finally:
        place.server.kill()


def test_a_server_that_stays_away_leaves_the_job_s_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = Place(tmp_path)
    try:
        server = ControlClient(place.server.address)
        job = submit(server, "slow", {"seconds": 60})["id"]
        threading.Timer(1, place.kill).start()
        assert await_job(server, "slow", job, stream=False) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"`flash call slow --job {job} --server {server.origin}` waits for job" in said
    finally:
        place.server.kill()


def test_ctrl_c_while_the_server_is_away_leaves_the_job_s_id(tmp_path: Path) -> None:
    place = Place(tmp_path)
    try:
        call = place.start("call", "slow", '{"seconds": 60}')
        assert call.stderr is not None
        assert call.stderr.readline() == "[slow] begun\n"
        place.kill()
        call.send_signal(signal.SIGINT)
        _, said = call.communicate(timeout=20)  # (it would wait for the server for 30 s)
        assert call.returncode == 130
        assert re.search(r"is away, and job (\S+) is not cancelled: .* --job \1 ", said), said
    finally:
        place.server.kill()


def test_ctrl_c_cancels_the_job(place: Place) -> None:
    running = place.start("call", "slow", '{"seconds": 60}')
    assert running.stderr is not None
    assert running.stderr.readline() == "[slow] begun\n"
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    job = said.split()[said.split().index("job") + 1]
    assert place.status("slow", job) == "CANCELLED"


class InterruptedClient(ControlClient):
    """Ctrl-C comes when a job has been accepted, before the answer is read."""

    interrupted = False

    def ask(self, method: str, path: str, *rest: Any) -> Any:
        answer = super().ask(method, path, *rest)
        if path.endswith("/run") and not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return answer


def test_ctrl_c_cancels_a_job_whose_submission_is_not_answered_yet(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place.root))
    client = InterruptedClient(place.server.address)
    assert run(client, "slow", {"seconds": 60}, stream=False) == 130
    assert client.interrupted
    said = capsys.readouterr().err.split()
    assert place.status("slow", said[said.index("job") + 1]) == "CANCELLED"
    running = httpx.get(f"{place.server.address}/v2/slow/health", trust_env=False).json()["jobs"]
    assert (running["inQueue"], running["inProgress"]) == (0, 0), "there was one job"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{'a': 1}", "JSON has double quotes"),
        ('{"a": 1,}', "line 1, column"),
        ("", "it is empty"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_input_that_is_no_json_is_refused_with_its_place(
    place: Place, given: str, said: str
) -> None:
    done = place.run("call", "greet", "-", given=given)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(place: Place) -> None:
    done = place.run("call", "greet", "@nowhere.json")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: nowhere.json: No such file or directory.\n",
    )


def test_a_wrong_name_is_answered_with_the_near_one(place: Place) -> None:
    for words in (("call", "gret"), ("logs", "gret")):
        done = place.run(*words)
        assert done.returncode == 1
        assert "Did you mean 'greet'?" in done.stderr
    assert "`flash ps` shows those that there are" in place.run("logs", "zzzz").stderr


def test_a_server_that_is_not_there_is_one_sentence(place: Place) -> None:
    for command in (("ps",), ("logs",), ("call", "greet")):
        done = place.run(*command, "--server", "http://localhost:9")
        assert done.returncode == 1
        assert done.stderr.startswith("Error: http://localhost:9 cannot be reached")
        assert done.stderr.count("\n") == 1


# ps


def test_ps_shows_endpoints_and_their_workers(place: Place) -> None:
    place.run("call", "greet")
    done = place.run("ps")
    assert done.returncode == 0
    head, *rows = done.stdout.splitlines()
    assert head.split()[:4] == ["ENDPOINT", "KIND", "WORKERS", "QUEUE"]
    greet = next(row for row in rows if row.startswith("greet "))
    assert greet.split()[1:] == ["queue", "1", "of", "0-1", "0", "0"]
    worker = next(row for row in rows if row.startswith("greet-"))
    assert worker.split()[1] == "idle"
    assert worker.split()[3:5] == ["cpu", worker.split()[4]]
    assert "No GPUs." in rows


def test_ps_gives_json_to_scripts(place: Place) -> None:
    found = json.loads(place.run("ps", "--json").stdout)
    assert "greet" in [each["name"] for each in found["endpoints"]]
    assert found["devices"] == []


def test_ps_goes_on_until_ctrl_c(place: Place) -> None:
    running = place.start("ps", "--watch", "--json")
    assert running.stdout is not None
    assert all("endpoints" in json.loads(running.stdout.readline()) for _ in range(2))
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 130


def test_ps_is_a_table_on_a_terminal_too(place: Place) -> None:
    shown = in_terminal("ps", cwd=place.root, env=place.env)
    assert shown.code == 0
    assert "\x1b[2mENDPOINT" in shown.text


# logs


def test_logs_show_lines_and_what_became_of_workers(place: Place) -> None:
    place.run("call", "bad")
    done = place.run("logs", "bad")
    texts = [line.split("  ", 1)[1] for line in done.stdout.splitlines()]
    assert texts[0] == "-- started"
    assert texts[1].startswith("-- ready after")
    assert texts[-1] == "before the end"


def test_logs_of_one_worker_and_the_last_of_all(place: Place) -> None:
    place.run("call", "greet", '{"name": "last"}')
    lines = [json.loads(line) for line in place.run("logs", "--json").stdout.splitlines()]
    assert {"greet", "bad"} <= {line["endpoint"] for line in lines}
    # (An earlier one may have ended meanwhile.)
    worker = [each["worker"] for each in lines if each.get("worker", "").startswith("greet-")][-1]
    done = place.run("logs", "--worker", worker, "--tail", "1")
    assert done.stdout.rstrip().endswith("greeting last")
    assert done.stdout.count("\n") == 1


def test_logs_are_followed(place: Place) -> None:
    place.run("call", "greet")  # (a worker that starts then would say so first)
    running = place.start("logs", "greet", "-f", "--tail", "1", "--json")
    assert running.stdout is not None
    running.stdout.readline()
    place.run("call", "greet", '{"name": "follower"}')
    assert json.loads(running.stdout.readline())["line"] == "greeting follower"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 130


def test_a_server_keeps_logs_of_workers_that_have_ended(place: Place) -> None:
    until = time.monotonic() + 30
    place.run("call", "greet")
    found = json.loads(place.run("ps", "--json").stdout)
    (worker,) = next(e["workers"] for e in found["endpoints"] if e["name"] == "greet")
    for child in place.server.children():
        if worker["id"] in child.cmdline():
            child.kill()
    while "SIGKILL" not in place.run("logs", "--worker", worker["id"]).stdout:
        assert time.monotonic() < until
