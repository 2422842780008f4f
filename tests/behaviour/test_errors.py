"""Errors: what a function raises is raised at the call, and what cannot run says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from behaviour.programs import Programs

COLLECT = """
        def raised(call):
            try:
                return repr(call())
            except BaseException as error:
                return [type(error).__module__, type(error).__qualname__, str(error)]
"""


def test_exceptions_keep_their_type_message_attributes_and_traceback(programs: Programs) -> None:
    programs.write({"shapes.py": "class ShapeError(ValueError):\n    pass\n"})
    done = programs.run(
        f"""
        import traceback
        from shapes import ShapeError

        class Own(Exception):
            def __init__(self, message, code):
                super().__init__(message)
                self.code = code

        @Endpoint(name="raises", cpu=CPU)
        def raises(kind):
            if kind == "value":
                int("seven")
            if kind == "own":
                raise Own("of the script", 7)
            if kind == "shape":
                raise ShapeError("round")
            if kind == "local":
                class Hidden(Exception):
                    pass
                raise Hidden("unknown here")
            if kind == "exit":
                sys.exit("leaving")
            if kind == "interrupt":
                raise KeyboardInterrupt
            if kind == "stop":
                next(iter([]))
            if kind == "cause":
                try:
                    {{}}["key"]
                except KeyError as error:
                    raise RuntimeError("outer") from error
            return os.getpid()

        @Endpoint(name="araises", cpu=CPU)
        async def araises(kind):
            await asyncio.sleep(0)
            if kind == "exit":
                sys.exit(3)
            if kind == "interrupt":
                raise KeyboardInterrupt
            if kind == "cancelled":
                raise asyncio.CancelledError
            return os.getpid()
{COLLECT}
        KINDS = ("value", "own", "shape", "local", "exit", "interrupt", "stop", "cause")

        if __name__ == "__main__":
            found = {{"before": raises.call("")}}
            for kind in KINDS:
                found[kind] = raised(lambda: raises.call(kind))
            for kind in ("exit", "interrupt", "cancelled"):
                found["async " + kind] = raised(lambda: araises.call(kind))
            found["after"] = raises.call("")
            try:
                raises.call("own")
            except Own as error:
                found["code"] = error.code
            try:
                raises.call("cause")
            except RuntimeError:
                found["trace"] = traceback.format_exc()
            print(json.dumps(found))
        """
    )
    found = done.result
    trace = found.pop("trace")
    remote = ["runpod_flash.errors", "RemoteError"]
    assert found.pop("before") == found.pop("after"), "an exception cost a worker"
    assert found == {
        "value": ["builtins", "ValueError", "invalid literal for int() with base 10: 'seven'"],
        "own": ["__main__", "Own", "of the script"],
        "code": 7,
        "shape": ["shapes", "ShapeError", "round"],
        "local": [*remote, "app.raises.<locals>.Hidden: unknown here"],
        "exit": [*remote, "SystemExit: leaving"],
        "interrupt": [*remote, "KeyboardInterrupt: "],
        "stop": ["builtins", "RuntimeError", "the function raised StopIteration"],
        "cause": ["builtins", "RuntimeError", "outer"],
        "async exit": [*remote, "SystemExit: 3"],
        "async interrupt": [*remote, "KeyboardInterrupt: "],
        "async cancelled": [*remote, "asyncio.exceptions.CancelledError: "],
    }, done
    assert '{}["key"]' in trace, trace
    assert "KeyError: 'key'" in trace, trace
    assert "direct cause" in trace, trace
    remote_part = trace.partition('"""')[2].partition('"""')[0]
    assert "in raises" in remote_part, trace
    assert "runpod_flash" not in remote_part, trace
    assert "concurrent" not in remote_part, trace


def test_values_that_cannot_travel_give_one_sentence(programs: Programs) -> None:
    done = programs.run(
        f"""
        import threading

        @Endpoint(name="takes", cpu=CPU)
        def takes(x):
            return threading.Lock() if x == "lock" else x
{COLLECT}
        if __name__ == "__main__":
            found = [raised(lambda: takes.call({{"a": [threading.Lock()]}}))]
            found.append(raised(lambda: takes.call("lock")))
            found.append(raised(lambda: takes.call(1, 2)))
            found.append(raised(lambda: takes.call(y=1)))
            print(json.dumps(found))
        """
    )
    argument, result, many, unknown = done.result
    for _module, kind, text in (argument, result):
        assert kind == "SerializationError", done
        assert "lock" in text, done
        assert "\n" not in text, done
    assert many == ["builtins", "TypeError", "takes(): too many positional arguments"], done
    assert unknown == ["builtins", "TypeError", "takes(): missing a required argument: 'x'"], done


def test_a_module_that_fails_on_import_says_so_on_every_call(programs: Programs) -> None:
    programs.write({"limits.py": "LIMIT = int('many')\n"})
    done = programs.run(
        f"""
        if __name__ != "__main__":
            import limits

        @Endpoint(name="broken", cpu=CPU)
        def broken(x):
            return x
{COLLECT}
        if __name__ == "__main__":
            print(json.dumps([raised(lambda: broken.call(1)) for _ in range(2)]))
        """
    )
    for _module, kind, text in done.result:
        assert kind == "WorkerStartError", done
        assert text == (
            "no worker of 'broken' can start: app.py fails with ValueError: "
            "invalid literal for int() with base 10: 'many'"
        ), done


@pytest.mark.embedded  # a server's copies of files are never saved again
def test_a_file_that_is_being_saved_while_it_is_loaded_is_loaded_again(programs: Programs) -> None:
    programs.write({"limits.py": ""})
    done = programs.run(
        f"""
        from pathlib import Path

        if __name__ != "__main__":
            try:
                from limits import LIMIT
            except ImportError:
                Path(HERE, "limits.py").write_text("LIMIT = 3\\n")
                raise

        @Endpoint(name="saved", cpu=CPU)
        def saved(x):
            return x + LIMIT
{COLLECT}
        if __name__ == "__main__":
            print(json.dumps(saved.call(1)))
        """
    )
    assert done.result == 4, done


def test_a_module_that_crashes_on_import_is_tried_a_few_times_only(programs: Programs) -> None:
    done = programs.run(
        f"""
        @Endpoint(name="crashes", cpu=CPU)
        def crashes(x):
            return x

        if __name__ != "__main__":
            with open(HERE + "starts", "a") as file:
                file.write("x")
            print("about to fall", flush=True)
            os.kill(os.getpid(), 11)
{COLLECT}
        if __name__ == "__main__":
            print(json.dumps(raised(lambda: crashes.call(1))))
        """
    )
    _module, kind, text = done.result
    assert kind == "WorkerStartError", done
    assert "SIGSEGV" in text, done
    assert "Segmentation fault" in text, done  # with the line, from the fault handler
    assert "in <module>" in text, done
    assert (programs.folder / "starts").read_text() == "xxx"


def test_a_call_without_a_main_guard_is_an_error_and_never_a_recursion(programs: Programs) -> None:
    done = programs.run(
        """
        with open(HERE + "imports", "a") as file:
            file.write("x")

        @Endpoint(name="unguarded", cpu=CPU)
        async def unguarded(x):
            return x

        asyncio.run(unguarded(1))
        """
    )
    assert done.code == 1, done
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "runpod_flash.errors.UnguardedCallError: app.py calls the endpoint 'unguarded' while a "
        "worker imports it; put the call under `if __name__ == '__main__':`"
    ), done
    assert (programs.folder / "imports").read_text() == "xx", "more than one worker was started"


def test_a_function_inside_a_function_is_refused(programs: Programs) -> None:
    done = programs.run(
        f"""
        def make():
            @Endpoint(name="inside", cpu=CPU)
            def inside(x):
                return x
            return inside
{COLLECT}
        if __name__ == "__main__":
            print(json.dumps(raised(lambda: make().call(1))))
        """
    )
    _module, kind, text = done.result
    assert kind == "ConfigurationError", done
    assert text == (
        "endpoint 'inside': make.<locals>.inside is defined inside a function, where no worker can "
        "find it; move it to the top level of its module"
    ), done


def test_variables_of_the_caller_are_there_at_import_and_a_missing_one_says_what_to_do(
    programs: Programs,
) -> None:
    done = programs.run(
        f"""
        AT_IMPORT = os.environ["ONLY_LOCAL"]

        @Endpoint(name="reads", cpu=CPU, env={{"GIVEN": os.environ["ONLY_LOCAL"] + "!"}})
        def reads(how):
            if how == "module":
                return AT_IMPORT, os.environ["GIVEN"], os.environ.get("ONLY_LOCAL", "none")
            return os.environ[how]
{COLLECT}
        if __name__ == "__main__":
            found = [reads.call("module")]
            found += [raised(lambda: reads.call(name)) for name in ("ONLY_LOCAL", "NOWHERE")]
            print(json.dumps(found))
        """,
        env={"ONLY_LOCAL": "here"},
    )
    module, local, nowhere = done.result
    assert module == ["here", "here!", "none"], done
    assert local == [
        "runpod_flash.errors",
        "MissingVariableError",
        "'ONLY_LOCAL' is set where you call from but not in the workers of 'reads': "
        "list it in env={'ONLY_LOCAL': os.environ['ONLY_LOCAL']}",
    ], done
    assert nowhere == ["builtins", "KeyError", "'NOWHERE'"], done


def test_an_undeclared_package_is_named_with_the_remedy(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="imports", cpu=CPU)
        def imports(name):
            __import__(name)

        def raised(name):
            try:
                imports.call(name)
            except ModuleNotFoundError as error:
                return "add " in error.remote_traceback, error.remote_traceback

        if __name__ == "__main__":
            print(json.dumps([raised("zzpandas.core"), raised("json.absent")]))
        """
    )
    (noted, text), (other, _) = done.result
    assert (noted, other) == (True, False), done
    remedy = (
        "if that is a package, add it to dependencies=[...] of the endpoint 'imports'; "
        "if it is a module of the project, its file is not there"
    )
    assert f"flash: the worker's environment has no 'zzpandas'; {remedy}" in text, done
