"""Cancelling, and the time that a job may take: the job ends, and the next one is unharmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs

HELP = """
        async def exists(name):
            deadline = time.monotonic() + 10
            while not os.path.exists(HERE + name):
                assert time.monotonic() < deadline, name
                await asyncio.sleep(0.01)
"""


def test_cancelled_code_ends_and_the_next_job_is_unharmed(programs: Programs) -> None:
    done = programs.run(
        f"""
        @Endpoint(name="cooperates", cpu=CPU)
        async def cooperates(name):
            open(HERE + name, "w").close()
            try:
                await asyncio.sleep(1000)
            finally:
                open(HERE + name + "-ended", "w").close()

        @Endpoint(name="stubborn", cpu=CPU, workers=(0, 1))
        def stubborn(name):
            open(HERE + name, "w").close()
            time.sleep(1000 if name != "quick" else 0)
            return os.getpid()
{HELP}
        async def main():
            found = {{}}
            job = cooperates.run("a")
            await exists("a")
            await job.cancel()
            found["cooperative"] = [await job.status(), job.error.splitlines()[-1][:60]]
            await exists("a-ended")

            task = asyncio.create_task(cooperates("b"))
            await exists("b")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await exists("b-ended")
            found["task"] = task.cancelled()

            first = await stubborn("quick")
            job = stubborn.run("c")
            queued = stubborn.run("d")
            await exists("c")
            await queued.cancel()
            began = time.monotonic()
            await job.cancel()
            found["at once"] = time.monotonic() - began < 0.5
            found["replaced"] = await stubborn("quick") != first
            found["prompt"] = time.monotonic() - began < 4
            found["queued"] = [await queued.status(), os.path.exists(HERE + "d")]
            again = await job.cancel()
            found["again"] = again.done and await again.status()
            return found

        if __name__ == "__main__":
            found = asyncio.run(main())
            try:
                job = cooperates.run("e")
                asyncio.run(job.cancel())
                job.result()
            except Exception as error:
                found["result"] = type(error).__name__
            print(json.dumps(found))
        """
    )
    found = done.result
    status, text = found.pop("cooperative")
    assert status == "CANCELLED", done
    assert text.startswith("runpod_flash.errors.JobCancelledError: job "), done
    assert found == {
        "task": True,
        "at once": True,
        "replaced": True,
        "prompt": True,
        "queued": ["CANCELLED", False],
        "again": "CANCELLED",
        "result": "JobCancelledError",
    }, done


def test_a_job_that_takes_too_long_ends_and_the_next_one_is_unharmed(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="alimited", cpu=CPU, execution_timeout_ms=300)
        async def alimited(seconds):
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                open(HERE + "told", "w").close()
                raise
            return os.getpid()

        @Endpoint(name="limited", cpu=CPU, execution_timeout_ms=300)
        def limited(seconds):
            time.sleep(seconds)
            return os.getpid()

        @Endpoint(name="blocks", cpu=CPU, execution_timeout_ms=300)
        async def blocks(seconds):
            time.sleep(seconds)  # the worker cannot even hear of the end
            return os.getpid()

        async def measure(function):
            first = await function(0)
            began = time.monotonic()
            try:
                await function(1000)
            except TimeoutError as error:
                kind = type(error).__name__
            took = time.monotonic() - began
            return [kind, took < 1, await function(0) == first, time.monotonic() - began < 5]

        async def main():
            job = limited.run(1000)
            await job.wait()
            return [*await asyncio.gather(*map(measure, (alimited, limited, blocks))), job.error]

        if __name__ == "__main__":
            print(json.dumps([*asyncio.run(main()), os.path.exists(HERE + "told")]))
        """
    )
    alimited, limited, blocks, error, told = done.result
    assert alimited == ["JobTimeoutError", True, True, True], done
    assert limited == ["JobTimeoutError", True, False, True], done
    assert blocks == ["JobTimeoutError", True, False, True], done
    assert "execution_timeout_ms=300" in error, done
    assert told is True


def test_jobs_beside_a_cancelled_one_go_on(programs: Programs) -> None:
    done = programs.run(
        f"""
        @Endpoint(name="several", cpu=CPU, workers=(0, 1), max_concurrency=3)
        def several(seconds, name=""):
            if name:
                open(HERE + name, "w").close()
            time.sleep(seconds)
            return os.getpid()
{HELP}
        async def main():
            first = await several(0)
            stuck = several.run(1000, "stuck")
            beside = several.run(3, "beside")
            await asyncio.gather(exists("stuck"), exists("beside"))
            await stuck.cancel()
            during = await several(0)
            await beside.wait()
            deadline = time.monotonic() + 10
            while await several(0) == first:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            return [during == first, beside.output == first]

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result[1] is True, done
