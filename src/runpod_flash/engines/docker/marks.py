"""Which planes may have containers on this machine: a file for each, which goes with the last one.

The machine may lose its power, and its container engine keep what there was. So whoever starts next
looks here, which costs nothing where no image was ever run.
"""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Marks:
    """Below a folder that outlasts the machine's start. Each has the address of its engine."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "images" / "planes"

    def make(self, plane: str, address: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._of(plane).write_text(address, encoding="utf-8")

    def remove(self, plane: str) -> None:
        self._of(plane).unlink(missing_ok=True)

    def all(self) -> list[str]:
        try:
            return [each.name for each in self.folder.iterdir()]
        except OSError:
            return []

    def address(self, plane: str) -> str:
        return self._of(plane).read_text(encoding="utf-8")

    def sweep_if_any(self) -> None:
        """Have what ended planes have left removed, by a thread that nobody waits for."""
        if self.all():
            Thread(target=self._sweep, name="flash-sweep", daemon=True).start()

    def _sweep(self) -> None:
        from runpod_flash.engines.docker.sweeping import sweep_marked

        sweep_marked(self)

    def _of(self, plane: str) -> Path:
        return self.folder / plane
