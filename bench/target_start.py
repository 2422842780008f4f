"""An unchanged program at a target: from its first call until the job starts, beside embedded.

    scripts/bench target_start

The server runs in another process on this machine, and has had the program before. Both clocks
read the same time: what is measured is from just before the call to the function's first line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness import report

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import time
from runpod_flash import Endpoint
from helpers import now

@Endpoint(name="starts", cpu="cpu3c-1-2")
def starts():
    return now()

if __name__ == "__main__":
    began = time.monotonic()
    print(starts.call() - began)
"""
HELPERS = "import time\n\ndef now():\n    return time.monotonic()\n"
FILES = 200
ROUNDS = 15
SERVE = "from runpod_flash.cli.main import main; main()"


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """A running `flash server`; the variables of a program that is to run there."""
    log = folder / "log.txt"
    command = [sys.executable, "-c", SERVE, "server", "--data-dir", str(folder / "data")]
    env = {**os.environ, "XDG_STATE_HOME": str(folder)}  # where its key is kept
    with log.open("w") as written:
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=written, stderr=written, env=env
        )
    try:
        yield {
            "FLASH_API_KEY": _seen(log, r"flash_\S+"),
            "FLASH_TARGET": _seen(log, r"http://[^/\s]+:\d+"),
        }
    finally:
        process.terminate()
        process.wait()


def _seen(log: Path, pattern: str) -> str:
    while not (found := re.search(pattern, log.read_text())):
        time.sleep(0.05)
    return found[0]


def run(project: Path, env: dict[str, str]) -> float:
    """Milliseconds until the job started."""
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=project,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return 1000 * float(done.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as target:
        project = Path(name, "project")
        project.mkdir()
        for number in range(FILES):
            (project / f"module_{number}.py").write_text(f"NUMBER = {number}\n" * 200)
        files = {"pyproject.toml": "", "helpers.py": HELPERS, "app.py": PROGRAM}
        for file, text in files.items():
            (project / file).write_text(text)
        ways = {"embedded": dict[str, str](), "at a server": target}
        for env in ways.values():
            run(project, env)
        rounds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, env in ways.items():
                rounds[way].append(run(project, env))
    title = f"from the first call of a program until its job starts; a project of {FILES} files"
    report(title, "ms", rounds, "embedded")


if __name__ == "__main__":
    main()
