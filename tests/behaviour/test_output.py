"""Output: what user code prints and logs appears at the caller, by endpoint, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs


def test_prints_and_logs_appear_in_order_as_they_happen(programs: Programs) -> None:
    source = """
        import logging

        log = logging.getLogger("shop")

        @Endpoint(name="talks", cpu=CPU)
        def talks():
            print("first")
            log.info("second")
            print("third", file=sys.stderr)
            sys.stdout.write("fourth, ")
            sys.stdout.write("in parts\\n")
            log.debug("never seen")
            print("50%\\r100%")
            print("fünf", end="")
            while not os.path.exists(HERE + "go"):
                time.sleep(0.01)
            print(" and six\\n\\nlast", end="")

        if __name__ == "__main__":
            talks.call()
        """
    with programs.start(source) as program:
        program.until_shown("100%")
        (programs.folder / "go").touch()
        done = program.finish()
    assert done.stdout == "", done
    assert [line for line in done.stderr.splitlines() if line.startswith("[talks]")] == [
        "[talks] first",
        "[talks] INFO shop: second",
        "[talks] third",
        "[talks] fourth, in parts",
        "[talks] 100%",
        "[talks] fünf and six",
        "[talks] ",
        "[talks] last",
    ], done


def test_output_below_python_appears_as_well(programs: Programs) -> None:
    done = programs.run(
        """
        import ctypes
        import subprocess

        @Endpoint(name="low", cpu=CPU, max_attempts=1)
        def low(how):
            if how == "subprocess":
                subprocess.run(["sh", "-c", "echo from a program; echo and its errors >&2"])
                subprocess.run([sys.executable, "-c", "print('redirected')"], stdout=sys.stdout)
                os.write(1, b"from a library\\nwithout an end")
            if how == "fork":
                if os.fork() == 0:
                    print("from a child", flush=True)
                    os._exit(0)
                os.wait()
            if how == "crash":
                ctypes.string_at(0)

        if __name__ == "__main__":
            low.call("subprocess")
            low.call("fork")
            try:
                low.call("crash")
            except Exception as error:
                print(json.dumps([type(error).__name__, str(error)]))
        """
    )
    kind, text = done.result
    lines = done.stderr.splitlines()
    for line in ("from a program", "and its errors", "redirected", "from a library"):
        assert f"[low] {line}" in lines, done
    assert "[low] without an endfrom a child" in lines, done
    assert "[low] Fatal Python error: Segmentation fault" in lines, done
    assert any(line.startswith("[low] ") and "app.py" in line for line in lines), done
    assert kind == "WorkerLostError", done
    assert "crashed with SIGSEGV" in text, done


def test_a_fork_of_a_worker_that_has_closed_its_output_has_none(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="closes", cpu=CPU)
        def closes():
            read, write = os.pipe()
            os.close(1)
            os.close(2)
            if os.fork() == 0:
                print("to nowhere")
                os.write(write, json.dumps([sys.stdout is None, sys.stderr is None]).encode())
                os._exit(0)
            os.wait()
            return json.loads(os.read(read, 100))

        if __name__ == "__main__":
            print(json.dumps(closes.call()))
        """
    )
    assert done.result == [True, True], done
    assert "Exception ignored" not in done.stderr, done
    assert "to nowhere" not in done.stderr, done


def test_a_program_whose_terminal_is_gone_goes_on(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="talks", cpu=CPU)
        def talks(n):
            print("line", n)
            return n

        if __name__ == "__main__":
            os.close(2)
            sys.stderr = None
            print(json.dumps([talks.call(n) for n in range(3)]))
        """
    )
    assert done.result == [0, 1, 2], done
