"""Lending a link's reading to a caller's loop, over real sockets and loops."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runpod_flash.links.lending import LOAN_SECONDS, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Home:
    """A loop on a thread of its own, a socket pair, and who read what arrived."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.readers: list[int] = []
        self.arrived = threading.Event()
        self.reading = Reading(self.near, self.loop, self._readable)
        self.on_loop(self.reading.start)

    def _readable(self) -> None:
        try:
            self.near.recv(100)
        except BlockingIOError:
            return
        self.readers.append(threading.get_ident())
        self.arrived.set()

    def on_loop(self, action: Callable[[], None]) -> None:
        """Run something on the home loop's thread, and wait for it."""
        done: Future[None] = Future()

        def run() -> None:
            action()
            done.set_result(None)

        self.loop.call_soon_threadsafe(run)
        done.result(5)

    def close(self) -> None:
        self.on_loop(self.reading.end)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)


def descriptors() -> int:
    """How many descriptors this process has open; always 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_a_borrower_reads_on_its_own_thread_until_it_makes_no_more_calls(home: Home) -> None:
    async def call() -> None:
        home.reading.lend(asyncio.get_running_loop())
        await asyncio.sleep(0)  # the home loop lets go meanwhile
        home.far.send(b"answer")
        await until(home.arrived.is_set)
        await asyncio.sleep(4 * LOAN_SECONDS)
        home.arrived.clear()
        home.far.send(b"later")
        await until(home.arrived.is_set)

    asyncio.run(call())
    assert home.readers[-1] == home.thread.ident
    assert len(home.readers) == 2


def test_a_borrower_that_blocks_its_loop_loses_the_link_to_its_home(home: Home) -> None:
    async def block() -> None:
        home.reading.lend(asyncio.get_running_loop())
        home.far.send(b"answer")
        assert home.arrived.wait(5)  # blocks this loop, which must not matter

    asyncio.run(block())
    assert home.readers == [home.thread.ident]


def test_a_loop_that_has_closed_costs_neither_the_link_nor_a_descriptor(home: Home) -> None:
    async def borrow() -> None:
        home.reading.lend(asyncio.get_running_loop())

    before = descriptors()
    asyncio.run(borrow())
    time.sleep(4 * LOAN_SECONDS)
    home.far.send(b"answer")
    assert home.arrived.wait(5)
    assert descriptors() == before
    assert home.readers == [home.thread.ident]


def test_a_loop_that_does_not_run_again_costs_no_descriptor(home: Home) -> None:
    async def borrow() -> None:
        home.reading.lend(asyncio.get_running_loop())

    before = descriptors()
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(borrow())
        while home.reading._borrower is not None:  # until the loan has ended
            time.sleep(LOAN_SECONDS)
        loop.close()
    assert descriptors() == before


def test_without_a_descriptor_left_a_link_is_not_lent(home: Home) -> None:
    async def borrow() -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
        try:
            home.reading.lend(asyncio.get_running_loop())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)

    asyncio.run(borrow())
    home.far.send(b"answer")
    assert home.arrived.wait(5)
    assert home.readers == [home.thread.ident]


def test_a_link_that_ends_while_lent_leaves_the_borrowers_selector() -> None:
    lender = Home()

    async def borrow() -> None:
        loop = asyncio.get_running_loop()
        lender.reading.lend(loop)
        copy = lender.reading._copy
        assert copy is not None
        await asyncio.to_thread(lender.close)
        await until(lambda: not loop.remove_reader(copy.descriptor))

    asyncio.run(borrow())


def test_only_one_loop_borrows_at_a_time_and_the_home_loop_never_does(home: Home) -> None:
    async def borrow() -> asyncio.AbstractEventLoop | None:
        home.reading.lend(asyncio.get_running_loop())
        return home.reading._borrower

    async def first() -> None:
        mine = await borrow()
        assert mine is asyncio.get_running_loop()
        assert await asyncio.to_thread(asyncio.run, borrow()) is mine

    asyncio.run(first())
    home.on_loop(lambda: home.reading._recall())
    home.on_loop(lambda: home.reading.lend(home.loop))
    assert home.reading._borrower is None
