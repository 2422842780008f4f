"""`flash deploy` and what follows: releases take over, fail, roll back, and outlive servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.servers import server
from e2e.shop import HELLO, WEB, Shop, until
from integration.served import write
from integration.wheels import make_wheel
from unit.command_line import MAIN, in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target

BREATH_SECONDS = 0.01  # that clients under load leave to what happens meanwhile
# At home, where the project is only looked at, nothing is amiss.
IN_WORKER = "import os, time\nGREETING = 'slow'\nif 'FLASH_WORKER_ID' in os.environ:\n"


class Gate:
    """Keeps workers from starting. (They see none of a test's files, but the loopback.)"""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))

    @property
    def module(self) -> str:
        """One that is not imported in a worker before the gate is open."""
        address = self._socket.getsockname()
        lines = (
            "import socket",
            f"while socket.socket().connect_ex({address!r}):",
            "    time.sleep(0.02)",
        )
        return IN_WORKER + "".join(f"    {line}\n" for line in lines)

    def open(self) -> None:
        self._socket.listen()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    with made._socket:
        yield made


@pytest.fixture
def shop(tmp_path: Path, target: Target) -> Iterator[Shop]:
    made = Shop(tmp_path / "shop", target)
    yield made
    url = f"{target.address}/v2/apps/shop"
    ended = httpx.delete(url, headers={"authorization": f"Bearer {target.key}"}, timeout=60)
    assert ended.status_code in (204, 404), ended.text


def test_a_project_is_deployed_changed_and_rolled_back(shop: Shop) -> None:
    said = shop.deploy().stdout
    assert "shop production at" in said
    assert "hello     new" in said
    assert f"POST {shop.target.address}/v2/shop-production-hello/runsync" in said
    assert f"GET {shop.target.address}/d/shop-production/web/items/{{number}}" in said
    assert "release 1 is served" in said
    assert shop.call()["text"] == "hello you"
    assert shop.item() == {"number": 3, "version": 1}
    assert "nothing has changed: release 1 is served" in shop.deploy().stderr
    called = shop.flash("call", "hello", '{"name": "there"}')
    assert json.loads(called.stdout)["text"] == "hello there"
    named = shop.flash("call", "hello", "--env", "staging")
    assert "there is no endpoint 'shop-staging-hello'" in named.stderr
    for wrong in ("helo", "shop-production-helo"):
        misspelled = shop.flash("call", wrong)
        assert "Did you mean 'shop-production-hello'?" in misspelled.stderr

    write(shop.folder, {"texts.py": "GREETING = 'good day'\n"})
    preview = shop.deploy("--preview").stdout
    assert "hello     code or packages changed" in preview
    assert "web       unchanged" in preview
    assert shop.call()["text"] == "hello you"
    assert "release 2 is served" in shop.deploy().stdout
    assert shop.call()["text"] == "good day you"

    back = shop.flash("rollback")
    assert back.stderr.endswith("release 1 of shop production is served\n")
    assert shop.call()["text"] == "hello you"
    assert shop.releases() == [(2, "replaced"), (1, "active")]
    listed = shop.flash("releases").stdout
    assert listed.endswith("The last 20 that were served are kept to go back to.\n")
    refused = shop.flash("rollback")
    assert refused.returncode == 1
    assert "There is no earlier release to go back to" in refused.stderr
    assert shop.flash("rollback", "2").returncode == 0
    assert shop.call()["text"] == "good day you"


def test_only_endpoints_whose_code_changed_get_other_workers(shop: Shop) -> None:
    shop.deploy()
    first = shop.worker_ids()
    assert {name for name, _ in first} == {"hello", "web"}
    write(shop.folder, {"texts.py": "# A comment, in what hello imports.\nGREETING = 'hello'\n"})
    said = shop.deploy().stdout
    assert "hello     code or packages changed" in said
    assert "web       unchanged" in said
    until(lambda: len(shop.worker_ids()) == 2)
    second = shop.worker_ids()
    assert {name for name, _ in first & second} == {"web"}
    route = shop.item()
    write(shop.folder, {"web.py": WEB.replace('"version": 1', '"version": 2')})
    shop.deploy()
    assert shop.item() == {**route, "version": 2}
    until(lambda: len(shop.worker_ids()) == 2)
    assert {name for name, _ in second & shop.worker_ids()} == {"hello"}


def test_a_release_whose_worker_cannot_start_takes_no_traffic(shop: Shop) -> None:
    shop.deploy()
    write(shop.folder, {"texts.py": f"{IN_WORKER}    print('about to fail')\n    int('many')\n"})
    failed = shop.flash("deploy")
    assert failed.returncode == 1
    assert "[hello] about to fail" in failed.stderr
    assert (
        "Error: no worker of 'hello' can start: hello.py fails with ValueError: " in failed.stderr
    )
    assert "release 1 is served as before" in failed.stderr
    assert shop.call()["text"] == "hello you"
    assert shop.releases() == [(2, "failed"), (1, "active")]
    write(shop.folder, {"texts.py": "GREETING = 'hi'\n"})
    shop.deploy()
    assert shop.call()["text"] == "hi you"
    (place,) = (shop.target.data / "apps").glob("deployed-*")
    until(lambda: len(list(place.iterdir())) <= 2)  # the web worker has not changed


def test_no_request_fails_while_releases_follow_each_other(shop: Shop) -> None:
    shop.deploy()
    routes = f"{shop.target.address}/d/shop-production/web/items/1"
    jobs = f"{shop.target.address}/v2/shop-production-hello/runsync"

    async def load(done: asyncio.Event) -> list[httpx.Response]:
        answers = []
        async with httpx.AsyncClient(timeout=60) as http:
            while not done.is_set():
                answers.append(await http.post(jobs, json={"input": {}}))
                answers.append(await http.get(routes))
                await asyncio.sleep(BREATH_SECONDS)
        return answers

    async def scenario() -> list[httpx.Response]:
        done = asyncio.Event()
        clients = [asyncio.ensure_future(load(done)) for _ in range(3)]
        for version in (2, 3, 4):
            texts = {"texts.py": f"GREETING = '{version}'\n"}
            write(shop.folder, {**texts, "web.py": WEB.replace(": 1", f": {version}")})
            await asyncio.to_thread(shop.deploy)
        await asyncio.to_thread(shop.flash, "rollback")
        done.set()
        return [answer for client in clients for answer in await client]

    answers = asyncio.run(scenario())
    assert len(answers) > 50
    assert [a.text for a in answers if a.status_code != 200] == []
    jobs_done = [a.json() for a in answers if "output" in a.json()]
    assert {job["status"] for job in jobs_done} == {"COMPLETED"}
    assert {job["output"]["text"] for job in jobs_done} >= {"hello you", "2 you", "3 you", "4 you"}
    assert shop.call()["text"] == "3 you"


def test_of_two_deploys_at_once_one_says_that_the_other_is_under_way(
    shop: Shop, gate: Gate
) -> None:
    write(shop.folder, {"texts.py": gate.module})
    command = [sys.executable, "-c", MAIN, "deploy"]
    environ = {**os.environ, **shop.env}
    with subprocess.Popen(
        command, cwd=shop.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as first:
        until(lambda: ("shop-production" in _known(shop)) or first.poll() is not None)
        second = shop.flash("deploy")
        assert second.returncode == 1
        assert "release 1 of shop-production is being made by " in second.stderr
        assert "deploy again when it is there" in second.stderr
        gate.open()
        assert first.wait(60) == 0
    assert shop.releases() == [(1, "active")]
    assert shop.call()["text"] == "slow you"


def _known(shop: Shop) -> list[str]:
    headers = {"authorization": f"Bearer {shop.target.key}"}
    apps = httpx.get(f"{shop.target.address}/v2/apps", headers=headers).json()["apps"]
    return [f"{app['name']}-{name}" for app in apps for name in app["environments"]]


def test_a_client_that_is_killed_leaves_a_release_that_goes_on(shop: Shop, gate: Gate) -> None:
    write(shop.folder, {"texts.py": gate.module})
    command = [sys.executable, "-c", MAIN, "deploy"]
    with subprocess.Popen(
        command, cwd=shop.folder, env={**shop.env, "PATH": "/usr/bin"}, stdout=subprocess.DEVNULL
    ) as process:
        until(lambda: "shop-production" in _known(shop))
        process.send_signal(signal.SIGKILL)
    gate.open()
    until(lambda: shop.releases() == [(1, "active")])
    assert shop.call()["text"] == "slow you"


def test_a_server_that_is_killed_serves_what_it_served_and_nothing_half_made(
    shop: Shop, gate: Gate
) -> None:
    shop.deploy()
    assert shop.call()["text"] == "hello you"
    write(shop.folder, {"texts.py": gate.module})
    command = [sys.executable, "-c", MAIN, "deploy"]
    with subprocess.Popen(
        command, cwd=shop.folder, env={**shop.env, "PATH": "/usr/bin"}, stderr=subprocess.PIPE
    ) as process:
        until(lambda: len(shop.releases()) == 2)
        shop.target.kill()
        shop.target.start_again()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"the server ended while its workers were started; deploy again" in said
    assert shop.releases() == [(2, "failed"), (1, "active")]
    assert shop.call()["text"] == "hello you"
    assert shop.item() == {"number": 3, "version": 1}
    write(shop.folder, {"texts.py": "GREETING = 'hi'\n"})
    shop.deploy()
    assert shop.call()["text"] == "hi you"


def test_a_home_lasts_over_a_restart_of_the_server(shop: Shop) -> None:
    notes = """
        import pathlib
        from runpod_flash import Endpoint

        @Endpoint(name="notes", cpu="cpu3c-1-2")
        def notes() -> int:
            with (pathlib.Path.home() / "notes").open("a+") as file:
                file.write("x")
                return file.tell()
    """
    write(shop.folder, {"notes.py": notes})
    shop.deploy()
    url = f"{shop.target.address}/v2/shop-production-notes/runsync"
    assert httpx.post(url, json={"input": {}}, timeout=60).json()["output"] == 1
    shop.target.stop()
    shop.target.start_again()
    assert httpx.post(url, json={"input": {}}, timeout=60).json()["output"] == 2


def test_values_of_variables_are_the_environment_s_and_stay_over_a_rollback(shop: Shop) -> None:
    shop.deploy(MOOD="calm")
    said = shop.deploy(MOOD="glad").stdout
    assert "hello     unchanged, unless a value of its variables is" in said
    assert "release 2 is served" in said
    assert shop.call()["mood"] == "glad"
    write(shop.folder, {"texts.py": "GREETING = 'bye'\n"})
    shop.deploy(MOOD="sad")
    shop.flash("rollback", "1")
    assert shop.call()["text"] == "hello you"
    assert shop.call()["mood"] == "sad"


def test_a_secret_is_rotated_under_load_worker_by_worker_and_no_request_fails(
    shop: Shop,
) -> None:
    wheel = make_wheel(shop.folder, "rotates").name
    packed = HELLO.replace("workers=(0, 2)", f"workers=(2, 2), dependencies=['./{wheel}']")
    write(shop.folder, {"hello.py": packed})
    builds = partial(_builds, shop.target, "rotates")
    assert builds() == 0
    shop.deploy()
    # (As many as a machine of two cores has.)
    until(lambda: _able(shop.workers_of("hello")) == 2)
    jobs = f"{shop.target.address}/v2/shop-production-hello/runsync"
    assert builds() == 1

    async def load(done: asyncio.Event) -> list[httpx.Response]:
        answers = []
        async with httpx.AsyncClient(timeout=60) as http:
            while not done.is_set():
                answers.append(await http.post(jobs, json={"input": {}}))
                await asyncio.sleep(BREATH_SECONDS)
        return answers

    async def watch(done: asyncio.Event) -> list[tuple[int, int]]:
        """How many workers could take a job, and how many there were, again and again."""
        seen = []
        while not done.is_set():
            found = await asyncio.to_thread(shop.workers_of, "hello")
            seen.append((_able(found), len(found)))
            await asyncio.sleep(0.01)
        return seen

    async def scenario() -> tuple[list[httpx.Response], list[tuple[int, int]]]:
        done = asyncio.Event()
        clients = [asyncio.ensure_future(load(done)) for _ in range(4)]
        watching = asyncio.ensure_future(watch(done))
        for mood in ("first", "second"):
            told = await asyncio.to_thread(shop.secret, "set", "MOOD", given=f"{mood}\n")
            assert told.stdout.startswith("MOOD is set. The workers of hello")
            assert "replaced one by one" in told.stdout
            await asyncio.to_thread(until, partial(_all_are, jobs, mood))
        done.set()
        return [answer for client in clients for answer in await client], await watching

    answers, seen = asyncio.run(scenario())
    assert [a.text for a in answers if a.status_code != 200] == []
    outputs = [a.json()["output"] for a in answers]
    assert outputs[0]["mood"] == "calm"
    assert {each["mood"] for each in outputs} == {"calm", "first", "second"}
    assert min(able for able, _ in seen) == 2
    assert max(all_ for _, all_ in seen) <= 4, "one that starts, and one that ends"
    assert builds() == 1, "a value of a variable is in no environment"


def _able(workers: list[dict[str, Any]]) -> int:
    """How many could take a job."""
    return sum(each["state"] in ("idle", "running") for each in workers)


def _builds(target: Target, package: str) -> int:
    """How often the server has built an environment with it, as its log says."""
    lines = target.log.read_text().splitlines()
    return sum("building environment" in line and package in line for line in lines)


def _all_are(jobs: str, mood: str) -> bool:
    """Several jobs are asked at once, so that every worker has one."""

    async def ask() -> bool:
        async with httpx.AsyncClient(timeout=60) as http:
            asked = (http.post(jobs, json={"input": {}}) for _ in range(8))
            return {a.json()["output"]["mood"] for a in await asyncio.gather(*asked)} == {mood}

    return asyncio.run(ask())


def test_a_secret_counts_before_the_code_and_is_never_shown(shop: Shop) -> None:
    # (Jobs' results are in the store as well.)
    loud = HELLO.replace('"mood": os.environ["MOOD"]', '"mood": os.environ["MOOD"].upper()')
    write(shop.folder, {"hello.py": loud})
    shop.deploy()
    assert shop.secret("list").stdout == "shop production has no secrets.\n"
    asked = shop.secret("set", "MOOD", given="hidden-value\n")
    assert asked.returncode == 0, asked.stderr
    assert "hidden-value" not in asked.stdout + asked.stderr
    until(lambda: shop.call()["mood"] == "HIDDEN-VALUE")
    listed = shop.secret("list").stdout
    assert "MOOD  20" in listed
    assert "hidden-value" not in listed
    again = shop.deploy(MOOD="of the code")
    assert "MOOD: the secret's value counts, not that of the code" in again.stdout
    assert shop.call()["mood"] == "HIDDEN-VALUE"
    shop.target.kill()
    shop.target.start_again()
    assert shop.call()["mood"] == "HIDDEN-VALUE"
    for file in shop.target.data.rglob("*"):
        if file.is_file() and file.name.startswith("flash.db"):
            assert b"hidden-value" not in file.read_bytes()
            assert b"of the code" not in file.read_bytes()
    assert (shop.target.data / "vault-key").stat().st_mode & 0o777 == 0o600
    assert shop.secret("unset", "MOOD").returncode == 0
    until(lambda: shop.call()["mood"] == "OF THE CODE")
    for words, sentence in (
        (("unset", "MOOD"), "shop-production has no secret 'MOOD'; `flash secret list` shows all"),
        (("set", "no-name"), "'no-name' is no name for an environment variable"),
    ):
        refused = shop.secret(*words, given="x")
        assert refused.returncode == 1
        assert sentence in refused.stderr


def test_environments_have_endpoints_of_their_own_and_end_alone(shop: Shop) -> None:
    shop.deploy()
    assert shop.deploy("--env", "staging", MOOD="new").returncode == 0
    assert shop.call()["mood"] == "calm"
    assert shop.call(place="shop-staging")["mood"] == "new"
    which = shop.flash("deploy")
    assert which.returncode == 2
    assert "shop has the environments production, staging; choose one with --env" in which.stderr
    listed = shop.flash("env", "list").stdout
    assert "staging      1        hello     shop-staging-hello" in listed
    assert "shop  production, staging" in shop.flash("app", "list").stdout
    assert "there is no environment 'stagin'" in shop.flash("env", "delete", "stagin").stderr
    assert "Add --yes if that is meant" in shop.flash("undeploy", "--env", "staging").stderr
    asked = in_terminal("undeploy", "--env", "staging", typed="y\n", cwd=shop.folder, env=shop.env)
    assert asked.code == 0, asked.text
    assert "End shop staging (hello, web)?" in asked.text
    url = f"{shop.target.address}/v2/shop-staging-hello/runsync"
    assert httpx.post(url, json={"input": {}}).status_code == 404
    assert shop.call()["mood"] == "calm"
    assert shop.flash("app", "delete", "shop", "--yes").returncode == 0
    until(lambda: shop.workers() == [])
    assert "No app is deployed here" in shop.flash("app", "list").stdout
    gone = shop.flash("app", "get", "shop")
    assert gone.returncode == 1
    assert "there is no app 'shop'" in gone.stderr


def test_endpoints_that_are_gone_are_removed_with_consent(shop: Shop) -> None:
    shop.deploy()
    (shop.folder / "web.py").unlink()
    refused = shop.flash("deploy")
    assert refused.returncode == 1
    assert "web       removed: its jobs end" in refused.stdout
    assert "web would be removed; add --yes if that is meant" in refused.stderr
    assert shop.item() == {"number": 3, "version": 1}
    shop.deploy("--yes")
    url = f"{shop.target.address}/d/shop-production/web/items/3"
    assert httpx.get(url).status_code == 404


def test_another_project_does_not_take_an_app_by_accident(shop: Shop, tmp_path: Path) -> None:
    shop.deploy()
    other = Shop(tmp_path / "other" / "shop", shop.target)
    refused = other.flash("deploy")
    assert refused.returncode == 1
    assert "the app 'shop' was deployed from another project" in refused.stderr
    assert "--take-over" in refused.stderr
    write(other.folder, {"texts.py": "GREETING = 'other'\n"})
    other.deploy("--take-over")
    assert other.call()["text"] == "other you"


def test_a_program_calls_what_is_deployed_under_its_app(shop: Shop) -> None:
    write(shop.folder, {"texts.py": "GREETING = 'deployed'\n"})
    shop.deploy()
    write(shop.folder, {"call.py": "from hello import hello\nprint(hello.call()['text'])\n"})
    environ = {**shop.env, "PATH": "/usr/bin"}
    command = [sys.executable, "call.py"]
    done = subprocess.run(
        command, cwd=shop.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout == "deployed you\n", done.stderr


def test_a_key_that_is_kept_to_an_endpoint_is_for_that_app_s(
    tmp_path: Path, shared_cache: Path
) -> None:
    with server(tmp_path / "server", shared_cache, "--require-key") as target:
        shop = Shop(tmp_path / "shop", target)
        shop.deploy()
        shop.deploy("--env", "staging")
        words = ("key", "create", "ci", "--endpoint", "shop-production-hello")
        key = shop.flash(*words).stdout.strip()
        headers = {"authorization": f"Bearer {key}"}

        def status(path: str) -> int:
            url = f"{target.address}{path}"
            return httpx.post(url, json={"input": {}}, headers=headers, timeout=60).status_code

        assert status("/v2/shop-production-hello/runsync") == 200
        assert status("/d/shop-production/hello/runsync") == 200
        assert status("/v2/shop-staging-hello/runsync") == 403
        assert status("/d/shop-staging/hello/runsync") == 403
        assert status("/v2/apps") == 403
        assert httpx.get(f"{target.address}/v2/apps").status_code == 401


@pytest.mark.parametrize(
    ("files", "words", "sentence"),
    [
        ({"hello.py": f"{HELLO}\n    def broken(:\n"}, (), "nothing was deployed: mend this first"),
        ({}, ("--app", "no/slash"), "'no/slash' is no name for an app"),
        ({}, ("--server", "http://localhost:9"), "http://localhost:9 cannot be reached"),
    ],
)
def test_what_cannot_be_deployed_is_told_in_a_sentence(
    shop: Shop, files: dict[str, str], words: tuple[str, ...], sentence: str
) -> None:
    write(shop.folder, files)
    done = shop.flash("deploy", *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert _known(shop) == []
