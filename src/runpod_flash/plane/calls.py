"""What code in workers asks of the plane: to run, await, cancel or look at jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runpod_flash.errors import ConfigurationError, FlashError
from runpod_flash.plane.store.base import Call, NewJob, Policy
from runpod_flash.plane.views import JobViews, ended
from runpod_flash.spec import EndpointSpec
from runpod_flash.wire import failures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runpod_flash.links.base import WorkerCall
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Worker
    from runpod_flash.plane.store.base import Chunk, Job
    from runpod_flash.wire.codec import Payload

_REFUSED_KEPT = 1000


class NestedCalls:
    """Answers `WorkerCall`s, on the plane's loop."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._views = JobViews(plane)
        # Why jobs were not accepted, for whoever asks for their end.
        self._refused: dict[str, dict[str, Any]] = {}
        self._operations: dict[str, Callable[[Worker, WorkerCall], None]] = {
            "submit": self._submit,
            "wait": self._wait,
            "chunk": self._chunk,
            "look": self._look,
            "cancel": lambda worker, call: self._plane.cancel(call.fields["job"]),
            "forget": self._forget,
            **plane.debugging.operations,
        }

    def handle(self, worker: Worker, call: WorkerCall) -> None:
        operation = self._operations.get(call.operation)
        if operation is None:
            return
        refused = self._refused.get(str(call.fields.get("job", "")))
        if refused is not None and call.operation in ("wait", "chunk"):
            _answer(worker, call, refused)
            return
        try:
            operation(worker, call)
        except (FlashError, KeyError, TypeError, ValueError) as error:
            # What the code in a worker asks must not hurt the others whose words come after it.
            failure = failures.to_wire(failures.capture(error, origin="system"))
            end = {"state": "FAILED", "failure": failure}
            if call.operation == "submit":  # nobody waits for the answer to that
                self._refuse(str(call.fields.get("job", "")), end)
            _answer(worker, call, end)

    def _refuse(self, job_id: str, end: dict[str, Any]) -> None:
        self._refused[job_id] = end
        if len(self._refused) > _REFUSED_KEPT:
            del self._refused[next(iter(self._refused))]

    def _forget(self, worker: Worker, call: WorkerCall) -> None:
        self._refused.pop(call.fields["job"], None)
        self._views.forget(call.fields["job"])

    def _submit(self, worker: Worker, call: WorkerCall) -> None:
        fields = call.fields
        spec = replace(EndpointSpec.from_wire(fields["spec"]), app=worker.pool.spec.app)
        # What the program itself declared stands; a worker's import may have seen other values.
        pool = self._plane.find(spec.key)
        if pool is None:
            _refuse_code_of_others(worker, spec)
            pool = self._plane.declare(spec, fields["env"], worker.pool.caller_env)
        assert call.payload is not None
        new = NewJob(
            id=fields["job"],
            endpoint=spec.key,
            call=Call(call.payload, fields["form"], fields["method"], call.constructor),
            policy=Policy.of(spec.placement),
            parent=fields["parent"],
            credits=fields["credits"],
        )
        new.check()
        self._plane.submit(pool, new)

    def _wait(self, worker: Worker, call: WorkerCall) -> None:
        self._views.wait(call.fields["job"], lambda job: _answer_end(worker, call, job))

    def _chunk(self, worker: Worker, call: WorkerCall) -> None:
        def arrived(chunks: Sequence[Chunk], job: Job | None) -> None:
            if chunks:
                _answer(worker, call, {"chunk": True}, chunks[0].payload)
            else:
                _answer_end(worker, call, job)

        self._views.chunks(call.fields["job"], call.fields["start"], arrived, limit=1)

    def _look(self, worker: Worker, call: WorkerCall) -> None:
        snapshot = self._views.look(call.fields["job"])
        if snapshot is None:
            _answer(worker, call, {})
            return
        end = snapshot.ended
        _answer(worker, call, snapshot.to_wire(), end.payload if end is not None else None)


def _refuse_code_of_others(worker: Worker, spec: EndpointSpec) -> None:
    """A worker from elsewhere serves its endpoint, and brings this machine nothing to run."""
    if worker.attached:
        raise ConfigurationError(
            f"{spec.name!r} is called by {worker.id}, a worker of another machine, and no endpoint "
            "of that name and file is served here: let it be found in the server's --app directory"
        )


def _answer_end(worker: Worker, call: WorkerCall, job: Job | None) -> None:
    if job is None or job.outcome is None:
        _answer(worker, call, {})
        return
    end = ended(job)
    _answer(worker, call, end.to_wire(), end.payload)


def _answer(
    worker: Worker, call: WorkerCall, fields: dict[str, Any], payload: Payload | None = None
) -> None:
    if worker.link is None:
        return
    try:
        worker.link.answer(call.call_id, fields, payload)
    except ValueError as error:  # more than a frame can carry
        failure = failures.to_wire(failures.capture(error, origin="system"))
        worker.link.answer(call.call_id, {"state": "FAILED", "failure": failure}, None)
