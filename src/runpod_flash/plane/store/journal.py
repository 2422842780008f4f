"""Group commit: what changes in memory is written by one thread, many changes in one transaction.

Whoever must not be taken back by a crash waits for `durable`. A commit begins when somebody waits,
or a moment after the first change: a short job's beginning and end make one transaction. While
changes keep coming the thread stays awake, for to wake it costs whoever makes a change. It looks at
the file's size only when that may matter: each look takes the interpreter from the loop.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.errors import StoreFullError
from runpod_flash.plane.store.database import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.plane.store.changes import Write

# Changes for which nobody waits are written after so long.
_LINGER_SECONDS = 0.05
# The file's size is looked at after so long, or once so much was written.
_MEASURED_SECONDS = 0.05
_MEASURED_BYTES = 128 << 10
# A disk that is full is tried again so often.
_RETRY_SECONDS = 1.0

# A log that has grown beyond this, as during a backup, is cut once it is no longer needed.
_LOG_BYTES = 64 << 20
# Room in the file that no job needs any more is given back once it is more than the rest, so many
# pages with each commit.
_SPARE_BYTES = 64 << 20
_GIVEN_BACK = 512


class _Waiter(NamedTuple):
    change: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Journal:
    """Writes what `take` gives, in the order in which it gives it.

    `take` is called on the journal's thread and gives the statements of one transaction. When it is
    committed `written` is called, else `failed`, after which `take` gives them again.

    `used_bytes` is the size of what the file holds, `free_bytes` what it and its disk have left,
    `broken` why the last transaction failed.
    """

    def __init__(
        self,
        path: Path,
        take: Callable[[], list[Write]],
        written: Callable[[], None],
        failed: Callable[[], None],
        max_pages: int,
    ) -> None:
        self._take = take
        self._written = written
        self._failed = failed
        self._connection = connect(path)
        (present,) = self._connection.execute("PRAGMA page_count").fetchone()
        # (A file that is larger than now allowed needs room for results as well.)
        most = max(max_pages, present + max_pages // 5)
        self._connection.execute(f"PRAGMA max_page_count={most}")
        self._connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
        self._lock = threading.Lock()
        self._changes = 0
        self._durable = 0
        self._waiters: list[_Waiter] = []
        self._something = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        self.broken: str = ""
        self._path = path
        self.used_bytes = self.free_bytes = self._spare = 0
        self._measured_at, self._unmeasured = 0.0, 0
        self._measure()
        self._thread = threading.Thread(target=self._run, name="flash-journal", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """There is something to write; from any thread."""
        self._changes += 1  # (under the store's lock)
        if not self._something.is_set():
            self._something.set()

    async def durable(self) -> None:
        """Return once all changes until now have been committed; raises `StoreFullError`."""
        if self._durable >= self._changes:
            return
        loop = asyncio.get_running_loop()
        waiter = _Waiter(self._changes, loop, loop.create_future())
        with self._lock:
            # (Looked at again: the thread may have come as far meanwhile, and looks for nobody.)
            if self._durable >= waiter.change:
                return
            self._waiters.append(waiter)
        self._urgent.set()
        await waiter.future

    def free(self) -> int:
        """Look at the disk again: `free_bytes` as it is now."""
        self.free_bytes = self._spare + shutil.disk_usage(self._path.parent).free
        return self.free_bytes

    def close(self) -> None:
        """Write what is left."""
        self._closing = True
        self._urgent.set()
        self._something.set()
        self._thread.join()
        self._connection.close()

    # On the thread

    def _run(self) -> None:
        while True:
            self._something.wait()
            if not self._closing:
                self._urgent.wait(_LINGER_SECONDS)
            self._urgent.clear()
            closing = self._closing  # (looked at last: it is set before the events)
            if self._durable >= self._changes and not closing:
                self._rest()
                continue
            committed = self._commit()
            if closing:
                return
            if not committed:
                time.sleep(_RETRY_SECONDS)
            elif self._is_untidy():
                self._tidy()

    def _rest(self) -> None:
        """Nothing has changed for a while: whoever changes something wakes the thread."""
        self._tidy()
        self._something.clear()
        # (Looked at again: who came before the line above has woken nobody.)
        if self._durable < self._changes or self._closing:
            self._something.set()

    def _is_untidy(self) -> bool:
        return (
            self._unmeasured > _MEASURED_BYTES
            or time.monotonic() - self._measured_at > _MEASURED_SECONDS
            or self._gives_back()
        )

    def _tidy(self) -> None:
        with suppress(sqlite3.Error, OSError):
            self._measure()
            self._give_back()

    def _commit(self) -> bool:
        change = self._changes
        try:
            self._write(self._take())
        except Exception as error:  # (whatever it is: without this thread nothing is kept)
            self.broken = str(error) or repr(error)
            self._failed()
            self._answer(change, StoreFullError(_refusal(self.broken)))
            return False
        self.broken = ""
        self._written()
        self._answer(change, None)
        return True

    def _write(self, writes: list[Write]) -> None:
        if not writes:
            return
        run = self._connection
        run.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in writes:
                run.executemany(statement, rows)
                self._unmeasured += sum(map(_size, rows))
            run.execute("COMMIT")
        except BaseException:
            if run.in_transaction:
                run.execute("ROLLBACK")
            raise

    def _measure(self) -> None:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        self.used_bytes, self._spare = (pages - free) * size, free * size
        self.free()
        self._measured_at, self._unmeasured = time.monotonic(), 0

    def _gives_back(self) -> bool:
        return self._spare > max(_SPARE_BYTES, self.used_bytes)

    def _give_back(self) -> None:
        if self._gives_back():
            self._connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK})")

    def _answer(self, change: int, error: StoreFullError | None) -> None:
        with self._lock:
            if error is None:
                self._durable = change
            ready = [waiter for waiter in self._waiters if waiter.change <= change]
            self._waiters = [waiter for waiter in self._waiters if waiter.change > change]
            if self._waiters:
                self._urgent.set()
        by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for waiter in ready:
            by_loop.setdefault(waiter.loop, []).append(waiter.future)
        for loop, futures in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, futures, error)
            except RuntimeError:  # the loop has closed: nobody waits there any more
                continue


def _resolve(futures: list[asyncio.Future[None]], error: StoreFullError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _size(row: tuple[object, ...]) -> int:
    """The bytes of its values, which the other columns come to nothing beside."""
    return sum(len(value) for value in row if isinstance(value, bytes))


def _refusal(cause: str) -> str:
    return f"the server cannot write to its disk ({cause}); jobs that it has accepted are safe"
