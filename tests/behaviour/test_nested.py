"""Endpoints that call each other, from inside their workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs


def test_endpoints_call_each_other_and_themselves_without_deadlock(programs: Programs) -> None:
    done = programs.run(
        """
        import threading

        @Endpoint(name="outer", cpu=CPU)
        async def outer(x):
            return ["outer", *await inner(x)]

        @Endpoint(name="inner", cpu=CPU)
        def inner(x):
            return ["inner", x, deepest.call(x)]

        @Endpoint(name="deepest", cpu=CPU)
        def deepest(x):
            return x + 1

        # A calls B calls A: each has one worker at most, and yet every level needs one.
        @Endpoint(name="ping", cpu=CPU, workers=(0, 1))
        async def ping(n):
            return [n, *await pong(n - 1)] if n else [0]

        @Endpoint(name="pong", cpu=CPU, workers=(0, 1))
        async def pong(n):
            return [n, *await ping(n - 1)] if n else [0]

        # A call of its own endpoint is a plain call in the same worker.
        @Endpoint(name="factorial", cpu=CPU, workers=(0, 1))
        async def factorial(n):
            found, pid = (await factorial(n - 1)) if n > 1 else (1, os.getpid())
            assert pid == os.getpid()
            return n * found, pid

        @Endpoint(name="chunks", cpu=CPU)
        async def chunks(n):
            for k in range(n):
                yield k

        @Endpoint(name="consumer", cpu=CPU)
        async def consumer(n):
            total = 0
            async for k in chunks(n):
                total += k
            job = deepest.run(total)
            return (await job.wait()).output, await job.status()

        @Endpoint(name="relay", cpu=CPU)
        def relay(n):
            for k in chunks.call(n):
                yield 10 * k

        @Endpoint(name="catches", cpu=CPU)
        async def catches():
            try:
                await fails()
            except ValueError as error:
                return type(error).__name__, str(error)

        @Endpoint(name="fails", cpu=CPU)
        async def fails():
            raise ValueError("below")

        @Endpoint(name="threaded", cpu=CPU, workers=(0, 1))
        def threaded(n):
            found = []
            def work():
                found.append(back.call(n))
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return found[0]

        @Endpoint(name="back", cpu=CPU, workers=(0, 1))
        def back(n):
            return threaded.call(n - 1) if n else "end"

        @Endpoint(name="gathers", cpu=CPU)
        async def gathers(n):
            return await asyncio.gather(*map(inner, range(n)))

        async def main():
            return {
                "three deep": await outer(1),
                "recursion": await ping(4),
                "own": (await factorial(5))[0],
                "streams": await consumer(300),
                "relay": [n async for n in relay(100)] == list(range(0, 1000, 10)),
                "error": await catches(),
                "threads": await threaded(2),
                "gather": [found[1] for found in await gathers(20)] == list(range(20)),
            }

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result == {
        "three deep": ["outer", "inner", 1, 2],
        "recursion": [4, 3, 2, 1, 0],
        "own": 120,
        "streams": [44851, "COMPLETED"],
        "relay": True,
        "error": ["ValueError", "below"],
        "threads": "end",
        "gather": True,
    }, done


def test_a_cancelled_call_cancels_the_calls_below_it(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="above", cpu=CPU)
        async def above():
            return await below()

        @Endpoint(name="below", cpu=CPU)
        async def below():
            open(HERE + "begun", "w").close()
            try:
                await asyncio.sleep(1000)
            finally:
                open(HERE + "ended", "w").close()

        async def exists(name):
            deadline = time.monotonic() + 10
            while not os.path.exists(HERE + name):
                assert time.monotonic() < deadline, name
                await asyncio.sleep(0.01)

        async def main():
            task = asyncio.create_task(above())
            await exists("begun")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await exists("ended")
            return task.cancelled()

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result is True, done
