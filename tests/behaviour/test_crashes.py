"""Crashes: of workers, of the caller, and copies of the caller made by `fork`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

    from behaviour.programs import Programs


def test_a_job_whose_worker_is_killed_is_run_once_more_and_then_fails(programs: Programs) -> None:
    done = programs.run(
        """
        def attempt(name):
            with open(HERE + name, "a") as file:
                file.write("x")
            return os.path.getsize(HERE + name)

        def end(how):
            os._exit(3) if how == "exit" else os.kill(os.getpid(), 9)

        @Endpoint(name="dies", cpu=CPU, workers=(0, 1))
        def dies(name, times, how="kill"):
            if attempt(name) <= times:
                end(how)
            return "survived"

        @Endpoint(name="once", cpu=CPU, workers=(0, 1), max_attempts=1)
        async def once(name):
            attempt(name)
            end("kill")

        @Endpoint(name="chunks", cpu=CPU, workers=(0, 1))
        def chunks(name):
            attempt(name)
            yield 1
            time.sleep(0.3)
            end("kill")

        def failed(call):
            try:
                return call()
            except Exception as error:
                return f"{type(error).__name__}: {error}"

        async def streamed():
            seen = []
            try:
                async for chunk in chunks("d"):
                    seen.append(chunk)
            except Exception as error:
                seen.append(f"{type(error).__name__}: {error}")
            return seen

        if __name__ == "__main__":
            found = {
                "killed once": dies.call("a", 1),
                "killed twice": failed(lambda: dies.call("b", 5)),
                "exits": failed(lambda: dies.call("e", 5, "exit")),
                "once": failed(lambda: once.call("c")),
                "streamed": asyncio.run(streamed()),
                "next": dies.call("f", 0),
            }
            found["attempts"] = [os.path.getsize(HERE + name) for name in "abecd"]
            print(json.dumps(found))
        """
    )
    found = done.result
    assert found["killed once"] == found["next"] == "survived", done
    assert found["attempts"] == [2, 2, 2, 1, 1], done
    for key in ("killed twice", "once"):
        assert found[key].startswith("WorkerLostError: the worker "), done
        assert "was killed by SIGKILL" in found[key], done
    assert found["killed twice"].endswith(" (attempt 2 of 2)"), done
    assert found["once"].endswith(" of the endpoint 'once' (attempt 1 of 1)"), done
    line = r"^flash: dies: the worker \S+ was killed by SIGKILL.*; its job runs again \(attempt 2"
    assert len(re.findall(line, done.stderr, re.MULTILINE)) == 2, done
    assert "exited with code 3" in found["exits"], done
    chunk, lost = found["streamed"]
    assert chunk == 1, done
    assert lost.startswith("WorkerLostError: the worker chunks-"), done


def test_a_worker_that_can_no_longer_be_spoken_to_is_not_taken_for_one_out_of_memory(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        @Endpoint(name="closes", cpu=CPU, max_attempts=1)
        def closes():
            os.closerange(3, 256)
            time.sleep(60)  # or it would end by itself, and be as quick as Flash at times

        if __name__ == "__main__":
            try:
                closes.call()
            except Exception as error:
                print(json.dumps(str(error)))
        """
    )
    assert re.match(r"the worker \S+ was ended by Flash while it ran the job ", done.result), done


def test_nothing_of_a_killed_program_is_left_even_if_it_left_its_session(
    programs: Programs,
) -> None:
    source = """
        import subprocess

        @Endpoint(name="starts", cpu=CPU, workers=(0, 2))
        def starts():
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            subprocess.Popen(["setsid", "sh", "-c", "setsid sleep 1001 & sleep 1002"])
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(1003)
                os._exit(0)
            print("started", flush=True)
            time.sleep(1000)

        if __name__ == "__main__":
            starts.call()
        """
    with programs.start(source) as program:
        program.until_shown("started")
        program.until(lambda: _count(program.processes(), "sleep") == 3)
        program.kill()
        began = time.monotonic()
        assert not program.left(), "left after 2 s"
        assert time.monotonic() - began < 2 + programs.lease


def _count(processes: list[psutil.Process], name: str) -> int:
    return sum(process.name() == name for process in processes)


def test_a_fork_of_the_caller_has_its_own_workers_and_both_end_cleanly(programs: Programs) -> None:
    done = programs.run(
        """
        import multiprocessing

        @Endpoint(name="where", cpu=CPU)
        def where():
            return os.getpid()

        def in_child(pipe):
            pipe.send([where.call(), where.call()])

        if __name__ == "__main__":
            mine = where.call()
            read, write = os.pipe()
            if (pid := os.fork()) == 0:
                os.write(write, str(where.call()).encode())
                sys.exit(0)
            forked = int(os.read(read, 100))
            _, status = os.waitpid(pid, 0)
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(target=in_child, args=(theirs,))
            process.start()
            child = ours.recv()
            process.join(10)
            found = [status, process.exitcode, child[0] == child[1], where.call() == mine]
            print(json.dumps([*found, len({mine, forked, child[0]})]))
        """
    )
    assert done.result == [0, 0, True, True, 3], done


def test_a_killed_fork_takes_only_its_own_workers_with_it(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="where", cpu=CPU)
        def where():
            return os.getpid()

        def there(pid):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
            return True

        if __name__ == "__main__":
            mine = where.call()
            read, write = os.pipe()
            if (pid := os.fork()) == 0:
                os.write(write, str(where.call()).encode())
                time.sleep(1000)
            theirs = int(os.read(read, 100))
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            deadline = time.monotonic() + 2 + float(sys.argv[1])
            while there(theirs) and time.monotonic() < deadline:
                time.sleep(0.01)
            print(json.dumps([there(theirs), where.call() == mine]))
        """,
        arguments=("app.py", str(programs.lease)),
    )
    assert done.result == [False, True], done
