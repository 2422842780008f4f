"""Jobs whose end a webhook is told of: by a server, which is there when the program has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runpod_flash import calls, context
from runpod_flash.client.backend import backend_for
from runpod_flash.client.chosen import chosen_target
from runpod_flash.errors import NotAvailableError
from runpod_flash.unavailable import refuse_without_server
from runpod_flash.wire.codec import encode

if TYPE_CHECKING:
    from runpod_flash.functions import Target
    from runpod_flash.job import EndpointJob


def run_told(target: Target, value: Any, webhook: str) -> EndpointJob:
    """As `Target.run_input`. Raises `NotAvailableError` where no server has the job."""
    if context.current is not None and not target.by_id:
        raise NotAvailableError(
            f"webhook= is for jobs that a server is asked for, and a worker calls {target.name!r} "
            f"over its own link: await the job, or call Endpoint(id={target.name!r})"
        )
    if chosen_target() is None:
        refuse_without_server("webhook= is called even after this program's end, which")
    method, rest = target.split_input(value)
    backend = backend_for(target.name, by_id=target.by_id)
    payload = encode(rest, backend.names, backend.room)
    submission = calls._submission(target, payload, "input", method)
    return calls._queued(backend, target, submission._replace(webhook=webhook))
