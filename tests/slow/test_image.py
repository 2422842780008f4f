"""The image of `flash server`: built as the docs say, run, stopped, and run again."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from integration.served import write
from slow.containers import Podman, machine_image, needs_podman

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.network, needs_podman]
CLONE = Path(__file__).resolve().parents[2]
APP = """
    import os
    import time

    from runpod_flash import Endpoint

    @Endpoint(name="who", cpu="cpu3c-1-2")
    def who() -> int:
        return os.getuid()

    @Endpoint(name="slow", cpu="cpu3c-1-2", workers=(0, 1))
    def slow(n: int) -> int:
        time.sleep(3)
        return 7 * n
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """With the image `flash`, built without a network from wheels that pip has fetched here."""
    folder = tmp_path_factory.mktemp("podman")
    podman = Podman(folder)
    wheels = folder / "wheels"
    fetch = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([*fetch, str(CLONE), "hatchling"], check=True)
    try:
        machine_image(podman, folder, "base", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels")
        podman(
            "build", "--build-arg", "BASE=localhost/base", "--network", "none",
            "--volume", f"{wheels}:/wheels:ro",
            "--file", CLONE / "deploy" / "Containerfile", "--tag", "flash", CLONE,
        )  # fmt: skip
        yield podman
    finally:
        podman.close()


class Container:
    """A server in a container, with its data in the volume `flash`."""

    def __init__(self, podman: Podman, project: Path, key: str = "") -> None:
        self._podman = podman
        self.id = podman(
            "run", "--detach", "--init", "--publish", "127.0.0.1::8000",
            "--volume", "flash:/var/lib/flash", "--volume", f"{project}:/app:ro",
            "flash", "--insecure", "--app", "/app",
        ).splitlines()[-1]  # fmt: skip
        self._address = f"http://{podman('port', self.id, '8000/tcp')}"
        self._wait_until_ready()
        self.key = key or re.findall(r"^    (\S+)$", self.log, re.MULTILINE)[0]

    @property
    def log(self) -> str:
        return self._podman("logs", self.id)

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self._address}/readyz", trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(self.log)

    def ask(self, method: str, path: str, given: Any = None, key: str = "") -> httpx.Response:
        return httpx.request(
            method, f"{self._address}{path}", json=given, timeout=60, trust_env=False,
            headers={"Authorization": f"Bearer {key or self.key}"},
        )  # fmt: skip

    def job(self, path: str, given: dict[str, Any]) -> Any:
        return self.ask("POST", path, {"input": given}).json()

    def status(self, job_id: str, *awaited: str) -> Any:
        """The job, once its status is one of these."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            job = self.ask("GET", f"/v2/slow/status/{job_id}").json()
            if job["status"] in awaited:
                return job
            time.sleep(0.05)
        raise AssertionError(f"{job}\n{self.log}")

    def stop(self) -> int:
        """The exit code after SIGTERM, as `podman stop` sends it."""
        self._podman("stop", "--time", "45", self.id)
        return int(self._podman("inspect", "--format", "{{.State.ExitCode}}", self.id))


def test_the_image_serves_drains_and_goes_on_with_its_volume(
    podman: Podman, tmp_path: Path
) -> None:
    write(tmp_path, {"app.py": APP})
    tmp_path.chmod(0o755)  # for the image's user
    first = Container(podman, tmp_path)
    assert first.job("/v2/who/runsync", {})["output"] == 1000
    assert first.ask("POST", "/v2/who/runsync", {"input": {}}, key="none").status_code == 401
    assert "flash_jobs_total" in first.ask("GET", "/metrics").text
    running = first.job("/v2/slow/run", {"n": 1})["id"]
    first.status(running, "IN_PROGRESS")
    queued = first.job("/v2/slow/run", {"n": 2})["id"]
    assert first.stop() == 0

    second = Container(podman, tmp_path, first.key)
    assert "Its admin key" not in second.log
    assert second.status(running, "COMPLETED")["output"] == 7  # in its grace time
    assert second.status(queued, "COMPLETED")["output"] == 14
    assert second.stop() == 0
