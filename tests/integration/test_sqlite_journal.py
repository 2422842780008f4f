"""What "durable" means: committed, many at once, by any thread, and whatever happens then."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from integration.stores import claim, job, lives, new, opened, value
from runpod_flash.errors import StoreFullError
from runpod_flash.plane.store.base import Chunk, JobState, Lease, Outcome
from runpod_flash.plane.store.memory import now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runpod_flash.plane.store.base import Job
    from runpod_flash.plane.store.changes import Write
    from runpod_flash.plane.store.sqlite import SqliteStore

committed = pytest.mark.usefixtures("committer")

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
COUNT = "import sqlite3,sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"

WRITER = """
import asyncio, itertools, os, sys, time
from pathlib import Path
from runpod_flash.plane.store.base import Chunk, JobState, Outcome
from integration.stores import claim, new, opened, value

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())

async def submit(store, names, life):
    for number in names:
        name = f"{life}-{number}"
        await store.submit([new(name, 20_000 if number % 7 == 0 else 10)])
        await store.durable()
        say("accepted", name)

async def work(store):
    while True:
        for found in await claim(store, 3):
            await store.append(found.ref, Chunk(0, value(5, found.id[0])))
            result = value(30_000 if found.id.endswith("3") else 5, found.id[0])
            await store.finish(found.ref, Outcome(JobState.COMPLETED, result))
            await store.durable()
            say("ended", found.id)
        await asyncio.sleep(0)

async def main():
    async with opened(Path(sys.argv[1]), time.time) as store:
        names = itertools.count()
        await asyncio.gather(*(submit(store, names, sys.argv[2]) for _ in range(5)), work(store))

asyncio.run(main())
"""


def seen_by_another_process(path: Path, query: str) -> str:
    command = [sys.executable, "-c", COUNT, str(path / "flash.db"), query]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def has_its_arguments(found: Job) -> bool:
    return found.call.payload.body.startswith(f'["{found.id}",'.encode())


@committed
def test_what_is_durable_another_process_can_read(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.submit([new("one"), new("two")])
        await store.durable()
        assert seen_by_another_process(tmp_path, "SELECT count(*) FROM jobs") == "2"
        (first,) = await claim(store)
        await store.append(first.ref, Chunk(0, value(5)))
        await store.finish(first.ref, Outcome(JobState.COMPLETED, value(5)))
        await store.durable()
        query = "SELECT state FROM jobs, chunks WHERE key=job"
        assert seen_by_another_process(tmp_path, query) == "COMPLETED"
        await store.forget(["one"])
        await store.durable()
        assert seen_by_another_process(tmp_path, "SELECT count(*) FROM chunks") == "0"

    lives(tmp_path, scenario)


@committed
def test_what_nobody_waits_for_is_written_soon(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.submit([new("one")])
        with closing(sqlite3.connect(tmp_path / "flash.db")) as other:
            while not other.execute("SELECT id FROM jobs").fetchall():
                await asyncio.sleep(0.01)

    lives(tmp_path, scenario)


@committed
def test_all_that_is_submitted_during_a_commit_makes_the_next_one(tmp_path: Path) -> None:
    async def one(store: SqliteStore, job_id: str, counts: list[int]) -> None:
        await store.submit([new(job_id)])
        await store.durable()
        with closing(sqlite3.connect(tmp_path / "flash.db")) as other:
            counts += other.execute("SELECT count(*) FROM jobs").fetchone()

    async def scenario(store: SqliteStore) -> None:
        counts: list[int] = []
        with closing(sqlite3.connect(tmp_path / "flash.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the store's own commits wait for it
            first = asyncio.ensure_future(one(store, "first", counts))
            await asyncio.sleep(0)  # (it has submitted)
            while store._dirty.rows:  # until the journal has taken the first one
                await asyncio.sleep(0.01)
                assert not counts
            others = [asyncio.ensure_future(one(store, f"job-{n}", counts)) for n in range(50)]
            await asyncio.sleep(0)
            assert not counts, "nothing is durable before it is committed"
            other.execute("ROLLBACK")
        await asyncio.gather(first, *others)
        assert counts[1:] == [51] * 50, "one transaction has brought all of them"

    lives(tmp_path, scenario)


@committed
def test_after_a_failure_that_passes_jobs_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[Write]:
        raise MemoryError

    async def scenario(store: SqliteStore) -> None:
        await store.submit([new("zero")])
        await store.durable()
        with monkeypatch.context() as patch:
            patch.setattr(store._journal, "_take", fail)
            await store.submit([new("one")])
            with pytest.raises(StoreFullError, match="MemoryError"):
                await store.durable()
        for name in ("two", "three"):
            while store._journal.broken:  # (it is tried again after a while)
                await asyncio.sleep(0.01)
            await store.submit([new(name)])
            await store.durable()
        assert seen_by_another_process(tmp_path, "SELECT count(*) FROM jobs") == "4"

    lives(tmp_path, scenario)


@committed
def test_a_commit_that_ends_at_the_moment_of_asking_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: SqliteStore) -> None:
        loop = asyncio.get_running_loop()
        make = loop.create_future

        def late() -> asyncio.Future[None]:
            """The journal commits between the look at what is durable and the wait for it."""
            with closing(sqlite3.connect(tmp_path / "flash.db")) as other:
                while not other.execute("SELECT id FROM jobs").fetchall():
                    time.sleep(0.01)
            time.sleep(0.05)
            return make()

        await store.submit([new("one")])
        with monkeypatch.context() as patch:
            patch.setattr(loop, "create_future", late)
            waiting = loop.create_task(store.durable())
            await asyncio.sleep(0)  # (it asks now)
        await asyncio.wait_for(waiting, 20)

    lives(tmp_path, scenario)


@committed
def test_many_threads_command_one_store(tmp_path: Path) -> None:
    lost: list[str] = []

    def work(store: SqliteStore, lease: Lease, letter: str) -> None:
        for number in range(100):
            size = random.choice([5, 20_000])
            now(store.submit([new(f"{letter}{number}", size)]))
            for found in now(store.claim("e", 2, lease)):
                if not has_its_arguments(found):
                    lost.append(found.id)
                now(store.append(found.ref, Chunk(0, value(size, letter))))
                if random.random() < 0.8:
                    result = Outcome(JobState.COMPLETED, value(size, letter))
                    now(store.finish(found.ref, result))
                    again = now(store.get(found.id))
                    assert again is not None
                    if again.outcome != result:
                        lost.append(found.id)
                    if random.random() < 0.3:
                        now(store.forget([found.id]))

    kept: dict[str, object] = {}

    async def before(store: SqliteStore) -> None:
        epoch = await store.own("e", "plane", 600)
        assert epoch is not None
        lease = Lease("plane", epoch, 600)
        threads = [threading.Thread(target=work, args=(store, lease, name)) for name in "abcd"]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await store.durable()
            await asyncio.sleep(0.001)
        for found in await store.recent("e", 1000):
            whole = await job(store, found.id)
            kept[found.id] = (whole.call, whole.outcome, await store.chunks(found.id, 0))
        assert not lost

    async def after(store: SqliteStore) -> None:
        assert {found.id for found in await store.recent("e", 1000)} == kept.keys()
        for job_id, expected in kept.items():
            whole = await job(store, job_id)
            if whole.state is JobState.COMPLETED:
                assert (whole.call, whole.outcome, await store.chunks(job_id, 0)) == expected

    lives(tmp_path, before, after)


def _told(process: subprocess.Popen[str], seconds: float) -> Iterator[tuple[str, str]]:
    """What the writer has said until it was killed."""
    assert process.stdout is not None
    killer = threading.Timer(seconds, process.kill)
    for line in process.stdout:
        if killer.ident is None:
            killer.start()  # from its first word on
        if line.endswith("\n"):
            word, job_id = line.split()
            yield word, job_id
    killer.join()


def test_a_killed_writer_loses_nothing_that_it_was_told_is_durable(tmp_path: Path) -> None:
    accepted, ended = set[str](), set[str]()
    for life in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(life)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV) as process:
            for word, job_id in _told(process, random.uniform(0.05, 0.6)):
                (accepted if word == "accepted" else ended).add(job_id)

        async def check() -> None:
            async with opened(tmp_path, time.time) as store:
                for job_id in accepted:
                    found = await job(store, job_id)
                    assert has_its_arguments(found)
                for job_id in ended:
                    found = await job(store, job_id)
                    assert found.state is JobState.COMPLETED
                    size = 30_000 if job_id.endswith("3") else 5
                    assert found.outcome == Outcome(JobState.COMPLETED, value(size, job_id[0]))
                    assert await store.chunks(job_id, 0) == [Chunk(0, value(5, job_id[0]))]

        asyncio.run(check())
    assert len(accepted) > 50
    assert len(ended) > 10


MANY = """
import asyncio, resource, sys, time
from pathlib import Path
from integration.stores import new, opened

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def main():
    async with opened(Path(sys.argv[1]), time.time) as store:
        before = peak()
        for number in range(int(sys.argv[2])):
            await store.submit([new(f"job-{number}", 1_000_000)])
            if number % 10 == 9:
                await store.durable()
        print(peak() - before, (await store.counts("e")).queued)

asyncio.run(main())
"""


def test_many_large_jobs_that_wait_take_no_memory(tmp_path: Path) -> None:
    for jobs in ("300", "0"):  # submitted, and then taken up by the next life
        command = [sys.executable, "-c", MANY, str(tmp_path), jobs]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENV)
        grown, queued = map(int, done.stdout.split())
        assert queued == 300
        assert grown < 100, f"{grown} MiB for 300 MB of jobs"
