"""Looking for clients that leave: it ends with what it was begun for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from runpod_flash.gateway.waiting import until_gone
from runpod_flash.links.leaving import leaving


def test_waiting_that_is_cancelled_looks_for_no_client_any_more() -> None:
    async def main() -> None:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        looking = asyncio.Event()

        async def receive() -> Any:
            looking.set()
            await asyncio.Event().wait()

        waiting = asyncio.create_task(until_gone(cast(Any, None), "job", ended, receive))
        await looking.wait()
        waiting.cancel()
        await asyncio.wait((waiting,))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_one_that_sends_more_has_not_left() -> None:
    async def main() -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()
        with leaving(messages.get) as gone:
            messages.put_nowait({"type": "http.request", "body": b"x"})
            await asyncio.sleep(0.01)
            assert not gone.done()
            messages.put_nowait({"type": "http.disconnect"})
            await asyncio.wait_for(gone, 5)

    asyncio.run(main())
