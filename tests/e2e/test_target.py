"""Programs with FLASH_TARGET: what is uploaded, what becomes of their apps and jobs, and routes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from standardwebhooks import Webhook

from behaviour.programs import LEFT_SECONDS, Programs
from behaviour.servers import server
from integration.webhook_receiver import receiving
from runpod_flash.gateway.sessions import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from behaviour.servers import Target

PROJECT = {"pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n", "part.py": "PART = 1\n"}
ADDS = """
import part

@Endpoint(name="adds", cpu=CPU)
def adds(x):
    return x + part.PART

if __name__ == "__main__":
    print(adds.call(1))
"""
LONG = """
@Endpoint(name="long", cpu=CPU, workers=(0, 1))
def long(name):
    open(HERE + name, "w").close()
    while not os.path.exists(HERE + "go"):
        time.sleep(0.01)
    return "done"

if __name__ == "__main__":
    {ends}
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Target]:
    with server(tmp_path_factory.mktemp("server"), shared_cache) as running:
        yield running


@pytest.fixture
def programs(tmp_path: Path, shared_cache: Path, target: Target) -> Programs:
    return Programs(tmp_path, shared_cache, target=target)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# What is uploaded


def test_an_endpoint_is_called_whatever_its_name_has(programs: Programs) -> None:
    programs.write(PROJECT)
    assert programs.run(ADDS.replace('"adds"', '"größe a?b#c%"')).stdout == "2\n"


def test_only_what_the_server_lacks_is_uploaded(programs: Programs, target: Target) -> None:
    programs.write({**PROJECT, "data.txt": str(programs.folder)})
    before = target.blobs()
    assert programs.run(ADDS).stdout == "2\n"
    after = target.blobs()
    assert after > before
    assert programs.run(ADDS).stdout == "2\n"
    assert target.blobs() == after, "something was uploaded again"
    programs.write({"part.py": f"PART = 10  # {programs.folder}\n"})
    assert programs.run(ADDS).stdout == "11\n"
    assert target.blobs() == after + 1, "more than the changed file was uploaded"


def test_nothing_outside_of_the_project_nor_ignored_nor_secret_is_uploaded(
    programs: Programs, target: Target
) -> None:
    folder = programs.folder / "project"
    (programs.folder / "outside.txt").write_text("not of the project")
    inside = Programs(folder, programs.folder / "cache", target=target)
    folder.mkdir()
    inside.write(
        {
            **PROJECT,
            ".env": "SECRET=1\n",
            ".env.local": "SECRET=2\n",
            "sub/.env": "SECRET=3\n",
            ".gitignore": "*.log\n/big\n",
            ".flashignore": "notes.md\n",
            "run.log": "ignored",
            "big/weights.bin": "ignored",
            "notes.md": "ignored",
            "sub/kept.txt": "kept",
        }
    )
    (folder / "link.txt").symlink_to(programs.folder / "outside.txt")
    with inside.start("import part\n" + LONG.format(ends='long.call("begun")')) as program:
        program.until((folder / "begun").exists)
        uploaded = target.uploaded()
        (folder / "go").touch()
        program.finish()
    assert {"app.py", "part.py", "pyproject.toml", "sub/kept.txt"} <= uploaded
    odd = ("env", "log", "weights", "notes", "link", "outside", "gitignore", "flashignore")
    assert not [path for path in uploaded if any(word in path for word in odd)]


def test_a_lone_script_brings_the_modules_that_it_imports_and_nothing_else(
    programs: Programs, target: Target
) -> None:
    programs.write({"part.py": "PART = 1\n", "private.txt": "of somebody"})
    with programs.start("import part\n" + LONG.format(ends='long.call("begun")')) as program:
        program.until((programs.folder / "begun").exists)
        uploaded = target.uploaded()
        (programs.folder / "go").touch()
        program.finish()
    assert uploaded == {"app.py", "part.py"}


def test_too_much_is_refused_with_the_largest_files_before_anything_is_sent(
    programs: Programs, target: Target
) -> None:
    programs.write(PROJECT)
    for number in range(1, 13):
        with (programs.folder / f"weights-{number}.bin").open("wb") as sparse:
            sparse.truncate(number * 10_000_000)
    before = target.blobs()
    done = programs.run(ADDS)
    assert done.code == 1, done
    last = done.stderr.strip().splitlines()[-1]
    assert "780 MB of files, and 500 MB may go to a server" in last, done
    assert last.count(".bin (") == 10, done
    assert last.endswith("weights-4.bin (40 MB), weights-3.bin (30 MB)"), done
    assert target.blobs() == before


# Whose app it is, and until when


def test_programs_with_apps_of_the_same_name_do_not_disturb_each_other(
    tmp_path: Path, shared_cache: Path, target: Target
) -> None:
    source = """
        @Endpoint(name="same", cpu=CPU)
        def same():
            return NUMBER

        if __name__ == "__main__":
            found = [same.call()]
            open(HERE + "called", "w").close()
            while not os.path.exists(HERE + "go"):
                time.sleep(0.01)
            print(json.dumps([*found, same.call()]))
        """
    first = Programs(tmp_path / "1" / "shop", shared_cache, target=target)
    second = Programs(tmp_path / "2" / "shop", shared_cache, target=target)
    for programs in (first, second):
        programs.folder.mkdir(parents=True)
    numbered = [source.replace("NUMBER", str(number)) for number in (1, 2)]
    with first.start(numbered[0]) as one:
        one.until((first.folder / "called").exists)
        (second.folder / "go").touch()
        with second.start(numbered[1]) as other:
            other._process.wait(30)
            assert json.loads(other.lines[-1]) == [2, 2]
            (first.folder / "go").touch()
            assert one.finish().result == [1, 1]


@pytest.mark.parametrize("end", ["by itself", "Ctrl-C", "kill -9"])
def test_an_app_and_its_code_are_gone_when_its_program_has_ended(
    programs: Programs, target: Target, end: str
) -> None:
    with programs.start(LONG.format(ends='long.call("begun")')) as program:
        program.until((programs.folder / "begun").exists)
        assert len(target.apps()) == 1
        assert list((target.data / "kept-apps").iterdir())
        if end == "by itself":
            (programs.folder / "go").touch()
        elif end == "Ctrl-C":
            program.interrupt()
        else:
            program.kill()
        seconds = LEFT_SECONDS + (LEASE_SECONDS if end == "kill -9" else 0)
        program._process.wait(20)
        until(lambda: not target.apps() and not program.workers(), seconds)
    assert not list((target.data / "kept-apps").iterdir())


# Jobs that nobody waits for


def test_jobs_not_waited_for_end_with_the_app_and_one_line_names_the_remedy(
    programs: Programs, target: Target
) -> None:
    ends = '[long.run(f"begun-{n}") for n in range(3)]'
    done = programs.run(LONG.format(ends=ends))
    assert done.code == 0, done
    said = done.stderr.splitlines()
    (line,) = (line for line in said if "building environment" not in line)
    assert line == (
        f"flash: cancelled 3 jobs not waited for: this program's app at {target.address} ends with "
        "it; FLASH_DETACH=1 keeps the app until its jobs have ended"
    )
    assert not target.apps()


FINDS = """
@Endpoint(name="long", cpu=CPU)
def long(name):
    return "another function of that name"

async def main(job_id):
    endpoint = long.__remote_config__["resource_config"]
    first = await endpoint.status(job_id)
    found = [first._data["status"]]
    open(HERE + "go", "w").close()
    await first.wait()
    again = await endpoint.status(job_id)
    found += [first.output, again.done, again.output]
    try:
        await endpoint.status("unknown")
    except LookupError as error:
        found.append(str(error))
    return found

if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
"""


def test_detached_jobs_go_on_and_another_program_finds_them_by_their_id(
    tmp_path: Path, shared_cache: Path, target: Target
) -> None:
    programs = Programs(tmp_path, shared_cache, target=target, residents=True)
    with programs.start(
        LONG.format(ends='print(long.run("begun").id)'), env={"FLASH_DETACH": "1"}
    ) as program:
        program._process.wait(20)
        until((programs.folder / "begun").exists)
        lines = program.errors
        job_id = program.lines[0].strip()
        assert lines == [f"flash: 1 job not waited for: {target.address} goes on\n"]
        found = programs.run(FINDS, name="other.py", arguments=("other.py", job_id)).result
        until(lambda: not target.apps(), LEASE_SECONDS + 10)
    state, *ended, unknown = found
    assert state == "IN_PROGRESS"
    assert ended == ["done", True, "done"]
    assert unknown == "job 'unknown' is not known: it never was, or ended too long ago"
    later = programs.run(FINDS, name="other.py", arguments=("other.py", job_id)).result
    assert later[:-1] == ["COMPLETED", "done", True, "done"], "it went with its app"


# A server that is killed


def test_a_program_gets_its_result_from_a_server_that_was_killed_meanwhile(
    tmp_path: Path, shared_cache: Path
) -> None:
    with server(tmp_path / "server", shared_cache) as own:
        programs = Programs(tmp_path, shared_cache, target=own)
        source = LONG.replace("HERE + name", "HERE + name + str(time.time())").format(
            ends='print(long.call("begun"))'
        )
        with programs.start(source) as program:
            until(lambda: len(list(tmp_path.glob("begun*"))) == 1)
            own.kill()
            own.start_again()
            until(lambda: len(list(tmp_path.glob("begun*"))) == 2)
            (tmp_path / "go").touch()
            assert program.finish().stdout == "done\n"


def test_detached_jobs_outlive_their_program_and_the_server(
    tmp_path: Path, shared_cache: Path
) -> None:
    with server(tmp_path / "server", shared_cache) as own:
        programs = Programs(tmp_path, shared_cache, target=own, residents=True)
        source = LONG.format(ends='print(long.run("begun").id)')
        with programs.start(source, env={"FLASH_DETACH": "1"}) as program:
            program._process.wait(20)
            until((tmp_path / "begun").exists)
            own.kill()
            (tmp_path / "begun").unlink()
            own.start_again()
            until((tmp_path / "begun").exists)
            job_id = program.lines[0].strip()
            found = programs.run(FINDS, name="other.py", arguments=("other.py", job_id)).result
            assert found[:-1] == ["IN_PROGRESS", "done", True, "done"]
            until(lambda: not own.apps(), LEASE_SECONDS + 10)


# What is deployed


DEPLOYED = """
from runpod_flash import Endpoint

@Endpoint(name="where", cpu="cpu3c-1-2")
def where():
    return "TEXT"

@Endpoint(name="counts", cpu="cpu3c-1-2")
def counts(n: int):
    yield from range(n)

@Endpoint(name="sleeps", cpu="cpu3c-1-2")
async def sleeps(seconds: float) -> str:
    import asyncio
    await asyncio.sleep(seconds)
    return "slept"

api = Endpoint(name="api", cpu="cpu3c-1-2", workers=(0, 1))

@api.post("/double")
async def double(x: int) -> dict:
    return {"doubled": 2 * x}

@api.get("/items/{number}")
async def item(number: int) -> dict:
    return {"number": number}

if __name__ == "__main__":
    print(where.call())
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Target]:
    """A server of the project `shop`."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "shop").mkdir()
    files = Programs(folder / "shop", shared_cache)
    files.write({"pyproject.toml": "", "app.py": DEPLOYED.replace("TEXT", "deployed")})
    with server(folder / "server", shared_cache, "--app", str(folder / "shop")) as running:
        yield running


@pytest.fixture
def shop(tmp_path: Path, shared_cache: Path, serving: Target) -> Programs:
    """Programs in a clone of that project."""
    folder = tmp_path / "shop"
    folder.mkdir()
    programs = Programs(folder, shared_cache, target=serving, residents=True)
    programs.write({"pyproject.toml": ""})
    return programs


def deployed(programs: Programs, text: str, **env: str) -> tuple[str, str]:
    """What a clone of the served project prints whose own code says `text`."""
    programs.write({"app.py": DEPLOYED.replace("TEXT", text)})
    done = programs.run(arguments=("app.py",), env=env)
    assert done.code == 0, done
    return done.stdout.strip(), done.stderr


def test_what_is_deployed_is_called_and_one_line_says_so_where_the_disk_differs(
    shop: Programs,
) -> None:
    assert deployed(shop, "deployed") == ("deployed", "")
    found, said = deployed(shop, "changed")
    assert found == "deployed"
    assert said == (
        "flash: where: the deployed code of where is called, which differs from that on disk\n"
    )


def test_another_app_or_environment_runs_the_code_on_disk(shop: Programs) -> None:
    assert deployed(shop, "changed", FLASH_ENV="staging") == ("changed", "")
    assert deployed(shop, "changed", FLASH_APP="other") == ("changed", "")
    assert deployed(shop, "changed", FLASH_APP="shop", FLASH_ENV="production")[0] == "deployed"


def test_jobs_of_what_is_deployed_go_on_without_being_asked_to(
    shop: Programs, serving: Target
) -> None:
    source = """
        if __name__ == "__main__":
            print(Endpoint(id="sleeps").run({"seconds": 1}).id)
        """
    done = shop.run(source, name="other.py")
    assert done.stderr == f"flash: 1 job not waited for: {serving.address} goes on\n"
    source = """
        async def main():
            job = await Endpoint(id="sleeps").status(sys.argv[1])
            return (await job.wait()).output

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    arguments = ("later.py", done.stdout.strip())
    assert shop.run(source, name="later.py", arguments=arguments).result == "slept"


def test_an_endpoint_by_its_id_has_jobs_streams_and_routes(shop: Programs) -> None:
    source = """
        import httpx

        async def main():
            sleeps, counts, api = (Endpoint(id=name) for name in ("sleeps", "counts", "api"))
            job = await sleeps.run({"seconds": 0})
            found = {"run": (await job.wait()).output}
            found["runsync"] = (await sleeps.runsync({"seconds": 0})).output
            found["status"] = await (await sleeps.status(job.id)).status()
            long = await sleeps.run({"seconds": 1000})
            found["cancel"] = (await sleeps.cancel(long.id))._data["status"]
            found["stream"] = [n async for n in counts.run({"n": 3}).stream()]
            found["post"] = await api.post("/double", {"x": 4})
            found["get"] = await api.get("/items/7")
            for wrong in (
                lambda: api.get("/nothing"), lambda: api.post("/double", {"x": "no"}),
                lambda: sleeps.get("/x"), lambda: api.get("items"),
                lambda: Endpoint(id="absent").runsync({}),
            ):
                try:
                    await wrong()
                except httpx.HTTPStatusError as error:
                    found.setdefault("statuses", []).append(error.response.status_code)
                except Exception as error:
                    found.setdefault("errors", []).append(str(error))
            absent = await Endpoint(id="absent").runsync({})
            found["absent"] = absent.error.splitlines()[-1]
            return found

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    found = shop.run(source, name="client.py").result
    errors, absent = found.pop("errors"), found.pop("absent")
    assert found == {
        "run": "slept",
        "runsync": "slept",
        "status": "COMPLETED",
        "cancel": "CANCELLED",
        "stream": [0, 1, 2],
        "post": {"doubled": 8},
        "get": {"number": 7},
        "statuses": [404, 422, 404],
    }
    assert errors == ["'items' is no path of a route: it starts with '/'"]
    assert "there is no endpoint 'absent'" in absent


# What is refused


CALL = """
@Endpoint(name="some", cpu=CPU)
def some():
    return 1

if __name__ == "__main__":
    some.call()
"""


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"FLASH_API_KEY": "flash_" + "x" * 43}, "key"),
        ({"FLASH_TARGET": "http://localhost:9"}, "http://localhost:9 (FLASH_TARGET) cannot be"),
        ({"FLASH_TARGET": "http://example.invalid:80"}, "would be sent over plain http"),
        ({"FLASH_TARGET": "nowhere"}, "'nowhere' is no address of a server"),
    ],
)
def test_what_cannot_be_reached_or_used_is_told_in_one_sentence(
    programs: Programs, env: dict[str, str], said: str
) -> None:
    done = programs.run(CALL, env=env)
    assert done.code == 1, done
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("runpod_flash.errors."), done
    assert said in last, done
    assert "flash_xx" not in done.stderr, done


# What the server limits

OFTEN = """
@Endpoint(name="own", cpu=CPU)
def own(x):
    return x

async def main():
    print(await asyncio.gather(*map(own, range(6))))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_program_that_asks_too_often_waits_for_its_turn(
    tmp_path: Path, shared_cache: Path
) -> None:
    with server(tmp_path / "server", shared_cache, "--rate-limit", "4/2s") as limited:
        done = Programs(tmp_path / "program", shared_cache, target=limited).run(OFTEN)
        assert done.stdout == "[0, 1, 2, 3, 4, 5]\n"
        assert "runsync 429" in limited.log.read_text()


FILLS = """
from runpod_flash.errors import StoreFullError

@Endpoint(name="waits", cpu=CPU)
async def waits(x):
    await asyncio.sleep(100)

async def main():
    calls = []
    while not any(call.done() for call in calls) and len(calls) < 60:
        calls.append(asyncio.create_task(waits("x" * 200_000)))
        await asyncio.sleep(0.1)
    refused = [call.exception() for call in calls if call.done()]
    print(json.dumps([len(calls), isinstance(refused[0], StoreFullError), str(refused[0])]))
    for call in calls:
        call.cancel()

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_program_is_told_that_the_server_s_store_is_full(
    tmp_path: Path, shared_cache: Path
) -> None:
    with server(tmp_path / "server", shared_cache, "--max-gb", "0.002") as full:
        calls, is_full, said = (
            Programs(tmp_path / "program", shared_cache, target=full).run(FILLS).result
        )
    assert calls > 5
    assert is_full
    assert "may keep 2 MB; try again when some have ended" in said


TOLD = """
endpoint = Endpoint(name="doubles", cpu=CPU)

@endpoint
def doubles(x):
    return 2 * x

async def main():
    jobs = [endpoint.run({{"x": 4}}, webhook={url!r}), endpoint.run({{"x": None}}, webhook={url!r})]
    print(json.dumps([[job.id, (await job.wait()).error] for job in jobs]))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_webhook_is_told_of_the_ends_of_a_program_s_jobs(
    tmp_path: Path, shared_cache: Path
) -> None:
    with (
        receiving() as receiver,
        server(tmp_path / "server", shared_cache, "--webhooks", "any") as target,
    ):
        programs = Programs(tmp_path / "program", shared_cache, target=target)
        (done, _), (failed, why) = programs.run(TOLD.format(url=f"{receiver.origin}/hook")).result
        until(lambda: len(receiver.got) == 2)
        secret = (target.data / "webhook-secret").read_text().strip()
        told = [Webhook(secret).verify(body, headers) for headers, body in receiver.got]
    found = {each["id"]: each for each in told}
    assert found[done]["status"] == "COMPLETED"
    assert (found[done]["input"], found[done]["output"]) == ({"x": 4}, 8)
    assert found[failed]["status"] == "FAILED"
    assert "unsupported operand" in why
    assert "unsupported operand" in found[failed]["error"]


def test_a_server_that_sends_no_webhooks_to_itself_says_so_of_a_program_s_job(
    programs: Programs,
) -> None:
    with receiving() as receiver:
        done = programs.run(TOLD.format(url=f"{receiver.origin}/hook"))
        assert not receiver.got
    for _, why in done.result:
        assert "is no address to call: 127.0.0.1 is this machine" in why
