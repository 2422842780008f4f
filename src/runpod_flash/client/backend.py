"""Where calls go: the seam between the SDK and whatever runs the jobs.

There is one backend a target: the embedded plane, the plane above this worker, a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from runpod_flash import context
from runpod_flash.client import ending
from runpod_flash.client.chosen import chosen_target
from runpod_flash.errors import UnguardedCallError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.functions import Target
    from runpod_flash.plane.store.base import Call, Policy
    from runpod_flash.plane.views import Ended, Snapshot
    from runpod_flash.project.catalog import Discovered
    from runpod_flash.spec import EndpointSpec
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.module_names import ModuleNames
    from runpod_flash.wire.tags import Room

# How far a generator may run ahead of the one who reads it.
STREAM_WINDOW = 64


class Submission(NamedTuple):
    """A job to run. `credits` bounds how far a stream runs ahead (0: not at all bounded).

    `describe` says what is behind the spec, to a server that has to learn it; `webhook` is what a
    server tells of the end.
    """

    job_id: str
    spec: EndpointSpec
    env: Mapping[str, str]
    call: Call
    policy: Policy
    credits: int = 0
    describe: Callable[[], Discovered] | None = None
    webhook: str = ""


class Backend(Protocol):
    """Callbacks are called once, on any thread; no method blocks."""

    names: ModuleNames

    @property
    def room(self) -> Room:
        """Gives memory for large buffers of values that are sent."""

    def submit(
        self,
        submission: Submission,
        on_end: Callable[[Ended], None] | None = None,
        reader: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Send a job.

        `reader` is the running loop, if it awaits the end: it may bring it. Nobody but the caller
        knows such a job, which is forgotten with its end.
        """

    def wait(self, job_id: str, on_end: Callable[[Ended | None], None]) -> None:
        """Call back when the job has ended; None if it is not known."""

    def chunks(
        self, job_id: str, start: int, on_chunks: Callable[[Sequence[Payload], Ended | None], None]
    ) -> None:
        """Call back with the stream's chunks from number `start` as soon as there are any.

        The end comes with the last ones. Asking from `start` says that those before are consumed.
        """

    def look(self, job_id: str, on_look: Callable[[Snapshot | Exception | None], None]) -> None:
        """Call back with the job as it is now, None if it is not known, or why it cannot be."""

    def cancel(self, job_id: str) -> None: ...

    def forget(self, job_id: str) -> None:
        """Say that nobody will ask for this ended job again."""


def backend_for(declared: Target) -> Backend:
    """The backend of this process: a worker's plane, the target, or the embedded plane.

    An endpoint that is known by its id only is the target's, wherever this runs. Raises
    `UnguardedCallError` while a worker imports the module that calls, `ConfigurationError` for
    a target that is no address, and `FlashError` for a first call at the program's very end.
    """
    worker = context.current
    if worker is not None:
        refuse_while_importing(declared.name)
        if not declared.by_id:
            from runpod_flash.client.in_worker import InWorkerBackend

            return InWorkerBackend(worker)
    else:
        ending.refuse_first_call()
    target = chosen_target()
    if target is not None:
        if worker is not None:
            from runpod_flash.client.from_worker import backend_at_server

            return backend_at_server(target, declared.name)
        from runpod_flash.client.target import backend_at

        return backend_at(target, declared.name)
    from runpod_flash.client.embedded import embedded_backend

    return embedded_backend()


def refuse_while_importing(endpoint: str) -> None:
    """Raise `UnguardedCallError` if a worker imports the module that calls the endpoint."""
    worker = context.current
    if worker is not None and worker.importing:
        raise UnguardedCallError(
            f"{worker.importing} calls the endpoint {endpoint!r} while a worker imports it; "
            "put the call under `if __name__ == '__main__':`"
        )
