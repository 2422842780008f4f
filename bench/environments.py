"""How long does an environment take to build, beside uv and pip by hand, and a cold cache?

    scripts/bench environments [warm] [added]

`warm` resolves and installs numpy and pillow with the packages in uv's (pip's) cache, `added` one
package more than 30 of an environment that is there, beside these 31 with an empty cache. It needs
a package index.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uv
from harness import Result

from runpod_flash.engines.local.environments.environments import EnvironmentRequest, Environments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WARM = ("numpy", "pillow")
# fmt: off
THIRTY = (
    "aiofiles", "anyio", "attrs", "babel", "blinker", "cachetools", "click", "colorama",
    "docutils", "fsspec", "idna", "itsdangerous", "jinja2", "joblib", "markdown", "markupsafe",
    "networkx", "packaging", "pathspec", "platformdirs", "pluggy", "ply", "pygments",
    "pyparsing", "python-dateutil", "pytz", "six", "tabulate", "toml", "tqdm",
)
# fmt: on
ADDED = "wcwidth"
ROUNDS, PIP_ROUNDS = 15, 5


def flash(packages: Sequence[str], root: Path) -> None:
    environments = Environments(root)
    asyncio.run(environments.ensure(EnvironmentRequest("e", tuple(packages), None)))
    environments.close()


def uv_by_hand(packages: Sequence[str], folder: Path) -> None:
    program = uv.find_uv_bin()
    run(program, "venv", "--quiet", "--python", sys.executable, str(folder))
    run(program, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *packages)


def pip_by_hand(packages: Sequence[str], folder: Path) -> None:
    run(sys.executable, "-m", "venv", str(folder))
    run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages)


def run(*command: str) -> None:
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def timed(build: Callable[[Sequence[str], Path], None], packages: Sequence[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        build(packages, Path(folder, "environment"))
        return time.perf_counter() - began


def warm(result: Result) -> None:
    peers = {"Flash": flash, "uv venv, uv pip install": uv_by_hand}
    compare(result, "numpy and pillow, from a warm cache", peers, ROUNDS)
    peers = {"Flash": flash, "venv, pip install": pip_by_hand}
    compare(result, "numpy and pillow, from a warm cache, beside pip", peers, PIP_ROUNDS)


def compare(
    result: Result,
    title: str,
    peers: dict[str, Callable[[Sequence[str], Path], None]],
    count: int,
) -> None:
    rounds: dict[str, list[float]] = {name: [] for name in peers}
    for build in peers.values():
        timed(build, WARM)
    for _ in range(count):
        for name, build in peers.items():
            rounds[name].append(timed(build, WARM))
    result.compare(title, "s", rounds, list(peers)[-1])


def added(result: Result) -> None:
    rounds: dict[str, list[float]] = {"one more": [], "a cold cache": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["UV_CACHE_DIR"] = str(folder / "thirty")
            flash(THIRTY, folder / "environments")
            began = time.perf_counter()
            flash((*THIRTY, ADDED), folder / "environments")
            rounds["one more"].append(time.perf_counter() - began)
            os.environ["UV_CACHE_DIR"] = str(folder / "cold")
            rounds["a cold cache"].append(timed(flash, (*THIRTY, ADDED)))
    del os.environ["UV_CACHE_DIR"]
    result.compare("30 packages and one", "s", rounds, "a cold cache")


if __name__ == "__main__":
    found = Result(__file__, str(__doc__))
    for question in sys.argv[1:] or ["warm", "added"]:
        {"warm": warm, "added": added}[question](found)
    found.save()
