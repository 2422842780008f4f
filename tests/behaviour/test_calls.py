"""Calls and jobs: each way to call an endpoint gives what the function returned."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from behaviour.programs import Finished, Programs


def test_every_way_of_calling_gives_the_result(programs: Programs) -> None:
    done = programs.run(
        """
        import threading

        @Endpoint(name="double", cpu=CPU)
        async def double(x, *, plus=0):
            return 2 * x + plus

        @Endpoint(name="plain", cpu=CPU)
        def plain(x):
            time.sleep(0.01)
            return {"pid": os.getpid(), "x": x}

        async def main():
            found = {"awaited": await double(1, plus=1), "sync": (await plain(2))["x"]}
            job = double.run(3)
            found["id"] = bool(job.id)
            found["first"] = await job.status()
            await job.wait()
            found["job"] = [await job.status(), job.output, job.error, job.done]
            again = await double.run(4)
            found["awaited job"] = again is not None and (await again.wait()).output
            found["by input"] = (await plain_endpoint().runsync({"x": 5})).output["x"]
            return found

        def plain_endpoint():
            return plain.__remote_config__["resource_config"]

        def in_threads():
            results = {}
            def work(n):
                results[n] = [plain.call(n + k)["x"] for k in range(5)]
            threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            return all(results[10 * n] == [10 * n + k for k in range(5)] for n in range(8))

        if __name__ == "__main__":
            found = {"first run": asyncio.run(main()), "second run": asyncio.run(main())}
            found["call"] = double.call(8)
            found["elsewhere"] = plain.call(0)["pid"] != os.getpid()
            found["result"] = double.run(9).result()
            found["threads"] = in_threads()
            print(json.dumps(found))
        """
    )
    once = {
        "awaited": 3,
        "sync": 2,
        "id": True,
        "job": ["COMPLETED", 6, None, True],
        "awaited job": 8,
        "by input": 5,
    }
    result = done.result
    assert result["first run"].pop("first") in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert result["second run"].pop("first") in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert result == {
        "first run": once,
        "second run": once,
        "call": 16,
        "elsewhere": True,
        "result": 18,
        "threads": True,
    }, done


def test_a_thousand_calls_keep_their_own_results_and_the_pool_goes_to_zero(
    programs: Programs,
) -> None:
    source = """
        @Endpoint(name="own", cpu=CPU, workers=(0, 3), idle_timeout=1, scaler_value=0.2)
        async def own(x):
            await asyncio.sleep(0.001)
            return x, os.getpid()

        async def main():
            found = await asyncio.gather(*map(own, range(1000)))
            print(json.dumps([[x for x, _ in found] == list(range(1000)),
                              len({pid for _, pid in found})]), flush=True)
            await asyncio.to_thread(sys.stdin.readline)

        if __name__ == "__main__":
            asyncio.run(main())
        """
    with programs.start(source, typed=True) as program:
        program.until(lambda: bool(program.lines), timeout=60)
        assert program.lines[0].startswith("[true, "), program.text()
        assert program.workers()
        began = time.monotonic()
        program.until(lambda: not program.workers(), timeout=5)
        assert time.monotonic() - began > 0.5, "the workers ended before their idle time"
        program.type("\n")
        assert program.finish().code == 0


GIVES_UP = """
        @Endpoint(name="slow", cpu=CPU)
        def slow(seconds):
            time.sleep(seconds)
            return "slept"

        async def give_up(*jobs):
            for job in jobs:
                for _ in range(3):
                    try:
                        await job.wait(0.01)
                    except TimeoutError:
                        pass
                    try:
                        await asyncio.to_thread(job.result, 0.01)
                    except TimeoutError:
                        pass

        async def run(seconds):
            job = slow.run(seconds)
            found = await slow.__remote_config__["resource_config"].status(job.id)
            await give_up(job, found)
            return job, found
"""


def test_a_job_that_was_given_up_can_be_waited_for_again_by_many(programs: Programs) -> None:
    done = programs.run(
        f"""{GIVES_UP}
        async def main():
            jobs = await run(1)
            threads = [asyncio.to_thread(job.result) for job in jobs * 3]
            waits = [job.wait() for job in jobs * 3]
            ended = await asyncio.gather(*threads, *waits)
            return [ended[:6], [job.output for job in ended[6:]]]

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result == [["slept"] * 6] * 2, done


@pytest.mark.embedded  # the program looks into its plane
def test_waits_that_were_given_up_leave_nothing_in_the_plane(programs: Programs) -> None:
    done = programs.run(
        f"""{GIVES_UP}
        from runpod_flash.client.embedded import embedded_backend

        async def main():
            job, _ = await run(60)
            followers = len(embedded_backend().plane.events._by_job[job.id])
            await job.cancel()
            return followers

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result == 2, done  # one for each of the two that were waited for


@pytest.mark.embedded  # at a server the app ends instead: e2e/test_target.py
def test_unawaited_jobs_are_finished_at_the_end_of_the_program_and_one_line_says_so(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        @Endpoint(name="writes", cpu=CPU)
        def writes(name):
            time.sleep(0.2)
            with open(name, "w") as file:
                file.write("written")

        @Endpoint(name="outer", cpu=CPU)
        def outer(name):
            time.sleep(1)
            writes.run(name)  # nobody awaits it either

        if __name__ == "__main__":
            for n in range(3):
                writes.run(f"out-{n}")
            outer.run("out-nested")
            print("main is over", flush=True)
        """
    )
    assert done.code == 0, done
    written = sorted(path.name for path in programs.folder.glob("out-*"))
    assert written == ["out-0", "out-1", "out-2", "out-nested"], done
    (line,) = [line for line in done.stderr.splitlines() if "waiting" in line]
    assert re.fullmatch(r"flash: waiting for [1-4] jobs? \(Ctrl-C cancels them\)", line), done


def test_a_first_call_at_the_programs_end_is_refused_in_one_sentence(programs: Programs) -> None:
    done = programs.run(
        """
        import atexit
        from runpod_flash.errors import FlashError

        @Endpoint(name="late", cpu=CPU)
        def late(x):
            return x

        def leave():
            for _ in range(2):
                try:
                    late.call(1)
                except FlashError as error:
                    print(error)

        if __name__ == "__main__":
            atexit.register(leave)
        """
    )
    assert done.code == 0, done
    assert done.stderr == "", done
    sentence = "the program is ending, which is too late for its first call of an endpoint: "
    assert done.stdout.splitlines() == [sentence + "call one before its main thread ends"] * 2


INTERRUPTED = """
        import atexit

        @Endpoint(name="long", cpu=CPU)
        async def long():
            print("begun", flush=True)
            await asyncio.sleep(1000)

        if __name__ == "__main__":
            atexit.register(print, "the end")
            {call}
"""


def test_ctrl_c_cancels_what_runs_and_leaves_nothing(programs: Programs) -> None:
    for call in ("asyncio.run(long())", "long.call()"):
        done = _interrupted(programs, call)
        assert "cancelled" not in done.stderr, done


@pytest.mark.embedded  # a program at a server does not wait for such jobs
def test_ctrl_c_cancels_the_jobs_that_a_program_waits_for_at_its_end(programs: Programs) -> None:
    done = _interrupted(programs, "long.run()")
    assert "cancelled 1 job" in done.stderr, done


def _interrupted(programs: Programs, call: str) -> Finished:
    with programs.start(INTERRUPTED.format(call=call)) as program:
        program.until_shown("begun")
        program.interrupt()
        began = time.monotonic()
        done = program.finish(10)
    assert time.monotonic() - began < 3, done
    assert done.code == -signal.SIGINT, done  # which a shell shows as 130
    assert done.stdout == "the end\n", done
    assert "Exception ignored" not in done.stderr, done
    return done
