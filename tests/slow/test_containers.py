"""Images as endpoints, with a real container engine: what they serve, and how they end."""

from __future__ import annotations

import asyncio
import json
import platform
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect

from integration.runpod_workers import end, run, status, until
from integration.served import serve
from slow.containers import needs_podman
from slow.images import QUEUE, WEB

if TYPE_CHECKING:
    from pathlib import Path

    from behaviour.programs import Programs
    from integration.served import Served
    from slow.containers import Podman

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(300), needs_podman]
IMPORTS = """\
    from runpod_flash import Endpoint, GpuGroup, NetworkVolume, PodTemplate

    CPU = "cpu3c-1-2"
"""


def declared(name: str, image: str, more: str = "") -> dict[str, str]:
    """A file that declares an endpoint of an image."""
    line = f"    it = Endpoint(name={name!r}, image={image!r}, cpu=CPU, {more})\n"
    return {"app.py": IMPORTS + line}


def test_a_queue_worker_of_runpods_package_runs_streams_is_cancelled_and_goes(
    engine: Podman, tmp_path: Path
) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.post("/v2/ext/runsync?wait=120000", {"input": {"a": 1}})
        assert answer.json()["output"][0]["given"] == {"a": 1}, answer.text
        (worker,) = served.plane.workers()
        assert answer.json()["workerId"] == worker.id
        job = await run(served, stream=4)
        assert (await end(served, job))["status"] == "COMPLETED"
        streamed = (await served.get(f"/v2/ext/stream/{job}")).json()["stream"]
        assert [each["output"] for each in streamed] == [0, 1, 2, 3]
        failed = await run(served, **{"raise": "no"})
        assert "handler: no" in (await end(served, failed))["error"]
        health = (await served.get("/v2/ext/health")).json()
        assert health["jobs"]["completed"] == 2
        assert health["workers"]["ready"] == 1

        running = await run(served, sleep=60)
        await until(lambda: len(worker.jobs), 1)
        assert (await status(served, running))["status"] == "IN_PROGRESS"
        await served.post(f"/v2/ext/cancel/{running}")
        assert (await status(served, running))["status"] == "CANCELLED"
        assert len(engine.containers()) == 1
        await until(lambda: len(served.plane.workers()), 0)  # idle_timeout
        assert engine.containers() == []

    more = "idle_timeout=2, env={'GENERATOR': '1'}"
    serve(tmp_path, declared("ext", QUEUE, more), scenario)


def test_an_http_server_is_proxied_with_streams_and_web_sockets(
    engine: Podman, tmp_path: Path
) -> None:
    async def scenario(served: Served) -> None:
        told = (await served.post("/app/web/some/path%2Fx?a=1&a=2", {"b": 3}, timeout=120)).json()
        assert told == {
            "method": "POST", "path": "/some/path%2Fx", "query": "a=1&a=2", "body": '{"b":3}',
        }  # fmt: skip
        assert (await served.get("/app/web/")).json()["path"] == "/"
        async with served.http.stream("GET", "/app/web/stream") as response:
            came = [(line, time.monotonic()) async for line in response.aiter_lines()]
        assert [line for line, _ in came] == ["0", "1", "2", "3", "4"]
        assert came[-1][1] - came[0][1] > 0.5
        address = served.address.replace("http", "ws")
        async with connect(f"{address}/app/web/socket", proxy=None) as socket:
            await socket.send("abc")
            assert await socket.recv() == "cba"
        large = {"x": "y" * 3_000_000}
        body = (await served.post("/app/web/large", large)).json()["body"]
        assert json.loads(body) == large
        refused = await end(served, await run(served, "web", a=1), "web")
        assert "this worker is an HTTP server: a job's input has" in refused["error"]

    more = "template=PodTemplate(ports='8000/http')"
    serve(tmp_path, declared("web", WEB, more), scenario)


@pytest.mark.parametrize(
    "more",
    [
        "template=PodTemplate(startScript='PORT=9000 exec python /web.py')",  # what listens
        "env={'NO_PING': '1'}",  # a server without /ping
        "template=PodTemplate(config={'health': '/health', 'allow': ['writable-root']})",
    ],
)
def test_the_port_and_path_of_a_server_are_found_or_given(
    engine: Podman, tmp_path: Path, more: str
) -> None:
    async def scenario(served: Served) -> None:
        assert (await served.get("/app/web/x", timeout=120)).json()["path"] == "/x"

    serve(tmp_path, declared("web", WEB, more), scenario)


FUNCTION = """
    @Endpoint(name="inside", image="localhost/functions:1", cpu=CPU)
    def inside(numbers):
        import tempfile
        from helper import double
        print("it runs")
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        return [double(n) for n in numbers], sys.executable, os.path.exists("/etc/hostname-of-host")

    @Endpoint(name="counting", image="localhost/functions:1", cpu=CPU)
    def counting(n):
        yield from range(n)

    @Endpoint(name="writing", image="localhost/functions:1", cpu=CPU)
    def writing():
        open("/etc/x", "w")

    async def main():
        values, python, _ = await inside([1, 2, 3])
        streamed = [n async for n in counting(3)]
        try:
            await writing()
        except OSError as error:
            return [values, python, streamed, error.strerror]
"""


def test_a_function_runs_inside_an_image(engine: Podman, programs: Programs) -> None:
    programs.write({"helper.py": "def double(n):\n    return 2 * n\n"})
    done = programs.run(program(FUNCTION), env={"DOCKER_HOST": engine.address}, timeout=120)
    values, python, streamed, error = done.result
    assert (values, streamed, error) == ([2, 4, 6], [0, 1, 2], "Read-only file system")
    assert python.startswith("/usr/")
    assert "[inside] it runs" in done.stderr


def program(text: str) -> str:
    """A program whose `main` gives its result."""
    end = "\nif __name__ == '__main__':\n    print(json.dumps(asyncio.run(main())))\n"
    return textwrap.dedent(text) + end


CLIENT = f"""
    web = Endpoint(name="web", image={WEB!r}, cpu=CPU)
    queue = Endpoint(name="queue", image={QUEUE!r}, cpu=CPU)
    streams = Endpoint(name="streams", image={QUEUE!r}, cpu=CPU, env={{"GENERATOR": "1"}})

    async def main():
        told = await web.post("/x", {{"a": 1}})
        lines = [line async for line in web.get("/stream")]
        job = await queue.runsync({{"a": 2}}, timeout=120)
        streaming = await streams.run({{"stream": 3}})
        streamed = [value async for value in streaming.stream()]
        failed = await queue.runsync({{"raise": "no"}})
        return [told["body"], lines, job.output["given"], streamed, failed.error]
"""


def test_an_image_is_called_as_a_client_from_a_program(engine: Podman, programs: Programs) -> None:
    done = programs.run(program(CLIENT), env={"DOCKER_HOST": engine.address}, timeout=120)
    body, lines, given, streamed, error = done.result
    assert (json.loads(body), lines) == ({"a": 1}, ["0", "1", "2", "3", "4"])
    assert (given, streamed) == ({"a": 2}, [0, 1, 2])
    assert "ValueError: no" in error


# (The engine's client leaves the socket of a broken stream to the collector.)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_engine_loses_no_job_and_leaves_no_container(
    engine: Podman, tmp_path: Path
) -> None:
    async def scenario(served: Served) -> None:
        first = await run(served, sleep=6)
        await until(lambda: [len(each.jobs) for each in served.plane.workers()], [1])
        engine.kill()
        second = await run(served, a=1)
        await asyncio.sleep(1)
        engine.serve()
        found = await end(served, first)
        assert found["status"] == "COMPLETED", found["error"]
        assert (await end(served, second))["output"]["given"] == {"a": 1}
        for each in engine.containers():
            engine("kill", each)
        third = await run(served, a=2)
        assert (await end(served, third))["output"]["given"] == {"a": 2}

    serve(tmp_path, declared("ext", QUEUE), scenario)
    assert engine.containers() == []


def test_what_is_killed_for_its_memory_says_so(engine: Podman, tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        job = await end(served, await run(served, memory=600_000_000))
        assert job["status"] == "FAILED"
        assert "was killed " in job["error"]
        assert "more than its 200 MB of memory" in job["error"]

    more = "max_attempts=1, template=PodTemplate(config={'memory_gb': 0.2})"
    serve(tmp_path, declared("ext", QUEUE, more), scenario)


def test_an_image_that_crashes_again_and_again_backs_off_and_shows_its_last_lines(
    engine: Podman, tmp_path: Path
) -> None:
    async def scenario(served: Served) -> None:
        began = time.monotonic()
        job = await end(served, await run(served, a=1))
        assert time.monotonic() - began > 1
        assert "3 in a row failed, the last one exited with code 7; its last" in job["error"]
        assert "cannot open the model" in job["error"]
        assert "'writable-root' in template=" in job["error"]

    script = "echo cannot open the model; echo x > /model; exit 7"
    more = f"template=PodTemplate(startScript={script!r})"
    serve(tmp_path, declared("ext", QUEUE, more), scenario)


def test_containers_of_a_plane_that_is_gone_are_swept(engine: Podman, programs: Programs) -> None:
    body = f"""
        web = Endpoint(name="web", image={WEB!r}, cpu=CPU)

        async def main():
            await web.get("/x")
            os.kill(os.getpid(), 9)
    """
    programs.run(program(body), env={"DOCKER_HOST": engine.address}, timeout=120)
    until_ = time.monotonic() + 10
    while engine.containers() and time.monotonic() < until_:
        time.sleep(0.1)
    assert engine.containers() == []
    left: Any = engine(
        "run", "--detach", "--label", "flash.plane=0123", "--label", f"flash.host={_host()}",
        "--entrypoint", "/usr/local/bin/python", "localhost/functions:1",
        "-c", "import time; time.sleep(100)",
    )  # fmt: skip
    assert left
    done = programs.run(
        program(CLIENT.split("lines =")[0] + _TOLD),
        env={"DOCKER_HOST": engine.address},
        timeout=120,
    )
    assert done.result == "/x"
    assert engine.containers() == []


def test_what_a_machine_without_power_has_left_is_swept_by_a_program_without_images(
    engine: Podman, programs: Programs
) -> None:
    body = f"""
        import psutil

        web = Endpoint(name="web", image={WEB!r}, cpu=CPU)

        async def main():
            await web.get("/x")
            for each in psutil.Process().children():
                each.kill()
            os.kill(os.getpid(), 9)
    """
    programs.run(program(body), env={"DOCKER_HOST": engine.address}, timeout=120)
    assert len(engine.containers()) == 1
    plain = """
        @Endpoint(name="plain", cpu=CPU)
        def plain():
            time.sleep(3)

        async def main():
            return await plain()
    """
    programs.run(program(plain), env={"DOCKER_HOST": "unix:///nowhere.sock"}, timeout=120)
    assert engine.containers() == []
    assert list(programs.folder.rglob("images/planes/*")) == []


_TOLD = 'return told["path"]\n'  # (its line has its indent already)


def _host() -> str:
    return platform.node()
