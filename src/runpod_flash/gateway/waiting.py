"""Waiting for a job as long as its client does: one that leaves cancels it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from runpod_flash.links.leaving import leaving

if TYPE_CHECKING:
    from runpod_flash.gateway.jobs import Jobs
    from runpod_flash.gateway.messages import Receive

# A client that leaves is looked for from then on.
_PATIENCE_SECONDS = 0.05


async def until_gone(jobs: Jobs, job_id: str, ended: asyncio.Future[Any], receive: Receive) -> None:
    """Wait for the job's end; a client that leaves before it cancels the job."""
    # Most are done soon, and to look for the client costs a task.
    await asyncio.wait((ended,), timeout=_PATIENCE_SECONDS)
    if ended.done():
        return
    with leaving(receive) as gone:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        jobs.cancel(job_id)
        raise ConnectionError("the client has left")
