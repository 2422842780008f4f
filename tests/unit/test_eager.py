"""Tasks that begin at once (worker/eager.py)."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from runpod_flash.worker import eager

if TYPE_CHECKING:
    from collections.abc import Callable

seen: ContextVar[str] = ContextVar("seen", default="")


def in_turn(body: Callable[[asyncio.AbstractEventLoop], object]) -> None:
    """Run it in a callback of a loop, where no task is running; then all that it has begun."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def call() -> None:
            try:
                done.set_result(body(loop))
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon(call)
        await done
        await asyncio.sleep(0)
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_what_awaits_nothing_is_over_when_the_task_is_there() -> None:
    found: list[object] = []

    async def work() -> None:
        found.append(asyncio.current_task())

    def body(loop: asyncio.AbstractEventLoop) -> None:
        made = eager.task(work())
        assert found == [made]
        assert made.done()

    in_turn(body)


def test_what_awaits_goes_on_later_and_can_be_cancelled() -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        order.append(f"{name} begins")
        async with asyncio.Lock():
            await asyncio.sleep(0)
        order.append(f"{name} ends")

    def body(loop: asyncio.AbstractEventLoop) -> None:
        eager.task(work("one"))
        two = eager.task(work("two"))
        loop.call_soon(order.append, "a callback")
        assert order == ["one begins", "two begins"]
        two.cancel()
        two.add_done_callback(lambda task: order.append(f"cancelled: {task.cancelled()}"))

    in_turn(body)
    assert sorted(order[2:]) == ["a callback", "cancelled: True", "one ends"]


def test_what_a_collection_finalizes_meanwhile_calls_back_as_ever() -> None:
    woken: list[int] = []

    class Told:
        def __init__(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
            self.cycle, self.loop, self.number = self, loop, number

        def __del__(self) -> None:
            self.loop.call_soon(woken.append, self.number, context=copy_context())

    async def work() -> None: ...

    def body(loop: asyncio.AbstractEventLoop) -> None:
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for number in range(100):
                Told(loop, number)
                assert eager.task(work()).done()
        finally:
            gc.set_threshold(*before)
            gc.collect()

    in_turn(body)
    assert sorted(woken) == list(range(100))


def test_what_is_on_the_loop_already_stays_there() -> None:
    called: list[object] = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(called.append, "from the task")

    def body(loop: asyncio.AbstractEventLoop) -> None:
        held, own = vars(loop), loop.call_soon

        def wrapped(call: Any, *args: Any, context: Any = None) -> Any:
            called.append("the wrapper")
            return own(call, *args, context=context)

        held["call_soon"] = wrapped
        eager.task(work())
        assert held.pop("call_soon") is wrapped

    in_turn(body)
    assert called == ["the wrapper", "from the task"]


def test_a_task_has_a_context_of_its_own() -> None:
    async def work() -> None:
        seen.set("in the task")

    def body(loop: asyncio.AbstractEventLoop) -> None:
        seen.set("outside")
        eager.task(work())
        assert seen.get() == "outside"

    in_turn(body)


def test_an_exception_is_the_task_s() -> None:
    async def work() -> None:
        raise ValueError("wrong")

    def body(loop: asyncio.AbstractEventLoop) -> None:
        made = eager.task(work())
        assert str(made.exception()) == "wrong"

    in_turn(body)
