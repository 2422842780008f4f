"""The hosted SDK from PyPI, unmodified: it deploys its own skeleton here, and calls it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from behaviour.servers import server
from integration.foreign import python_with
from unit.command_line import flash

if TYPE_CHECKING:
    from pathlib import Path

    from behaviour.servers import Target

pytestmark = [pytest.mark.slow, pytest.mark.network]
SDK = "runpod-flash==1.16.0"


class Sdk:
    """Its command line and its programs, told of the server by what `flash target env` prints."""

    def __init__(self, folder: Path, target: Target) -> None:
        self._python = python_with(SDK)
        # As in an environment of python's own: its build asks for it, and gives up after 30 s.
        pip = [sys.executable, "-m", "uv", "--quiet", "pip", "install", "pip"]
        subprocess.run([*pip, "--python", self._python], check=True)
        self.folder = folder
        here = flash("target", "env", cwd=folder, env={"HOME": str(folder), **target.variables})
        lines = [shlex.split(line)[1].split("=", 1) for line in here.stdout.splitlines()]
        self._env = {
            "PATH": f"{self._python.parent}{os.pathsep}/usr/bin:/bin",
            "HOME": str(folder),
            "FLASH_NO_UPDATE_CHECK": "1",
            **dict(lines),
        }

    def run(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, timeout=600,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_the_hosted_sdk_deploys_its_own_skeleton_and_calls_it(
    tmp_path: Path, shared_cache: Path
) -> None:
    with server(tmp_path / "server", shared_cache) as target:
        sdk = Sdk(tmp_path, target)
        sdk.run("flash", "init", "shop")
        sdk.folder = tmp_path / "shop"
        said = sdk.run("flash", "deploy")
        assert "deployed to production" in said
        for name in ("cpu_worker", "gpu_worker"):
            assert f"{target.address}/v2/shop-production-{name}/runsync" in said
        assert "'message': 'Testing CPU worker'" in sdk.run("python", "cpu_worker.py")
        assert "'name': 'No GPU detected'" in sdk.run("python", "gpu_worker.py")
        # (Its own address for routes needs TLS and a name for each endpoint.)
        health = f"{target.address}/d/shop-production/lb_worker/health"
        assert httpx.get(health, timeout=60).json() == {"status": "healthy"}

        worker = sdk.folder / "cpu_worker.py"
        worker.write_text(worker.read_text().replace("Hello from CPU worker!", "Changed"))
        sdk.run("flash", "deploy", "--env", "production", "--no-deps")  # (packages are as before)
        called = "import asyncio, cpu_worker; print(asyncio.run(cpu_worker.cpu_hello({})))"
        assert "'message': 'Changed'" in sdk.run("python", "-c", called)

        assert "shop-production-lb_worker" in sdk.run("flash", "env", "get", "production")
        sdk.run("flash", "undeploy", "cpu_worker", "--force")
        sdk.run("flash", "app", "delete", "shop")
        assert "no apps found" in sdk.run("flash", "app", "list")
        url = f"{target.address}/v2/apps"
        headers = {"authorization": f"Bearer {target.key}"}
        assert httpx.get(url, headers=headers).json()["apps"] == []
