"""Ends workers: by themselves within a grace time, else by force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.engines.base import WorkerExit
from runpod_flash.plane.pool import WorkerState

if TYPE_CHECKING:
    from runpod_flash.plane.pool import Pool, Worker
    from runpod_flash.plane.surroundings import Surroundings

_STOP_GRACE_SECONDS = 5.0
# A process that has closed its link is about to end; one that is not is of no use.
_CLOSED_GRACE_SECONDS = 0.5


class Stopper:
    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def stop(self, worker: Worker) -> None:
        """End a worker that has no jobs."""
        with self._around.dispatcher.lock:
            if worker.busy:
                return
            worker.state = WorkerState.DRAINING
            worker.pool.refresh(worker)
        if worker.stopping:
            return
        worker.stopping = True
        if worker.link is None:
            return  # still being started: the starter sees the mark
        if worker.ghosts:
            self.force(worker)
            return
        worker.link.stop()
        self._force_later(worker, _STOP_GRACE_SECONDS)

    def stop_idle(self, pool: Pool, count: int) -> None:
        """End so many idle workers, those first that have been idle for longest."""
        ours = (w for w in pool.live() if w.idle and not w.attached)
        for worker in sorted(ours, key=lambda w: w.idle_since)[:count]:
            self.stop(worker)

    def stop_drained(self, pool: Pool) -> None:
        """End those that take no more jobs and have done their last one."""
        for worker in list(pool.workers.values()):
            if worker.state is WorkerState.DRAINING and not worker.busy and not worker.gone:
                self.stop(worker)

    def drain(self, worker: Worker) -> None:
        """Give the worker no more jobs."""
        with self._around.dispatcher.lock:
            worker.state = WorkerState.DRAINING
            worker.pool.refresh(worker)

    def retire(self, worker: Worker) -> None:
        """Let one worker end after what it does."""
        self.drain(worker)
        self.stop_drained(worker.pool)

    def link_closed(self, worker: Worker) -> None:
        """No word will come from this worker any more; the engine says what became of it."""
        worker.gone = True
        if worker.state is WorkerState.READY:  # of one that starts, the exit tells the reason
            self.drain(worker)
        self._force_later(worker, _CLOSED_GRACE_SECONDS)

    def force(self, worker: Worker) -> None:
        """End a worker whatever it does."""
        if self._around.tasks.closed:
            return
        if worker.pool.workers.get(worker.id) is not worker:  # one elsewhere comes back by its id
            return
        if worker.attached:  # its process is not ours to end
            self._part(worker, "lost its connection" if worker.gone else "has left")
        else:
            self._around.tasks.spawn(self._around.engine.stop(worker.id))

    async def end(self, pool: Pool) -> None:
        """End the pool's workers, whatever they do; returns when all are gone."""
        while pool.workers:
            for worker in list(pool.workers.values()):
                worker.stopping = True
                if worker.attached:
                    self._part(worker, "has lost its endpoint")
                else:
                    await self._around.engine.stop(worker.id)
            if not pool.workers:
                return
            pool.change.clear()
            await pool.change.wait()

    def remove(self, worker: Worker) -> None:
        """Know no more of a worker that is gone."""
        with self._around.dispatcher.lock:
            worker.pool.workers.pop(worker.id, None)
            worker.pool.refresh(worker)
        worker.pool.change.set()
        self._around.identities.ended(worker.id)
        if worker.link is not None:
            worker.link.close()

    def _force_later(self, worker: Worker, seconds: float) -> None:
        self._around.tasks.loop.call_later(seconds, self.force, worker)

    def _part(self, worker: Worker, reason: str) -> None:
        """Be done with a worker that somebody else ends."""
        events = self._around.engine_events(worker.pool)
        events.worker_exited(WorkerExit(worker.id, reason))
