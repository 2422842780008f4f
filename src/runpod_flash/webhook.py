"""Webhooks of jobs: a server calls them, which is there when the program has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash import context
from runpod_flash.client.chosen import chosen_target
from runpod_flash.errors import NotAvailableError
from runpod_flash.unavailable import refuse_without_server

if TYPE_CHECKING:
    from runpod_flash.functions import Target


def check_server(target: Target) -> None:
    """Raise `NotAvailableError` where no server has the target's jobs."""
    if context.current is not None and not target.by_id:
        raise NotAvailableError(
            f"webhook= is for jobs that a server is asked for, and a worker calls {target.name!r} "
            f"over its own link: await the job, or call Endpoint(id={target.name!r})"
        )
    if chosen_target() is None:
        refuse_without_server("webhook= is called even after this program's end, which")
