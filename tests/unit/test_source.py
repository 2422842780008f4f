"""A process to fork that is started as a worker is, until it runs."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from runpod_flash.engines.local.processes.descriptors import Descriptors
from runpod_flash.engines.local.processes.launcher import LaunchOrder
from runpod_flash.engines.local.processes.source import InnerSource


@pytest.mark.parametrize("turns", [0, 1])
def test_one_that_is_let_go_while_it_is_launched_leaves_nothing_open(turns: int) -> None:
    launched: list[LaunchOrder] = []

    async def launch(order: LaunchOrder, events: Any) -> Any:
        launched.append(order)
        await asyncio.Event().wait()

    async def scenario() -> list[socket.socket]:
        ends = Pairs()
        mine, other = socket.socketpair()
        with mine, other:
            order = LaunchOrder("w", ("python",), {}, Path("/"), mine)
            loop = asyncio.get_running_loop()
            source = InnerSource(order, ("zygote.py",), {}, (), launch, ends, loop, print)
            for _ in range(turns):
                await asyncio.sleep(0)
            source.let_go()
            await asyncio.sleep(0.001)
        return ends.made

    made = asyncio.run(scenario())
    assert len(launched) == turns
    assert [each.fileno() for each in made] == [-1, -1]


class Pairs(Descriptors):
    """Remembers what it has opened."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[socket.socket] = []

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        pair = super().socketpair()
        self.made.extend(pair)
        return pair
