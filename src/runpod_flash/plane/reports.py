"""What engines and workers report, brought to the part of the plane that it concerns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runpod_flash.links.base import LogLine
from runpod_flash.plane.events import Logged, Notice
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from runpod_flash.engines.base import WorkerExit
    from runpod_flash.links.base import JobRef, Part, WorkerCall
    from runpod_flash.plane.plane import Plane
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.wire.codec import Payload
    from runpod_flash.wire.failures import Failure


@dataclass(frozen=True, slots=True)
class PoolReports:
    """`EngineEvents` about the workers of one pool."""

    plane: Plane
    pool: Pool

    def worker_exited(self, exit: WorkerExit) -> None:
        self.plane.worker_exited(exit)

    def worker_output(self, worker_id: str, text: str) -> None:
        self.plane.events.publish(_logged(self.pool, LogLine(worker_id, text)))

    def notice(self, endpoint: str, text: str) -> None:
        self.plane.events.publish(Notice(endpoint, text, self.pool.spec.app))


@dataclass(frozen=True, slots=True)
class WorkerReports:
    """`LinkEvents` of one worker."""

    plane: Plane
    worker: Worker

    def ready(self) -> None:
        self.plane.reconciler.ready(self.worker)

    def start_failed(self, failure: Failure) -> None:
        self.plane.reconciler.start_failed(self.worker, failure)

    def chunk(self, ref: JobRef, index: int, payload: Payload) -> None:
        self.plane.dispatcher.chunk(self.worker, ref, index, payload)

    def finished(self, ref: JobRef, result: Payload) -> None:
        self.plane.dispatcher.finished(self.worker, ref, result)

    def failed(self, ref: JobRef, failure: Failure, output: Payload | None = None) -> None:
        failure = self._advised(failure)
        self.plane.dispatcher.failed(self.worker, ref, failure, output)

    def _advised(self, failure: Failure) -> Failure:
        """Add what the engine knows about this worker that may explain the exception."""
        advice = self.plane.engine.advice(self.worker.id)
        if not advice:
            return failure
        # In the text as well: tracebacks of Python 3.10 show no notes.
        text = f"{failure.traceback.rstrip()}\n{advice}\n"
        return failure._replace(notes=(*failure.notes, advice), traceback=text)

    def stopped(self, ref: JobRef) -> None:
        self.plane.dispatcher.stopped(self.worker, ref)

    def asks(self, count: int) -> None:
        self.plane.dispatcher.offer(self.worker, count)

    def progress(self, ref: JobRef, payload: Payload) -> None:
        now(self.plane.store.note(ref, payload))

    def dropped(self, ref: JobRef, why: str) -> None:
        self.plane.dispatcher.dropped(self.worker, ref, why)

    def log(self, line: LogLine) -> None:
        self.plane.events.publish(_logged(self.worker.pool, line))

    def exchange(self, part: Part) -> None:
        self.plane.requests.arrived(self.worker, part)

    def call(self, call: WorkerCall) -> None:
        self.plane.calls.handle(self.worker, call)

    def closed(self) -> None:
        # The worker's death is reported by the engine, with its reason. A worker that merely
        # closed its link is of no use any more.
        self.plane.reconciler.link_closed(self.worker)


def _logged(pool: Pool, line: LogLine) -> Logged:
    return Logged(pool.spec.name, line, pool.spec.app)
