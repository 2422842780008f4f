"""`flash worker run`: Flash's own workers on another machine, for the endpoints of a server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.programs import FORKS, Programs
from behaviour.servers import server
from e2e.elsewhere import Elsewhere, Machine, until
from integration.served import KEY, serve
from integration.wheels import make_wheel
from unit.command_line import flash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target
    from integration.served import Served

APP = """
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import beside
from runpod_flash import Endpoint

CPU = "cpu3c-1-2"
SETTING = os.environ.get("SETTING_OF_SERVER", "")

@Endpoint(name="where", cpu=CPU, workers=0, env={"GIVEN": "given"})
def where() -> dict:
    print("a line of a job")
    subprocess.run(["echo", "a line of a child"], check=True)
    return {
        "text": beside.TEXT, "home": os.environ["HOME"], "setting": SETTING,
        "given": os.environ["GIVEN"], "token": os.environ.get("FLASH_WORKER_TOKEN"),
    }

@Endpoint(name="imports", cpu=CPU, workers=0)
def imports() -> dict:
    ahead = "colorsys" in sys.modules
    import colorsys
    return {"ahead": ahead, "pid": os.getpid()}

@Endpoint(name="counts", cpu=CPU, workers=0)
async def counts(n: int):
    for number in range(n):
        yield number

@Endpoint(name="size", cpu=CPU, workers=0)
def size(data: bytes) -> bytes:
    return data + b"!"

@Endpoint(name="gated", cpu=CPU, workers=0)
async def gated(folder: str) -> str:
    here = Path(folder)
    with (here / "began").open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    try:
        while not (here / "gate").exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        (here / "cancelled").touch()
        raise
    with (here / "done").open("a") as stream:
        stream.write("done\\n")
    return "done"

@Endpoint(name="once", cpu=CPU, workers=0, max_attempts=1)
async def once(folder: str) -> str:
    with (Path(folder) / "began").open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    while not (Path(folder) / "gate").exists():
        await asyncio.sleep(0.02)
    return "done"

@Endpoint(name="counter", cpu=CPU, workers=0)
class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, n: int) -> int:
        self.value += n
        return self.value

@Endpoint(name="inner", cpu=CPU)
def inner(x: int) -> dict:
    return {"x": 2 * x, "home": os.environ["HOME"]}

@Endpoint(name="outer", cpu=CPU, workers=0)
async def outer(x: int) -> dict:
    found = await inner(x)
    return {"inner": found, "home": os.environ["HOME"]}

@Endpoint(name="made", cpu=CPU, workers=0)
async def made() -> str:
    try:
        return await Endpoint(name="new", cpu=CPU)(beside.plain)()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

@Endpoint(name="boxed", cpu=CPU, workers=0, image="localhost/box:1")
def boxed() -> str:
    return "ran"

api = Endpoint(name="api", cpu=CPU, workers=0)

@api.get("/lines")
async def lines(n: int):
    for number in range(n):
        yield f"line {number}\\n"

@api.post("/add")
async def add(x: int, y: int) -> dict:
    return {"sum": x + y}
"""

BESIDE = """
TEXT = {!r}

def plain() -> str:
    return "ran"
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Target]:
    """A server of the project `shop`."""
    folder = tmp_path_factory.mktemp("worker-run")
    with serving(folder, shared_cache) as running:
        yield running


def serving(folder: Path, cache: Path) -> Any:
    write(folder, APP)
    return server(folder / "server", cache, "--app", str(folder / "shop"))


def write(folder: Path, app: str, text: str = "beside") -> None:
    (folder / "shop").mkdir(exist_ok=True)
    Programs(folder / "shop", folder).write(
        {"pyproject.toml": "", "app.py": app, "beside.py": BESIDE.format(text)}
    )


@pytest.fixture
def there(tmp_path: Path, shared_cache: Path, target: Target) -> Elsewhere:
    return Elsewhere(tmp_path / "elsewhere", shared_cache, target)


def logged(target: Target, endpoint: str) -> str:
    """What the endpoint's workers have written, as the server keeps it."""
    files = (target.data / "logs" / endpoint).glob("*.jsonl")
    return "".join(file.read_text() for file in files)


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


# What works as on the server


def test_a_job_runs_there_with_the_files_and_settings_of_the_endpoint(
    there: Elsewhere, target: Target
) -> None:
    with there.worker("where") as worker:
        found = there.call("where")
        assert found == {
            "text": "beside",
            "home": str(worker.home),
            "setting": "",
            "given": "given",
            "token": None,
        }
        until(lambda: "a line of a job" in logged(target, "where"))
        until(lambda: "a line of a child" in logged(target, "where"))


def test_a_stream_comes_from_there(there: Elsewhere) -> None:
    with there.worker("counts"):
        job_id = there.run("counts", n=5)
        there.end("counts", job_id)
        stream = there.ask("GET", f"/v2/counts/stream/{job_id}").json()["stream"]
        assert [each["output"] for each in stream] == [0, 1, 2, 3, 4]


def test_a_cancelled_job_stops_there_and_the_worker_goes_on(
    there: Elsewhere, tmp_path: Path
) -> None:
    with there.worker("gated"):
        job_id = there.run("gated", folder=str(tmp_path))
        until((tmp_path / "began").exists)
        there.ask("POST", f"/v2/gated/cancel/{job_id}")
        until((tmp_path / "cancelled").exists)
        (tmp_path / "gate").touch()
        assert there.call("gated", folder=str(tmp_path)) == "done"
        assert len(set(lines_of(tmp_path / "began"))) == 1


PROGRAM = """
from app import Counter, size

async def main():
    data = os.urandom(50_000_000)
    same = await size(data) == data + b"!"
    counter = Counter(3)
    return [same, await counter.add(1), await counter.add(2)]

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
"""


def test_a_program_has_objects_and_50_mb_values_there(
    there: Elsewhere, target: Target, tmp_path: Path, shared_cache: Path
) -> None:
    write(tmp_path, APP)
    programs = Programs(tmp_path / "shop", shared_cache, target=target, residents=True)
    with there.worker("size"), there.worker("counter"):
        assert programs.run(PROGRAM, name="program.py").result == [True, 4, 6]


def test_code_there_calls_endpoints_of_the_server(there: Elsewhere, target: Target) -> None:
    with there.worker("outer") as worker:
        assert there.call("outer", x=4) == {
            "inner": {"x": 8, "home": str(target.home)},
            "home": str(worker.home),
        }


def test_code_there_brings_the_server_nothing_to_run(there: Elsewhere) -> None:
    with there.worker("made"):
        found = there.call("made")
        assert "no endpoint of that name and file is served here" in found


def test_routes_stream_from_there(there: Elsewhere, target: Target) -> None:
    with there.worker("api"):
        assert there.ask("POST", "/app/add", {"x": 1, "y": 2}).json() == {"sum": 3}
        with httpx.stream("GET", f"{target.address}/app/lines?n=3000", timeout=30) as response:
            assert list(response.iter_lines()) == [f"line {number}" for number in range(3000)]


@pytest.mark.skipif(not FORKS, reason="there are no zygotes")
def test_what_a_worker_there_has_imported_the_next_one_has_ahead(there: Elsewhere) -> None:
    with there.worker("imports") as worker:
        found = there.call("imports")
        assert not found["ahead"]
        environments = worker.home / "cache/flash/built"
        (kept,) = until(lambda: list(environments.glob("*/flash-imports.json")))
        until(lambda: "colorsys" in json.loads(kept.read_text())["modules"])

        def next_one() -> Any:
            os.kill(found["pid"], signal.SIGKILL)
            found.update(there.call("imports"))
            return found["ahead"]

        until(next_one, lambda: worker.said)


# Tokens


def refused(there: Elsewhere, endpoint: str, token: str) -> str:
    """What a worker says that ends because it is refused."""
    worker = there.start(endpoint, token=token)
    assert worker.exit_code() == 1, worker.said
    return worker.said


def test_an_endpoint_of_an_image_is_refused_there_in_words(there: Elsewhere) -> None:
    running = there.start("boxed")
    try:
        running.wait_for(
            "no worker can start: it runs in the image 'localhost/box:1', and `flash worker run` "
            "starts no containers: the endpoint's own server does, or a `flash server` on this"
        )
    finally:
        running.kill()


def test_code_that_cannot_be_kept_there_is_told_and_the_server_not_blamed(
    there: Elsewhere, tmp_path: Path
) -> None:
    code = tmp_path / "cache" / "flash" / "code"
    code.mkdir(parents=True)
    (code / "trees").touch()  # where a folder has to be
    running = there.start("counts", env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    try:
        running.wait_for(
            f"no worker can start: the endpoint's code cannot be kept in {code.parent}: "
        )
        assert "cannot be reached" not in running.said
    finally:
        running.kill()


def test_a_token_is_good_for_its_own_endpoint_only(there: Elsewhere, target: Target) -> None:
    said = refused(there, "counts", there.token("where")["token"])
    assert "Error: " in said
    assert "this is no token of a worker of 'counts', or it was revoked" in said
    assert "`flash worker env counts` makes one" in said
    assert "Traceback" not in said
    assert "this is no token" in refused(there, "counts", "fw.counts-12345678.abc")
    assert "that is no worker's token" in refused(there, "counts", target.key)


def test_revoking_a_token_ends_the_worker_at_once(there: Elsewhere, tmp_path: Path) -> None:
    given, other = there.token("gated"), there.token("gated")
    with there.worker("gated", token=given["token"]) as worker:
        job_id = there.run("gated", folder=str(tmp_path))
        until((tmp_path / "began").exists)
        there.ask("DELETE", f"/v2/serverless/gated/workers/{given['id']}")
        assert worker.exit_code() == 1
        assert "its token was revoked" in worker.said
        assert "Traceback" not in worker.said
    assert "or it was revoked" in refused(there, "gated", given["token"])
    (tmp_path / "gate").touch()
    with there.worker("gated", token=other["token"]):
        assert there.end("gated", job_id)["workerId"] == other["id"]


def test_a_second_process_with_the_same_token_takes_the_place_of_the_first(
    there: Elsewhere,
) -> None:
    token = there.token("where")["token"]
    with there.worker("where", token=token) as first, there.worker("where", token=token) as second:
        assert first.exit_code() == 1
        assert "its token is used by another process" in first.said
        assert there.call("where")["home"] == str(second.home)


# Ends


def test_a_job_whose_machine_is_killed_runs_again_on_another_one(
    there: Elsewhere, tmp_path: Path
) -> None:
    with there.worker("gated") as first:
        job_id = there.run("gated", folder=str(tmp_path))
        until((tmp_path / "began").exists)
        with there.worker("gated"):
            first.kill()
            until(lambda: len(lines_of(tmp_path / "began")) == 2)
            (tmp_path / "gate").touch()
            assert there.end("gated", job_id)["output"] == "done"
    assert lines_of(tmp_path / "done") == ["done"]


def test_a_killed_worker_process_is_told_and_another_one_takes_its_place(
    there: Elsewhere, target: Target, tmp_path: Path
) -> None:
    with there.worker("gated") as worker:
        job_id = there.run("gated", folder=str(tmp_path))
        (pid,) = until(lambda: lines_of(tmp_path / "began"))
        os.kill(int(pid), signal.SIGKILL)
        until(lambda: len(lines_of(tmp_path / "began")) == 2)
        (tmp_path / "gate").touch()
        found = there.end("gated", job_id)
        assert found.get("output") == "done", (found, worker.said)
        assert "was killed by SIGKILL" in worker.said
        assert "was killed by SIGKILL" in target.log.read_text()
        assert "runs again (attempt 2 of 2)" in target.log.read_text()


def test_ctrl_c_lets_the_running_job_finish(there: Elsewhere, tmp_path: Path) -> None:
    with there.worker("once") as worker:
        job_id = there.run("once", folder=str(tmp_path))
        until((tmp_path / "began").exists)
        worker.interrupt()
        worker.wait_for("leaves")
        later = there.run("once", folder=str(tmp_path))
        (tmp_path / "gate").touch()
        assert worker.exit_code() == 0, worker.said
        assert there.end("once", job_id)["output"] == "done"
    with there.worker("once"):
        assert there.end("once", later)["output"] == "done"


def test_a_job_that_outlasts_the_grace_runs_elsewhere_and_loses_no_attempt(
    there: Elsewhere, tmp_path: Path
) -> None:
    with there.worker("once", "--grace", "0.1") as worker:
        job_id = there.run("once", folder=str(tmp_path))
        until((tmp_path / "began").exists)
        worker.interrupt()
        assert worker.exit_code() == 0, worker.said
    (tmp_path / "gate").touch()
    with there.worker("once"):
        assert there.end("once", job_id)["output"] == "done"


def test_a_killed_server_gets_its_worker_back_and_the_job_ends_once(
    tmp_path: Path, shared_cache: Path
) -> None:
    with serving(tmp_path, shared_cache) as target:
        there = Elsewhere(tmp_path / "elsewhere", shared_cache, target)
        with there.worker("gated") as worker:
            job_id = there.run("gated", folder=str(tmp_path))
            until((tmp_path / "began").exists)
            target.kill()
            worker.wait_for("trying again")
            target.start_again()
            until(lambda: len(lines_of(tmp_path / "began")) == 2, lambda: worker.said)
            (tmp_path / "gate").touch()
            assert there.end("gated", job_id)["output"] == "done"
            assert lines_of(tmp_path / "done") == ["done"]


def test_a_server_with_other_code_has_it_run_there(tmp_path: Path, shared_cache: Path) -> None:
    with serving(tmp_path, shared_cache) as target:
        there = Elsewhere(tmp_path / "elsewhere", shared_cache, target)
        with there.worker("where") as worker:
            assert there.call("where")["text"] == "beside"
            kept = set((worker.home / "cache/flash/code/blobs").rglob("??/*"))
            target.stop()
            write(tmp_path, APP, text="other")
            target.start_again()
            assert there.call("where")["text"] == "other"
            now = set((worker.home / "cache/flash/code/blobs").rglob("??/*"))
            assert len(now - kept) == 1
            assert kept <= now


def test_a_server_that_is_stopped_costs_the_job_no_attempt(
    tmp_path: Path, shared_cache: Path
) -> None:
    with serving(tmp_path, shared_cache) as target:
        there = Elsewhere(tmp_path / "elsewhere", shared_cache, target)
        with there.worker("once"):
            job_id = there.run("once", folder=str(tmp_path))
            until((tmp_path / "began").exists)
            target.stop()
            target.start_again()
            until(lambda: len(lines_of(tmp_path / "began")) == 2)
            (tmp_path / "gate").touch()
            assert there.end("once", job_id)["output"] == "done"


REPLACED = """
from runpod_flash import Endpoint

@Endpoint(name="where", cpu="cpu3c-1-2", workers=0)
def where() -> str:
    return "TEXT"
"""


def test_code_that_is_replaced_while_the_server_runs_is_run_there(
    tmp_path: Path, shared_cache: Path
) -> None:
    async def scenario(served: Served) -> None:
        machine = Machine(served.address, KEY)
        there = Elsewhere(tmp_path / "elsewhere", shared_cache, machine)
        worker = await asyncio.to_thread(there.start, "where")
        try:
            assert await served.call("/v2/where") == "one"
            await served.rewrite({"app.py": REPLACED.replace("TEXT", "two")})
            assert await served.call("/v2/where") == "two"
        finally:
            await asyncio.to_thread(worker.kill)

    files = {"pyproject.toml": "", "app.py": REPLACED.replace("TEXT", "one")}
    serve(tmp_path / "shop", files, scenario)


def test_a_deployed_endpoint_is_served_from_there_and_a_release_takes_over(
    tmp_path: Path, shared_cache: Path
) -> None:
    shop, code = tmp_path / "shop", {"app.py": REPLACED, "data.txt": "beside"}
    code["app.py"] = code["app.py"].replace('"TEXT"', 'open("data.txt").read()')
    with server(tmp_path / "server", shared_cache) as target:
        there = Elsewhere(tmp_path / "elsewhere", shared_cache, target)
        deploy(shop, target, {**code, "pyproject.toml": ""})
        with there.worker("shop-production-where") as worker:
            assert there.call("shop-production-where") == "beside"
            server_of_it = '__import__("os").environ["FLASH_TARGET"]'
            deploy(shop, target, {"app.py": REPLACED.replace('"TEXT"', server_of_it)})
            assert there.call("shop-production-where") == target.address
            wheel = make_wheel(shop, "alpha", "2.0").name
            locked = REPLACED.replace("workers=0", f'workers=0, dependencies=["./{wheel}"]')
            locked = locked.replace('"TEXT"', '__import__("alpha").VERSION')
            deploy(shop, target, {"app.py": locked})
            assert there.call("shop-production-where") == "2.0"
            at(shop, target, "app", "delete", "shop", "--yes")
            worker.wait_for("there is no endpoint 'shop-production-where' here any more")


def deploy(folder: Path, target: Target, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    at(folder, target, "deploy", "--yes")


def at(folder: Path, target: Target, *words: str) -> None:
    """A command in that folder, which does what it is to do."""
    done = flash(*words, cwd=folder, env={"HOME": str(folder), **target.variables})
    assert done.returncode == 0, done.stderr
