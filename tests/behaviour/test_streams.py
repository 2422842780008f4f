"""Generators: chunks arrive as they are made, not too far ahead, and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs


def test_chunks_of_sync_and_async_generators_arrive_before_the_generator_ends(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        @Endpoint(name="slow", cpu=CPU)
        def slow(stop):
            n = 0
            yield n
            while not os.path.exists(HERE + stop):
                time.sleep(0.01)
            yield from range(1, 200)

        @Endpoint(name="aslow", cpu=CPU)
        async def aslow(stop):
            yield 0
            while not os.path.exists(HERE + stop):
                await asyncio.sleep(0.01)
            for n in range(1, 200):
                yield n

        async def consume(chunks, stop):
            seen = []
            async for chunk in chunks:
                seen.append(chunk)
                if chunk == 0:
                    open(HERE + stop, "w").close()
            return seen == list(range(200))

        def consume_here(chunks, stop):
            seen = []
            for chunk in chunks:
                seen.append(chunk)
                if chunk == 0:
                    open(HERE + stop, "w").close()
            return seen == list(range(200))

        async def main():
            return [
                await consume(slow("a"), "a"),
                await consume(aslow("b"), "b"),
                await consume(slow.run("c").stream(), "c"),
                await consume((await aslow.run("d")).stream(), "d"),
            ]

        if __name__ == "__main__":
            found = asyncio.run(main())
            found.append(consume_here(slow.call("e"), "e"))
            found.append(consume_here(aslow.call("f"), "f"))
            print(json.dumps(found))
        """
    )
    assert done.result == [True] * 6, done


def test_a_slow_consumer_holds_the_generator_back_and_leaving_early_cancels_it(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        def numbers(kind):
            made = 0
            try:
                while True:
                    made += 1
                    yield made
            finally:
                with open(HERE + kind, "w") as file:
                    file.write(str(made))

        @Endpoint(name="endless", cpu=CPU)
        def endless():
            yield from numbers("sync")

        @Endpoint(name="aendless", cpu=CPU)
        async def aendless():
            made = 0
            try:
                while True:
                    made += 1
                    yield made
            finally:
                await asyncio.sleep(0.01)
                with open(HERE + "async", "w") as file:
                    file.write(str(made))

        def written(name):
            name = HERE + name
            deadline = time.monotonic() + 10
            while not (os.path.exists(name) and open(name).read()):
                assert time.monotonic() < deadline, name
                time.sleep(0.01)
            text = open(name).read()
            os.unlink(name)
            return int(text)

        async def take(chunks, count):
            async for chunk in chunks:
                if chunk == 1:
                    await asyncio.sleep(0.5)
                if chunk == count:
                    break

        async def main():
            await take(endless(), 300)
            await take(aendless(), 300)
            return [await asyncio.to_thread(written, name) for name in ("sync", "async")]

        if __name__ == "__main__":
            found = asyncio.run(main())
            chunks = aendless.call()
            for chunk in chunks:
                if chunk == 5:
                    break
            del chunks
            found.append(written("async"))
            print(json.dumps(found))
        """
    )
    sync, asynchronous, left_at_five = done.result
    assert 300 <= sync < 450, done
    assert 300 <= asynchronous < 450, done
    assert 5 <= left_at_five < 150, done


def test_an_exception_after_chunks_comes_after_the_chunks(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="fails", cpu=CPU)
        async def fails():
            yield 1
            yield {"two": (2,)}
            raise LookupError("no third")

        @Endpoint(name="nothing", cpu=CPU)
        def nothing():
            return
            yield

        @Endpoint(name="cannot", cpu=CPU)
        def cannot():
            yield 1
            yield open("app.py")

        async def consume(chunks):
            seen = []
            try:
                async for chunk in chunks:
                    seen.append(repr(chunk))
            except Exception as error:
                seen.append(f"{type(error).__name__}: {error}")
            return seen

        async def main():
            job = fails.run()
            return [
                await consume(fails()),
                await consume(job.stream()),
                (await job.wait()).error.splitlines()[-1],
                await consume(nothing()),
                await consume(cannot()),
            ]

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    chunks = ["1", "{'two': (2,)}", "LookupError: no third"]
    first, second, error, nothing, cannot = done.result
    assert [first, second, error, nothing] == [chunks, chunks, chunks[-1], []], done
    assert cannot[0] == "1", done
    assert cannot[1].startswith("SerializationError: "), done
    assert "\n" not in cannot[1], done


def test_a_restartable_generator_that_loses_its_worker_goes_on_where_it_was(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        @Endpoint(name="again", cpu=CPU, restartable=True)
        def again():
            for n in range(300):
                if n == 150 and not os.path.exists(HERE + "died"):
                    time.sleep(0.3)
                    open(HERE + "died", "w").close()
                    os.kill(os.getpid(), 9)
                yield n

        async def main():
            return [n async for n in again()] == list(range(300))

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """,
        timeout=20,
    )
    assert done.result is True, done
