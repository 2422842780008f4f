"""Programs' apps on the disk, for a server that is started again while their programs run."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class KeptApps:
    """What programs have asked to be served, a file each; only the server's user can read it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, app: str, wanted: dict[str, Any]) -> None:
        """Keep it in the place of what the app wanted before."""
        place = self._place(app)
        part = place.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it is a descriptor
            json.dump(wanted, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(place)

    def drop(self, app: str) -> None:
        """The app has ended."""
        self._place(app).unlink(missing_ok=True)

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What apps wanted that have not ended; a file that is no such thing is removed."""
        for place in sorted(self._folder.iterdir()):
            try:
                wanted = json.loads(place.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                wanted = None
            if place.suffix == ".json" and isinstance(wanted, dict):
                yield place.stem, wanted
            else:
                place.unlink(missing_ok=True)

    def _place(self, app: str) -> Path:
        return self._folder / f"{app}.json"
