"""A project in a folder, and `flash` called there, for tests of deploying."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from integration.served import write
from unit.command_line import flash

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from behaviour.servers import Target

HELLO = """
    import os
    from runpod_flash import Endpoint
    from texts import GREETING

    @Endpoint(name="hello", cpu="cpu3c-1-2", workers=(0, 2), env={"MOOD": os.environ["MOOD"]})
    def hello(name: str = "you") -> dict:
        return {"text": f"{GREETING} {name}", "mood": os.environ["MOOD"], "pid": os.getpid()}
"""
WEB = """
    from runpod_flash import Endpoint

    api = Endpoint(name="web", cpu="cpu3c-1-2", workers=(0, 2))

    @api.get("/items/{number}")
    async def item(number: int) -> dict:
        return {"number": number, "version": 1}
"""
FILES = {
    "hello.py": HELLO,
    "texts.py": "GREETING = 'hello'\n",
    "web.py": WEB,
    "pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\n",
}


class Shop:
    """A project, and a server that it is deployed to."""

    def __init__(self, folder: Path, target: Target, files: Mapping[str, str] = FILES) -> None:
        self.folder = folder
        self.target = target
        write(folder, files)

    @property
    def env(self) -> dict[str, str]:
        home, cache = str(self.folder.parent), str(self.target.cache)
        return {"HOME": home, "XDG_CACHE_HOME": cache, "MOOD": "calm", **self.target.variables}

    def flash(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return flash(*words, cwd=self.folder, env={**self.env, **env})

    def deploy(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = self.flash("deploy", *words, **env)
        assert done.returncode == 0, done.stderr
        return done

    def secret(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return flash("secret", *words, cwd=self.folder, env=self.env, given=given)

    def ask(self, name: str, /, place: str = "shop-production", **given: object) -> Any:
        """The output of an endpoint; its key is the deployer's."""
        answer = httpx.post(
            f"{self.target.address}/v2/{place}-{name}/runsync",
            json={"input": given},
            headers=self.headers,
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["status"] == "COMPLETED", told
        return told["output"]

    def call(self, name: str = "hello", place: str = "shop-production") -> dict[str, Any]:
        return dict(self.ask(name, place))

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.target.key}"}

    def item(self) -> dict[str, Any]:
        url = f"{self.target.address}/d/shop-production/web/items/3"
        return dict(httpx.get(url, headers=self.headers, timeout=60).json())

    def releases(self, *words: str) -> list[tuple[int, str]]:
        found = json.loads(self.flash("releases", "--json", *words).stdout)
        return [(each["number"], each["state"]) for each in found]

    def workers_of(self, *names: str) -> list[dict[str, Any]]:
        """The workers of these endpoints, or of all, as `flash ps` has them."""
        url = f"{self.target.address}/v2/flash/overview"
        told = httpx.get(url, headers=self.headers, timeout=60)
        assert told.status_code == 200, told.text
        seen = told.json()
        found = [each for each in seen["endpoints"] if each["app"] == "shop-production"]
        return [
            {**worker, "endpoint": each["name"]}
            for each in found
            for worker in each["workers"]
            if not names or each["name"] in names
        ]

    def worker_ids(self, *names: str) -> set[tuple[str, str]]:
        """Their endpoints and ids."""
        return {(worker["endpoint"], worker["id"]) for worker in self.workers_of(*names)}

    def workers(self) -> list[psutil.Process]:
        return [p for p in self.processes() if "boot.py" in " ".join(_words(p))]

    def processes(self) -> list[psutil.Process]:
        """All that the server has started."""
        (process,) = (p for p in psutil.process_iter() if str(self.target.data) in _words(p))
        return process.children(recursive=True)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
