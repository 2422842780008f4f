"""Programs that benchmarks ask for calls whose worker has to be started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS = 15
# Each worker is a fresh process.
FRESH = {"FLASH_ZYGOTES": "0"}


class Running:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ask("")

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if name:
            stdin.write(f"{name}\n")
            stdin.flush()
        return stdout.readline()

    def call(self, name: str) -> float:
        return float(self.ask(name).split()[0])

    def settle(self, name: str, *, slow: bool = False) -> None:
        """Call until the next worker is as all later ones are: each pause makes it so for one of
        the environment's zygote, that with what was learned, and the endpoint's snapshot."""
        for pause in (3.0, 3.0, 2.0, 0.3):
            self.ask(name)
            time.sleep(2 * pause if slow else pause)


@contextmanager
def program(root: Path, name: str, source: str, **variables: str) -> Iterator[Running]:
    file = root / name
    file.write_text(source)
    with subprocess.Popen(
        [sys.executable, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, **variables},
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()
