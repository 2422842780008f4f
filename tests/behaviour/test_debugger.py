"""`breakpoint()` in a worker opens pdb in the terminal of whoever runs the program."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.programs import MINORS, interpreters_once
from behaviour.screens import CTRL_C, CTRL_D, PROMPT, Screen

if TYPE_CHECKING:
    from behaviour.programs import Programs

pytestmark = pytest.mark.embedded  # the debugger is in the terminal of the plane's own process


def function_at(screen: Screen, command: str) -> str:
    """The function in which the debugger stops after a command."""
    found = re.findall(r"^> .*app\.py\(\d+\)(\w+)\(\)", screen.say(command), re.MULTILINE)
    return str(found[-1]) if found else ""


def shown(screen: Screen, expression: str) -> str:
    """What the debugger prints for an expression."""
    return screen.say(f"p {expression}").splitlines()[-2]


@pytest.mark.parametrize("minor", MINORS)
def test_all_kinds_of_functions_are_stepped_through_to_their_end(
    programs: Programs, minor: str
) -> None:
    if minor not in interpreters_once():
        pytest.skip(f"no Python {minor} here")
    source = f"""
        import pdb

        def inner(x):
            doubled = 2 * x
            breakpoint()
            tripled = 3 * x
            return doubled + tripled

        @Endpoint(name="sync", cpu=CPU, python_version="{minor}")
        def sync(x):
            found = inner(x)
            return found

        @Endpoint(name="coroutine", cpu=CPU, python_version="{minor}")
        async def coroutine(x):
            pdb.set_trace(header="look here")
            y = await later(x)
            y = await later(y)
            return y

        async def later(x):
            await asyncio.sleep(0.01)
            return x + 1

        @Endpoint(name="generator", cpu=CPU, python_version="{minor}")
        def generator(x):
            breakpoint()
            yield x
            yield x + 1

        @Endpoint(name="async_generator", cpu=CPU, python_version="{minor}")
        async def async_generator(x):
            breakpoint()
            yield x
            await asyncio.sleep(0.01)
            yield x + 1

        @Endpoint(name="Counter", cpu=CPU, python_version="{minor}")
        class Counter:
            def __init__(self):
                self.start = 100

            def count(self, x):
                breakpoint()
                return self.start + x

        async def stream(values):
            return [value async for value in values]

        if __name__ == "__main__":
            print("sync", sync.call(7))
            print("coroutine", coroutine.call(7))
            print("generator", list(generator.call(7)))
            print("async generator", asyncio.run(stream(async_generator(7))))
            print("class", asyncio.run(Counter().count(7)))
            print("again", [sync.call(8), coroutine.call(8)])
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        assert shown(screen, "(x, doubled)") == "(7, 14)"
        assert "runpod_flash" not in screen.say("w")
        assert function_at(screen, "u") == "sync"
        while function_at(screen, "n") == "inner":
            pass
        while "sync 35" not in screen.say("n", PROMPT, "sync 35"):
            pass  # its end is the session's: there is no more of the user's code

        assert "look here" in screen.until(PROMPT)
        while "await later(y)" not in screen.say("n"):
            pass
        assert shown(screen, "y") == "8"
        assert function_at(screen, "s") == "later"
        assert function_at(screen, "r") in ("later", "coroutine")
        screen.type("c\n")
        screen.until("coroutine 9")

        screen.until(PROMPT)
        while "yield x + 1" not in screen.say("n"):
            pass
        screen.type("c\n")
        screen.until("generator [7, 8]")

        screen.until(PROMPT)
        while "yield x + 1" not in screen.say("n"):
            pass
        screen.type("c\n")
        screen.until("async generator [7, 8]")

        screen.until(PROMPT)
        assert shown(screen, "self.start + x") == "107"
        screen.say("!self.start = 200")
        screen.type("c\n")
        screen.until("class 207")

        for _ in range(2):
            screen.until(PROMPT)
            screen.type("c\n")
        screen.until("again [40, 10]")
        assert screen.finish() == 0, screen.text


def test_quitting_fails_the_job_and_says_so(programs: Programs) -> None:
    source = """
        @Endpoint(name="sync", cpu=CPU)
        def sync(x):
            if x:
                breakpoint()
            return os.getpid()

        @Endpoint(name="coroutine", cpu=CPU)
        async def coroutine(x):
            if x:
                breakpoint()
            return os.getpid()

        if __name__ == "__main__":
            for function in (sync, coroutine, sync):
                before = function.call(0)
                try:
                    function.call(1)
                except Exception as error:
                    print(type(error).__name__, error, error.remote_traceback)
                print("same worker:", function.call(0) == before)
        """
    with Screen(programs, source) as screen:
        for key in ("q\n", "quit\n", CTRL_D):
            screen.until(PROMPT)
            screen.type(key)
            told = screen.until("same worker: True")
            assert "RemoteError bdb.BdbQuit: the debugger was quit at app.py:" in told, told
            assert "app.py" in told and "runpod_flash" not in told, told
        assert screen.finish() == 0, screen.text


def test_the_time_at_the_prompt_is_not_counted(programs: Programs) -> None:
    source = """
        LIMITS = {"cpu": CPU, "execution_timeout_ms": 700, "max_concurrency": 2}

        @Endpoint(name="outer", **LIMITS)
        async def outer(seconds):
            return await inner(seconds)

        @Endpoint(name="inner", **LIMITS)
        async def inner(seconds):
            breakpoint()
            time.sleep(seconds)
            return "in time"

        @Endpoint(name="other", **LIMITS)
        async def other():
            await asyncio.sleep(1000)

        async def main():
            neighbour = asyncio.create_task(inner(0.0))
            print(await outer(0.1), await neighbour)
            try:
                await outer(5)
            except TimeoutError as error:
                print("too long:", error)
            try:
                await other()
            except TimeoutError as error:
                print("too long:", error)

        if __name__ == "__main__":
            asyncio.run(main())
        """
    with Screen(programs, source) as screen:
        for _ in range(2):
            screen.until(PROMPT)
            time.sleep(1)
            screen.type("c\n")
        screen.until("in time in time")
        screen.until(PROMPT)
        time.sleep(1)
        screen.type("c\n")
        screen.until("too long: job", timeout=3)
        screen.until("too long: job", timeout=3)
        assert screen.finish() == 0, screen.text


def test_two_jobs_at_once_are_served_one_after_the_other(programs: Programs) -> None:
    source = """
        @Endpoint(name="pair", cpu=CPU, workers=(2, 2), execution_timeout_ms=2000)
        def pair(x):
            breakpoint()
            y = 10 * x
            return y

        async def main():
            print(await asyncio.gather(pair(1), pair(2)))

        if __name__ == "__main__":
            asyncio.run(main())
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        first = shown(screen, "x")
        time.sleep(2.5)  # the other one's time stands still as well
        told = screen.say("n") + screen.say("n")
        assert "debugging at" not in told, "a step's next prompt is its own"
        assert "debugging at app.py:" in screen.say("c")
        assert screen.text.count("breakpoint() at app.py:13 waits until the debugger is free") == 1
        assert {first, shown(screen, "x")} == {"1", "2"}
        screen.type("c\n")
        screen.until("[10, 20]")
        assert screen.finish() == 0, screen.text


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_step_over_a_call_that_stops_elsewhere_goes_there_and_back(
    programs: Programs, kind: str
) -> None:
    call = "await inner(x)" if "async" in kind else "inner.call(x)"
    source = f"""
        @Endpoint(name="outer", cpu=CPU, execution_timeout_ms=1000)
        {kind} outer(x):
            breakpoint()
            y = {call}
            return y

        @Endpoint(name="inner", cpu=CPU, execution_timeout_ms=1000)
        {kind} inner(z):
            breakpoint()
            return z + 1

        if __name__ == "__main__":
            print("result", outer.call(7))
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        while "flash: inner: debugging at" not in screen.say("n"):
            pass
        assert shown(screen, "z") == "7"
        assert "flash: outer: debugging at" in screen.say("c")
        assert shown(screen, "y") == "8"
        time.sleep(1)
        screen.type("c\n")
        screen.until("result 8")
        assert screen.finish() == 0, screen.text


def test_jobs_of_one_worker_take_turns_with_its_event_loop(programs: Programs) -> None:
    source = """
        @Endpoint(name="shared", cpu=CPU, workers=(1, 1), max_concurrency=2)
        async def shared(x):
            await asyncio.sleep(0.01)
            breakpoint()
            await asyncio.sleep(0.01)
            return 10 * x

        async def main():
            print(await asyncio.gather(shared(1), shared(2)))

        if __name__ == "__main__":
            asyncio.run(main())
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        first = shown(screen, "x")
        while shown(screen, "x") == first:
            screen.say("n")  # over an await, where the other job stops
        while "[10, 20]" not in screen.say("c", PROMPT, "[10, 20]"):
            pass
        assert screen.finish() == 0, screen.text


def test_without_a_terminal_the_function_goes_on(programs: Programs) -> None:
    done = programs.run(
        """
        import pdb

        @Endpoint(name="alone", cpu=CPU)
        def alone(x):
            for _ in range(3):
                breakpoint()
            pdb.set_trace()
            return x

        if __name__ == "__main__":
            print(json.dumps(alone.call(7)))
        """
    )
    assert done.result == 7
    lines = [line for line in done.stderr.splitlines() if "breakpoint()" in line]
    assert lines == [
        f"flash: alone: breakpoint() at app.py:{n} was passed by: no terminal to debug in"
        for n in (17, 18)
    ], done


def test_a_variable_turns_breakpoints_off_or_sends_them_elsewhere(programs: Programs) -> None:
    programs.write({"mine.py": "def stop(where=0):\n    print('stopped by mine', where)\n"})
    source = """
        @Endpoint(name="f", cpu=CPU)
        def f(x):
            breakpoint()
            return x

        if __name__ == "__main__":
            print("result", f.call(7))
        """
    for chosen, told in (("0", False), ("mine.stop", True)):
        with Screen(programs, source, env={"PYTHONBREAKPOINT": chosen}) as screen:
            assert ("[f] stopped by mine" in screen.until("result 7")) is told
            assert PROMPT not in screen.text
            assert screen.finish() == 0, screen.text


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_cancelling_a_job_ends_its_debugger(programs: Programs, kind: str) -> None:
    source = f"""
        @Endpoint(name="f", cpu=CPU)
        {kind} f(x):
            if x:
                breakpoint()
            return os.getpid()

        async def main():
            before = await f(0)
            job = f.run(1)
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
            await job.cancel()
            print("cancelled:", await job.status())
            print("same worker:", await f(0) == before)
            print("result:", await f(1) == before)

        if __name__ == "__main__":
            asyncio.run(main())
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        (programs.folder / "go").touch()
        screen.until("cancelled: CANCELLED")
        screen.until("same worker: True")
        screen.until(PROMPT)
        assert shown(screen, "x") == "1"
        screen.type("c\n")
        screen.until("result: True")
        assert screen.finish() == 0, screen.text


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_interrupt_at_the_prompt_ends_the_program(programs: Programs, kind: str) -> None:
    source = f"""
        @Endpoint(name="f", cpu=CPU)
        {kind} f(x):
            breakpoint()
            return x

        if __name__ == "__main__":
            f.call(7)
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        screen.type(CTRL_C)
        screen.until("KeyboardInterrupt")
        assert screen.finish(5) == -2, screen.text
        assert screen.echoes(), "the terminal is as it was"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_program_that_is_killed_at_the_prompt_leaves_nothing(
    programs: Programs, kind: str
) -> None:
    source = f"""
        @Endpoint(name="f", cpu=CPU)
        {kind} f(x):
            breakpoint()

        if __name__ == "__main__":
            f.call(7)
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        screen.kill()
        assert screen.finish(5) == -9


def test_lines_of_others_wait_until_nobody_types(programs: Programs) -> None:
    source = """
        @Endpoint(name="stops", cpu=CPU)
        def stops():
            breakpoint()
            print("of the step")
            print("and of the next")
            return 1

        @Endpoint(name="talks", cpu=CPU)
        def talks():
            for n in range(100):
                print("line", n)
                time.sleep(0.01)
            return 2

        async def main():
            talking = asyncio.create_task(talks())
            print("results", await stops(), await talking)

        if __name__ == "__main__":
            asyncio.run(main())
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        screen.type("p 'while the others ")
        time.sleep(1.5)
        screen.type("talk'\n")
        told = screen.until(PROMPT)
        assert told.startswith("p 'while the others talk'\n"), told
        assert "[talks] line 99\n" in told, told
        assert "[stops] of the step\n> " in screen.say("n") + screen.say("n")
        screen.type("c\n")
        screen.until("results 1 2")
        assert screen.finish() == 0, screen.text


def test_an_exception_is_looked_at_where_it_was_raised(programs: Programs) -> None:
    source = """
        import pdb

        @Endpoint(name="f", cpu=CPU)
        def f(x):
            try:
                share = 1 / x
            except ZeroDivisionError:
                pdb.post_mortem()
            return "caught"

        if __name__ == "__main__":
            print("result", f.call(0))
        """
    with Screen(programs, source) as screen:
        assert "share = 1 / x" in screen.until(PROMPT)
        assert shown(screen, "x") == "0"
        screen.type("q\n")
        screen.until("result caught")
        assert screen.finish() == 0, screen.text


def test_a_module_is_debugged_while_a_worker_imports_it(programs: Programs) -> None:
    source = """
        if __name__ != "__main__":
            breakpoint()
            loaded = "by the worker"

        @Endpoint(name="f", cpu=CPU)
        def f():
            return loaded

        if __name__ == "__main__":
            print("result", f.call())
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        assert shown(screen, "__name__") == "'app'"
        assert "runpod_flash" not in screen.say("w")
        screen.type("c\n")
        screen.until("result by the worker")
        assert screen.finish() == 0, screen.text


def test_breakpoints_hold_until_the_function_returns(programs: Programs) -> None:
    source = """
        @Endpoint(name="f", cpu=CPU)
        async def f(n):
            breakpoint()
            total = 0
            for k in range(n):
                await asyncio.sleep(0.001)
                total += k  # here
            return total

        if __name__ == "__main__":
            print("results", f.call(3), f.call(2))
        """
    with Screen(programs, source) as screen:
        screen.until(PROMPT)
        line = [
            n
            for n, text in enumerate((programs.folder / "app.py").read_text().splitlines(), 1)
            if "# here" in text
        ]
        screen.say(f"b {line[0]}")
        for k in range(3):
            screen.say("c")
            assert shown(screen, "k") == str(k)
        screen.say("c")
        assert shown(screen, "n") == "2"
        assert screen.say("interact", ">>> ").count("interact") == 2
        assert "5\n" in screen.say("n + 3", ">>> ")
        screen.type(CTRL_D)
        screen.until(PROMPT)
        screen.say("cl 1")
        screen.type("c\n")
        screen.until("results 3 1")
        assert screen.finish() == 0, screen.text


def test_an_interactive_python_has_its_own_prompt_again(programs: Programs) -> None:
    lines = [
        "from runpod_flash import Endpoint",
        "@Endpoint(name='f', cpu='cpu3c-1-2')",
        "def f(x):",
        "    breakpoint()",
        "    return x + 1",
        "",
    ]
    basic = {"PYTHON_BASIC_REPL": "1"}
    with Screen(programs, "", arguments=["-q", "-i"], env=basic) as screen:
        for line in lines:
            screen.until(">>> ", "... ")
            screen.type(f"{line}\n")
        screen.until(">>> ")
        screen.say("f.call(1)")
        assert shown(screen, "x") == "1"
        assert "2\n" in screen.say("c", ">>> ")
        screen.say("f.call(1)")
        screen.type(CTRL_C)
        screen.until("KeyboardInterrupt")
        screen.until(">>> ")
        assert "42\n" in screen.say("40 + 2", ">>> ")
        screen.say("f.call(2)")
        assert "3\n" in screen.say("c", ">>> ")
        screen.type(CTRL_D)
        assert screen.finish() == 0, screen.text


def test_a_program_whose_output_goes_to_a_file_is_debugged_all_the_same(
    programs: Programs,
) -> None:
    source = """
        @Endpoint(name="f", cpu=CPU)
        def f(x):
            breakpoint()
            return x

        if __name__ == "__main__":
            print("result", f.call(1), f.call(2))
        """
    with Screen(programs, source, into="out.txt") as screen:
        screen.until(PROMPT)
        assert shown(screen, "x") == "1"
        screen.say("c")
        screen.type("c\n")
        assert screen.finish() == 0, screen.text
    assert (programs.folder / "out.txt").read_text() == "result 1 2\n"


def test_the_terminal_of_flash_dev_is_that_of_its_workers(programs: Programs) -> None:
    source = """
        @Endpoint(name="f", cpu=CPU, execution_timeout_ms=1000)
        async def f(x: int):
            breakpoint()
            return x + 1
        """
    command = ["-m", "runpod_flash.cli.main", "dev", "-p", "0"]
    with Screen(programs, source, arguments=command) as screen, ThreadPoolExecutor() as threads:
        address = re.search(r"http://localhost:\d+", screen.until("ready in"))
        assert address is not None
        url = f"{address[0]}/app/runsync"

        def ask(x: int) -> Any:
            return httpx.post(url, json={"input": {"x": x}}, timeout=60).json()

        answer = threads.submit(ask, 7)
        screen.until(PROMPT)
        time.sleep(1.1)
        assert shown(screen, "x") == "7"
        screen.type("c\n")
        assert answer.result(20)["output"] == 8
        screen.until("200 OK")

        answer = threads.submit(ask, 8)
        screen.until(PROMPT)
        screen.type(CTRL_C)
        assert screen.finish(10) == 0, screen.text
        assert answer.result(20)["status"] == "FAILED"
        assert screen.echoes(), "the terminal is as it was"
