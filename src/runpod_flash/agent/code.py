"""The endpoint's code on this machine: files by their content, kept from one run to the next."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

from runpod_flash.control.blobs import Blobs
from runpod_flash.control.trees import AppTree, StoredFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runpod_flash.agent.connection import ServerConnection


class Code:
    """What one worker runs, laid out below `folder` for as long as it is there."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        self._blobs = Blobs(folder / "blobs")
        place = folder / "trees" / worker_id
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
        self._tree = AppTree(place, self._blobs)

    async def fetch(self, listed: Sequence[Any], server: ServerConnection) -> Path:
        """The folder with these files, got from the server where they are not here."""
        files = [StoredFile(str(p), str(d), bool(x)) for p, d, x in listed]
        missing = await asyncio.to_thread(self._blobs.missing, [file.digest for file in files])
        await server.say("lacks", digests=missing)
        async for frame in server.frames(len(missing)):
            await asyncio.to_thread(
                self._blobs.put, frame.fields["digest"], b"".join(frame.buffers)
            )
        if missing:
            await asyncio.to_thread(self._blobs.sweep)
        return await asyncio.to_thread(self._tree.show, files)

    def remove(self) -> None:
        """Nothing runs it any more; the files' contents stay for the next time."""
        self._tree.remove()
