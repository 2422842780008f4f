"""Celery with Redis as its broker and result backend: `python celery_echo.py worker|client`.

REDIS has its address. The worker runs tasks in its own process, the fastest of Celery's pools here.
A client is a process, and waits with `AsyncResult.get`, which several threads must not do at once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

from celery import Celery
from closed_loop import Timed, serve

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier

REDIS = os.environ["REDIS"]
app = Celery("celery_echo", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
processes = multiprocessing.get_context("fork")


@app.task(name="echo")
def echo(value: Any) -> Any:
    return value


def call() -> None:
    assert echo.delay("hello").get(timeout=60) == "hello"


def client(seconds: float, start: Barrier, done: SimpleQueue[list[float]]) -> None:
    call()  # connects
    start.wait()
    timed = Timed(seconds)
    while timed.going():
        with timed.call():
            call()
    done.put(timed.taken)


def clients(count: int, seconds: float) -> Timed:
    start, done = processes.Barrier(count + 1), processes.SimpleQueue()
    started = [processes.Process(target=client, args=(seconds, start, done)) for _ in range(count)]
    for each in started:
        each.start()
    start.wait()
    timed = Timed(seconds)
    for _ in started:
        timed.taken += done.get()
    for each in started:
        each.join()
    return timed


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        app.worker_main(["worker", "--pool=solo", "--loglevel=ERROR"])
    else:
        serve(clients)
