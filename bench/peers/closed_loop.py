"""Clients of peers without HTTP: each makes a call, waits for its result, and makes the next."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Timed:
    """What calls have `taken`, in milliseconds, from now on and for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.taken: list[float] = []
        self._began = time.perf_counter()
        self._until = self._began + seconds

    def going(self) -> bool:
        return time.perf_counter() < self._until

    @contextmanager
    def call(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.taken.append(1000 * (time.perf_counter() - began))

    def figures(self) -> str:
        """The median and the 99th percentile in milliseconds, and calls a second."""
        rate = len(self.taken) / (time.perf_counter() - self._began)
        return f"{median(self.taken)} {quantiles(self.taken, n=100)[-1]} {rate}"


def serve(clients: Callable[[int, float], Timed]) -> None:
    """Answer each line of the input, a number of clients and of seconds, with a line of figures."""
    for line in sys.stdin:
        count, seconds = line.split()
        print(clients(int(count), float(seconds)).figures(), flush=True)
