"""Group commit: what changes in memory is written to the file, many changes in one transaction.

Whoever must not be taken back by a crash waits for `durable`. A commit begins when somebody waits,
or a moment after the first change: a short job's beginning and end make one transaction.

Where the disk is fast, the loop that waits commits by itself, at the end of its turn: to hand a
small transaction to a thread and to hear of it takes several times as long as to write it. A slow
disk, large values and a file that another has locked are left to the thread, as is what nobody
waits for. While changes keep coming the thread stays awake, for to wake it costs whoever makes a
change. It looks at the file's size only when that may matter.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.errors import StoreFullError
from runpod_flash.plane.store.database import PAGE_BYTES, connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runpod_flash.plane.store.changes import Write

# Changes for which nobody waits are written after so long.
_LINGER_SECONDS = 0.05
# The file's size is looked at after so long, or once so much was written.
_MEASURED_SECONDS = 0.05
_MEASURED_BYTES = 128 << 10
# A disk is fast if most of the last commits took less than so long; one that takes a loop more than
# the other time has to show that again.
_FAST_SECONDS = 0.001
_STALL_SECONDS = 0.005
_SEEN_COMMITS = 8
# The log is copied into the file once it has grown by about so much, some pages with each commit.
_LOGGED_BYTES = 16 << 20
_COMMIT_BYTES = 4 * PAGE_BYTES
# A disk that is full is tried again so often.
_RETRY_SECONDS = 1.0

# A log that has grown beyond this, as during a backup, is cut once it is no longer needed.
_LOG_BYTES = 64 << 20
# Room in the file that no job needs any more is given back once it is more than the rest, so many
# pages with each commit.
_SPARE_BYTES = 64 << 20
_GIVEN_BACK = 2048


class _Waiter(NamedTuple):
    change: int
    loop: asyncio.AbstractEventLoop
    call: Callable[[StoreFullError | None], None]


class Journal:
    """Writes what `take` gives, in the order in which it gives it.

    `take` gives the statements of one transaction. When it is committed `written` is called, else
    `failed`, after which `take` gives them again. They are called on the thread that commits, which
    is a loop's only while `is_light` says that there is little to write.

    `used_bytes` is the size of what the file holds, `free_bytes` what it and its disk have left,
    `broken` why the last transaction failed.
    """

    def __init__(
        self,
        path: Path,
        take: Callable[[], list[Write]],
        written: Callable[[], None],
        failed: Callable[[], None],
        is_light: Callable[[], bool],
        max_bytes: int,
    ) -> None:
        self._take = take
        self._written = written
        self._failed = failed
        self._is_light = is_light
        self._connection = connect(path)
        present, page_bytes = self._ask("page_count"), self._ask("page_size")
        # (A file that is larger than now allowed needs room for results as well.)
        most = max(max_bytes, present * page_bytes + max_bytes // 5) // page_bytes
        # (A loop never waits for another's lock on the file.)
        self._of_loop = connect(path, busy_seconds=0)
        for each in (self._connection, self._of_loop):
            each.execute(f"PRAGMA max_page_count={most}")
            each.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
            each.execute("PRAGMA wal_autocheckpoint=0")
        # Held by who writes to the file.
        self._writing = threading.Lock()
        self._paces: deque[float] = deque(maxlen=_SEEN_COMMITS)
        self._due = False
        self._logged = 0
        self._lock = threading.Lock()
        self._changes = 0
        self._durable = 0
        self._waiters: list[_Waiter] = []
        self._crowd = 0  # how many waited for the last commit
        self._something = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        self.broken: str = ""
        self._path = path
        self._used = self.free_bytes = self._spare = 0
        self._measured_at, self._unmeasured = 0.0, 0
        self._measure()
        self._thread = threading.Thread(target=self._run, name="flash-journal", daemon=True)
        self._thread.start()

    @property
    def used_bytes(self) -> int:
        """With what was written since the file was measured: a loaded machine does so later."""
        return self._used + self._unmeasured

    def changed(self) -> None:
        """There is something to write; from any thread."""
        self._changes += 1  # (under the store's lock)
        if not self._something.is_set():
            self._something.set()

    def when_durable(self, call: Callable[[StoreFullError | None], None]) -> None:
        """Call back, on the running loop, once all changes until now have been committed."""
        if self._durable >= self._changes:
            call(None)
            return
        loop = asyncio.get_running_loop()
        waiter = _Waiter(self._changes, loop, call)
        with self._lock:
            # (Looked at again: the thread may have come as far meanwhile, and looks for nobody.)
            already, due = self._durable >= waiter.change, self._due
            if not already:
                self._waiters.append(waiter)
                self._due = True
        if already:
            call(None)
        elif not due:
            if self._is_fast() and not self.broken:
                self._commit_soon(loop)
            else:
                self._due = False
                self._urgent.set()

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
        self._of_loop.close()
        self._connection.close()

    # On a loop

    def _is_fast(self) -> bool:
        paces = self._paces
        return len(paces) == _SEEN_COMMITS and sorted(paces)[_SEEN_COMMITS // 2] < _FAST_SECONDS

    def _commit_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Commit after this turn; or after the next, where many waited for the last commit."""
        if self._crowd > 1:
            loop.call_soon(loop.call_soon, self._commit_on_loop)
        else:
            loop.call_soon(self._commit_on_loop)

    def _commit_on_loop(self) -> None:
        self._due = False
        # (The thread looks after the file's size and its log.)
        ours = self._is_light() and not self._is_untidy()
        if ours and self._writing.acquire(blocking=False):
            try:
                self._of_loop.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:  # somebody else writes: the thread waits for him
                self._urgent.set()
            else:
                self._commit(self._of_loop, asyncio.get_running_loop())
                if self._paces and self._paces[-1] > _STALL_SECONDS:
                    self._paces.clear()
            finally:
                self._writing.release()
        else:
            self._urgent.set()

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
            with self._writing:
                committed = self._commit(self._connection)
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
            or self._logged > _LOGGED_BYTES
            or time.monotonic() - self._measured_at > _MEASURED_SECONDS
            or self._gives_back()
        )

    def _tidy(self) -> None:
        with suppress(sqlite3.Error, OSError):
            self._measure()
            if self._logged > _LOGGED_BYTES:
                self._copy_log()
            with self._writing:
                self._give_back()

    def _copy_log(self) -> None:
        """Copy the log into the file; the next commit begins it anew."""
        copy = "PRAGMA wal_checkpoint(PASSIVE)"
        self._connection.execute(copy).fetchone()
        # What was written meanwhile is little: it is waited for.
        with self._writing:
            self._logged = 0
            self._connection.execute(copy).fetchone()

    def _commit(
        self, file: sqlite3.Connection, here: asyncio.AbstractEventLoop | None = None
    ) -> bool:
        """Write what there is; on a loop's thread the transaction has begun."""
        change = self._changes
        try:
            self._write(file, self._take())
        except Exception as error:  # (whatever it is: without this thread nothing is kept)
            self.broken = str(error) or repr(error)
            self._failed()
            self._answer(change, StoreFullError(_refusal(self.broken)), here)
            return False
        finally:
            if file.in_transaction:  # it has failed
                with suppress(sqlite3.Error):
                    file.execute("ROLLBACK")
        self.broken = ""
        self._written()
        self._answer(change, None, here)
        return True

    def _write(self, file: sqlite3.Connection, writes: list[Write]) -> None:
        if not file.in_transaction:
            file.execute("BEGIN IMMEDIATE")
        size = 0
        for statement, rows in writes:
            file.executemany(statement, rows)
            size += sum(map(_size, rows))
        began = time.perf_counter()
        file.execute("COMMIT")
        if writes:
            self._paces.append(time.perf_counter() - began)
            self._unmeasured += size
            self._logged += size + _COMMIT_BYTES

    def _measure(self) -> None:
        pages, free, size = map(self._ask, ("page_count", "freelist_count", "page_size"))
        self._used, self._spare = (pages - free) * size, free * size
        self.free()
        self._measured_at, self._unmeasured = time.monotonic(), 0

    def _ask(self, setting: str) -> int:
        (found,) = self._connection.execute(f"PRAGMA {setting}").fetchone()
        return int(found)

    def _gives_back(self) -> bool:
        return self._spare > max(_SPARE_BYTES, self._used)

    def _give_back(self) -> None:
        if self._gives_back():
            self._connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK})")

    def _answer(
        self,
        change: int,
        error: StoreFullError | None,
        here: asyncio.AbstractEventLoop | None,
    ) -> None:
        with self._lock:
            if error is None:
                self._durable = change
            ready = [waiter for waiter in self._waiters if waiter.change <= change]
            self._waiters = [waiter for waiter in self._waiters if waiter.change > change]
            self._crowd = len(ready)
            if self._waiters:
                self._urgent.set()
        by_loop: dict[asyncio.AbstractEventLoop, list[_Waiter]] = {}
        for waiter in ready:
            by_loop.setdefault(waiter.loop, []).append(waiter)
        for loop, waiters in by_loop.items():
            if loop is here:
                _call_back(waiters, error)
                continue
            try:
                loop.call_soon_threadsafe(_call_back, waiters, error)
            except RuntimeError:  # the loop has closed: nobody waits there any more
                continue


def _call_back(waiters: list[_Waiter], error: StoreFullError | None) -> None:
    for waiter in waiters:
        waiter.call(error)


def _size(row: tuple[object, ...]) -> int:
    """The bytes of its values, which the other columns come to nothing beside."""
    return sum([len(value) for value in row if type(value) is bytes])


def _refusal(cause: str) -> str:
    return f"the server cannot write to its disk ({cause}); jobs that it has accepted are safe"
