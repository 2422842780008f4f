"""How long does the first call of an unchanged program take to start at a server, beside embedded?

    scripts/bench target_start

The server runs in another process on this machine, and has had the program before. Both clocks
read the same time: what is measured is from just before the call to the function's first line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Result
from servers import flash_server

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
    result = Result(__file__, str(__doc__))
    with tempfile.TemporaryDirectory() as name, flash_server(Path(name)) as server:
        project = Path(name, "project")
        project.mkdir()
        for number in range(FILES):
            (project / f"module_{number}.py").write_text(f"NUMBER = {number}\n" * 200)
        files = {"pyproject.toml": "", "helpers.py": HELPERS, "app.py": PROGRAM}
        for file, text in files.items():
            (project / file).write_text(text)
        target = {"FLASH_TARGET": server.address, "FLASH_API_KEY": server.key}
        ways = {"embedded": dict[str, str](), "at a server": target}
        for env in ways.values():
            run(project, env)
        rounds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, env in ways.items():
                rounds[way].append(run(project, env))
    title = f"From the first call of a program until its job starts; a project of {FILES} files"
    result.compare(title, "ms", rounds, "embedded")
    result.save()


if __name__ == "__main__":
    main()
