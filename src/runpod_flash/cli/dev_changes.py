"""Serves what is saved while `flash dev` runs, here or at a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.cli import output
from runpod_flash.errors import FlashError
from runpod_flash.project.watching import changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from runpod_flash.project.watching import Stamps


async def serve_changes(
    root: Path, known: Stamps, serve: Callable[[tuple[str, ...]], Awaitable[None]]
) -> None:
    """Have `serve` serve the files that changed, by their paths below the root, for ever.

    `known` are the files' stamps when what is served now was read.

    What cannot be served is said, and comes again with the next change.
    """
    missed: set[str] = set()
    async for changed in changes(root, known):
        names = tuple(sorted({*missed, *changed}))
        try:
            await serve(names)
        except (FlashError, OSError) as error:  # (a file may go while it is read)
            missed.update(names)
            output.error(f"{', '.join(names[:3])} changed, and is not served: {error}")
        else:
            missed.clear()
