"""Exceptions come back as their own type, with text, notes and traceback, and run no code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import traceback
from typing import Any

import pytest

from runpod_flash.errors import (
    MissingVariableError,
    RemoteError,
    SerializationError,
    WorkerStartError,
)
from runpod_flash.wire.codec import Payload
from runpod_flash.wire.failures import Failure, capture, from_wire, restore, to_wire
from runpod_flash.wire.module_names import ModuleNames
from unit.other_pythons import SRC, run


class NeedsArguments(Exception):  # noqa: N818
    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code, self.where = code, where


class Slotted(Exception):  # noqa: N818
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class NewRaises(Exception):  # noqa: N818
    armed = False

    def __new__(cls, *args: object) -> NewRaises:
        if cls.armed:
            raise RuntimeError("constructor ran")
        return super().__new__(cls, *args)


class HoldsAnObject(Exception):  # noqa: N818
    def __init__(self, holder: Any) -> None:
        self.holder = holder

    def __str__(self) -> str:
        return f"held {self.holder.name}"


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Frozen(Exception):  # noqa: N818
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    @property
    def remote_type(self) -> str:
        return "mine"


class Outer:
    class Inner(ValueError):  # noqa: N818
        pass


class Holder:
    name = "a lamp"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def there_and_back(error: BaseException) -> Exception:
    wire = json.dumps(to_wire(capture(raised(error)))).encode("utf-8")
    return restore(from_wire(json.loads(wire)))


def decode_error() -> UnicodeDecodeError:
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


ERRORS = [
    ValueError("a", 1),
    ValueError(),
    KeyError("key"),
    KeyError((1, 2)),
    ZeroDivisionError("division by zero"),
    FileNotFoundError(2, "No such file", "/a", None, "/b"),
    OSError("only text"),
    decode_error(),
    ImportError("no x", name="x", path="/x"),
    AttributeError("no a"),
    SyntaxError("bad", ("f.py", 3, 1, "x = = 1")),
    asyncio.TimeoutError(),
    json.JSONDecodeError("Expecting value", "{", 1),
    subprocess.CalledProcessError(1, ["false"]),
    NeedsArguments(7, where="home"),
    Slotted(5),
    NewRaises("x"),
    Frozen("cold"),
    Outer.Inner("deep"),
    MissingVariableError("set it"),
    ValueError("lone \udcff surrogate".encode("utf-8", "backslashreplace").decode()),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_imported_exception_comes_back_as_itself(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = capture(raised(error))
    monkeypatch.setattr(NewRaises, "armed", True)
    back = restore(from_wire(to_wire(failure)))

    assert type(back) is type(error) and str(back) == str(error) and back.args == error.args
    for name in ("errno", "filename", "filename2", "start", "reason", "name", "lineno", "code"):
        assert getattr(back, name, None) == getattr(error, name, None)
    assert "Traceback" in str(back.__cause__) and "in raised" in str(back.__cause__)


def test_the_remote_type_and_traceback_are_attributes() -> None:
    back: Any = there_and_back(NeedsArguments(7, where="home"))

    assert back.where == "home"
    assert back.remote_type == f"{__name__}.NeedsArguments"
    assert "NeedsArguments: 7 at home" in back.remote_traceback


def test_the_message_is_shown_where_the_state_could_not_travel() -> None:
    back = there_and_back(HoldsAnObject(Holder()))

    assert isinstance(back, HoldsAnObject) and str(back) == "held a lamp"
    assert type(back).__qualname__ == "HoldsAnObject"
    assert "held a lamp" in "".join(traceback.format_exception_only(type(back), back))


def test_arguments_that_cannot_travel_become_the_message() -> None:
    holder = Holder()
    back = there_and_back(ValueError("bad", holder))

    assert type(back) is ValueError and back.args == (str(ValueError("bad", holder)),)


def test_an_exception_without_a_working_str_or_repr_is_still_told() -> None:
    failure = capture(raised(Unprintable()))

    assert "Unprintable" in failure.message and "Unprintable" in failure.traceback
    assert failure.message in str(restore(failure))


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(3), StopIteration(1)])
def test_what_would_stop_the_callers_loop_becomes_a_remote_error(error: BaseException) -> None:
    back = there_and_back(error)

    assert type(back) is RemoteError and back.type_name == type(error).__name__


def test_what_flash_itself_raised_shows_no_traceback_of_its_own() -> None:
    failure = capture(raised(WorkerStartError("no worker can start")), origin="system")
    back = restore(failure)

    assert type(back) is WorkerStartError and back.__cause__ is None
    assert (back.remote_traceback, str(back)) == ("", "no worker can start")  # type: ignore[attr-defined]


def test_an_unknown_type_becomes_a_remote_error_and_nothing_is_imported() -> None:
    failure = Failure("antigravity", "Nope", "it fell", "Traceback: it fell")
    back = restore(failure)

    assert isinstance(back, RemoteError) and str(back) == "antigravity.Nope: it fell"
    assert back.remote_traceback == "Traceback: it fell" and "it fell" in str(back.__cause__)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("qualname", ["path", "getcwd", "environ", "nothing.x", "stat_result", ""])
def test_a_name_that_is_no_exception_type_is_never_called(qualname: str) -> None:
    assert type(restore(Failure("os", qualname, "m"))) is RemoteError


def test_pickled_state_from_elsewhere_is_never_read() -> None:
    evil = Payload(b'{"$":"pickle","v":"gASVHQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"}')
    back = restore(Failure("builtins", "ValueError", "m", "tb", args=evil, state=evil))

    assert type(back) is ValueError and back.args == ("m",)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no exception groups")
def test_a_group_comes_back_with_its_members() -> None:
    group = eval("ExceptionGroup('two', [ValueError('a'), KeyError('b')])")
    back: Any = there_and_back(eval("ExceptionGroup('all', [g, Exception('c')])", {"g": group}))

    assert type(back).__name__ == "ExceptionGroup" and str(back) == "all (2 sub-exceptions)"
    assert [type(e) for e in back.exceptions[0].exceptions] == [ValueError, KeyError]
    assert str(there_and_back(eval("ExceptionGroup('a (b) c', [ValueError()])"))).startswith(
        "a (b)"
    )


def test_notes_travel() -> None:
    error = ValueError("a")
    vars(error)["__notes__"] = ["look here"]
    back: Any = there_and_back(error)

    assert back.__notes__ == ["look here"]
    assert "look here" in "".join(traceback.format_exception(type(back), back, None))


def test_causes_are_part_of_the_remote_traceback() -> None:
    error = ValueError("outer")
    error.__cause__ = raised(KeyError("inner"))

    assert "KeyError: 'inner'" in capture(raised(error)).traceback


def test_huge_state_stays_behind() -> None:
    failure = capture(raised(ValueError(b"x" * (2 << 20))))

    assert failure.args is None


def header_bytes(failure: Failure) -> int:
    return len(json.dumps(to_wire(failure)))


@pytest.mark.parametrize("letter", ["x", "\0", "\N{GRINNING FACE}", "\ud800"])
def test_however_long_its_texts_are_an_exception_fits_into_a_frame(letter: str) -> None:
    error = ValueError("begin" + letter * 9_000_000 + "end")
    vars(error)["__notes__"] = [letter * 9_000_000] * 3 + [""] * 100_000
    error.__cause__ = raised(KeyError(letter * 9_000_000))
    failure = capture(raised(error))

    assert header_bytes(failure) < 14 << 20
    assert failure.message.startswith("begin") and failure.message.endswith("end")
    assert "characters are left out" in failure.message
    assert failure.traceback.count("in raised") == 2 and "ValueError: begin" in failure.traceback
    back = restore(from_wire(to_wire(failure)))
    assert type(back) is ValueError and str(back) == failure.message

    # As it goes through calls of calls it becomes no longer.
    again = capture(raised(back))
    assert again.message == failure.message and header_bytes(again) < 14 << 20


def test_a_message_that_travels_as_an_argument_is_whole() -> None:
    back = there_and_back(ValueError("x" * 500_000))

    assert type(back) is ValueError and str(back) == "x" * 500_000


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no exception groups")
def test_of_a_large_group_the_first_members_travel() -> None:
    members = [ValueError(f"{n}" + "x" * 100_000) for n in range(200)]
    failure = capture(raised(eval("ExceptionGroup('all', members)", {"members": members})))

    assert header_bytes(failure) < 14 << 20
    back: Any = restore(from_wire(to_wire(failure)))
    assert str(back) == "all (200 sub-exceptions)" and 0 < len(back.exceptions) < 200
    assert back.exceptions[0].args == members[0].args


def test_the_traceback_starts_at_the_users_frame(tmp_path: pathlib.Path) -> None:
    worker = pathlib.Path(SRC, "runpod_flash", "worker", "loop.py")
    code = compile(
        "def run(f):\n  try: f()\n  except Exception as e: return e", str(worker), "exec"
    )
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    program = "import importlib\ndef f(): importlib.import_module('broken')"
    exec(compile(program, str(worker), "exec"), namespace)
    sys.path.insert(0, str(tmp_path))
    error = namespace["run"](namespace["f"])
    sys.path.remove(str(tmp_path))
    text = capture(error, origin="import").traceback

    assert text.splitlines()[1].strip().startswith(f'File "{tmp_path / "broken.py"}"')


def raised_through(error: Exception, *places: str) -> Exception:
    """The error with a traceback of frames in files of these names."""
    step, code = None, "def step(): raise error"
    for place in reversed(places):
        namespace: dict[str, Any] = {"error": error, "inner": step}
        exec(compile(code, place, "exec"), namespace)
        step, code = namespace["step"], "def step(): inner()"
    assert step is not None
    with contextlib.suppress(type(error)):
        step()
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


FLASH = pathlib.Path(SRC, "runpod_flash")
WORKER, WIRE = str(FLASH / "worker" / "jobs.py"), str(FLASH / "wire" / "codec.py")


@pytest.mark.parametrize(
    ("kind", "places", "told"),
    [
        (ValueError, [WORKER, "app.py", "lib.py"], ["app.py", "lib.py"]),
        (ValueError, [WORKER, "app.py", WORKER], ["app.py"]),
        (ValueError, [WORKER, "app.py", WIRE], ["app.py", WIRE]),
        (SerializationError, [WORKER, "app.py", WIRE], ["app.py"]),
        (ValueError, [WORKER, WORKER], []),
        (ValueError, [WORKER, WIRE], [WIRE]),
        (SerializationError, [WORKER, WIRE], []),
    ],
)
def test_a_traceback_has_the_users_frames_and_none_of_the_workers(
    kind: type[Exception], places: list[str], told: list[str]
) -> None:
    error = raised_through(kind("inner"), *places)
    outer = raised_through(RuntimeError("outer"), WORKER, "outer.py")
    outer.__cause__ = error

    assert re.findall(r'File "([^"]+)"', capture(error).traceback) == told
    assert re.findall(r'File "([^"]+)"', capture(outer).traceback) == [*told, "outer.py"]


def test_what_was_raised_elsewhere_ends_with_the_users_call() -> None:
    back = restore(capture(raised(ValueError("there"))))
    text = capture(raised_through(back, WORKER, "app.py", str(FLASH / "calls.py"))).traceback

    assert "there" in text and "calls.py" not in text and "app.py" in text


def test_odd_wire_data_gives_a_failure_and_not_an_error() -> None:
    odd: dict[str, Any] = {"args": 3, "state": {"body": 1}, "notes": None, "exceptions": [1]}

    assert str(restore(from_wire(odd))) == ""
    assert isinstance(restore(from_wire({**odd, "module": "x"})), RemoteError)


def test_the_callers_script_catches_its_own_type(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.py").write_text(
        "import json, subprocess, sys\n"
        "from runpod_flash.wire.failures import *\n"
        "from runpod_flash.wire.module_names import ModuleNames\n"
        "class Mine(Exception): pass\n"
        "if __name__ == '__main__':\n"
        "    program = ('import app, json; from runpod_flash.wire.failures import *;'\n"
        "               'print(json.dumps(to_wire(capture(app.Mine(1)))))')\n"
        "    out = subprocess.run([sys.executable, '-c', program], capture_output=True).stdout\n"
        "    try: raise restore(from_wire(json.loads(out)), ModuleNames('app'))\n"
        "    except Mine as e: print(type(e) is Mine, e.args, e.remote_type)\n"
    )
    done = run(sys.executable, "app.py", cwd=tmp_path, path=(str(tmp_path),))

    assert done.stdout == "True (1,) app.Mine\n", done.stderr
    assert ModuleNames("app").to_wire("__main__") == "app"
