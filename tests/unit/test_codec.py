"""Values go to the wire and come back equal, of the same type, without needless copies."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import json
import math
import os
import pathlib
import sys
import threading
import tracemalloc
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runpod_flash.errors import SerializationError
from runpod_flash.wire.codec import Payload, decode, encode, encode_safe
from runpod_flash.wire.module_names import ModuleNames
from unit.other_pythons import output_of, pythons, run

any_text = st.text(st.characters())  # lone surrogates included
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary()
clocks = (
    st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=False)
    | st.times(timezones=st.just(dt.timezone(dt.timedelta(hours=-3, minutes=-30))))
    | st.dates()
    | st.timedeltas()
)
others = (
    st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | clocks
    | st.integers(min_value=10**5000, max_value=10**5001)
)
hashable = scalars.filter(lambda v: v == v) | others
nested = st.recursive(
    scalars | others | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(any_text | st.just("$"), inner)
        | st.dictionaries(hashable | st.tuples(hashable), inner)
        | st.tuples(inner, inner)
        | st.frozensets(hashable)
        | st.sets(hashable)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equality that tells types apart and finds a NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(x, y) for x, y in pairs)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def round_trip(value: Any) -> Any:
    return decode(encode(value), trusted=False)


@given(nested)
def test_any_safe_value_comes_back_the_same_without_a_pickle(value: Any) -> None:
    payload = encode(value)

    assert not payload.pickled
    json.loads(payload.body.decode("utf-8"))
    assert same(decode(payload, trusted=False), value)


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0)), st.booleans())
def test_arrays_come_back_with_dtype_shape_and_writable(array: Any, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array

    back = round_trip(array)

    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable and back.flags.f_contiguous == array.flags.f_contiguous


@given(hnp.arrays(hnp.scalar_dtypes(), (1,)))
def test_numpy_scalars_keep_their_type(array: Any) -> None:
    back = round_trip(array[0])

    assert type(back) is type(array[0]) and back.tobytes() == array[0].tobytes()


@pytest.mark.parametrize(
    "value",
    [
        pathlib.PurePosixPath("/a/b"),
        pathlib.PureWindowsPath("C:\\a"),
        pathlib.Path("weights\udcff.bin"),
        dt.timezone(dt.timedelta(seconds=1), "odd"),
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        decimal.Decimal("-0E+5"),
        uuid.UUID(int=7),
        -0.0,
        [math.inf, {"x": -math.inf}],
        {"$": "pickle", "v": "x"},
        {"currency": "$", "escaped": '"$":'},
        {},
        {1: "a", (2, 3): "b", None: []},
        np.arange(6).reshape(2, 3)[:, ::2],
    ],
    ids=repr,
)
def test_a_special_value_comes_back_the_same(value: Any) -> None:
    payload = encode(value)
    back = decode(payload, trusted=False)

    assert not payload.pickled and type(back) is type(value)
    assert (
        np.array_equal(back, value) if isinstance(value, np.ndarray) else repr(back) == repr(value)
    )


def test_plain_json_is_the_body_itself() -> None:
    value = {"args": [1, 2.5, "ü", None, True], "kwargs": {"deep": [{"a": []}]}}

    assert json.loads(encode(value).body) == value
    assert encode(value).plain and not encode((1,)).plain


def test_a_body_with_blanks_around_it_is_read() -> None:
    assert decode(Payload(b' \n{"a": 1}\n'), trusted=False) == {"a": 1}


class Point(NamedTuple):
    x: int


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


SUBCLASSES = [
    Point(1),
    Colour.RED,
    Text("a"),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    np.ma.masked_array([1, 2], [True, False]),
    np.array([1, "a"], dtype=object),
    np.zeros(2, dtype=[("a", "i4")]),
]


@pytest.mark.parametrize("value", SUBCLASSES, ids=repr)
def test_a_subclass_or_structure_keeps_its_type_through_a_pickle(value: Any) -> None:
    payload = encode({"nested": [value]})

    assert payload.pickled and encode_safe([value]) is None
    back = decode(payload, trusted=True)["nested"][0]
    assert type(back) is type(value) and repr(back) == repr(value)


def test_an_untrusted_pickle_is_never_read() -> None:
    with pytest.raises(SerializationError, match="not trusted"):
        decode(encode(Point(1)), trusted=False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"$" : "pickle","v":"gASVAAAA"}',
        b'[{"$":"pickle","v":"gASVAAAA"}]',
        b'{"$":"nothing"}',
        b'{"$":"bytes","b":3}',
        b'{"$":"bytes","b":-1}',
        b'{"$":"set","v":[[1]]}',
        b'{"$":"ndarray","d":"O","s":[1],"v":"AAAAAAAAAAA="}',
        b'{"$":"ndarray","d":"<f8","s":[1000000],"v":"AAAAAAAAAAA="}',
        b'{"$":"ndarray","d":"<f8","s":[-1],"v":"AAAAAAAAAAA="}',
        b'{"$":["x"]}',
        b'{"$":"zone","v":"../../etc/passwd"}',
        b"{",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_malformed_body_is_an_error_or_plain_data_but_never_code(body: bytes) -> None:
    try:
        assert decode(Payload(body), trusted=False) == json.loads(body)
    except SerializationError:
        return
    assert body.startswith(b'{"$" :')  # our own tags are written without blanks


@pytest.mark.parametrize(
    "body", [b'{"$":"pickle",', b'{"$":"pickle","n":9}', b'{"$":"pickle","v":""}']
)
def test_a_broken_pickle_is_a_serialization_error(body: bytes) -> None:
    with pytest.raises(SerializationError):
        decode(Payload(body), trusted=True)


def test_cycles_are_pickled_and_come_back_as_cycles() -> None:
    value: list[Any] = []
    value.append(value)

    back = decode(encode(value), trusted=True)

    assert back[0] is back


@pytest.mark.parametrize("depth", [90, 150, 500, 100_000])
def test_deep_nesting_travels_or_is_refused_in_a_sentence(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    try:
        back = decode(encode(value), trusted=True)
    except SerializationError as error:
        assert depth > 150 and "nested too deeply" in str(error)
        return
    for _ in range(depth):
        (back,) = back
    assert back == 1


def test_large_bytes_are_aliased_and_arrays_take_over_received_memory() -> None:
    data, array = bytes(5000), np.arange(1000.0)
    payload = encode({"data": data, "array": array})

    assert payload.buffers[0] is data
    received = bytearray(payload.buffers[1])
    back = decode(Payload(payload.body, (data, received)), trusted=False)
    received[:8] = np.float64(7).tobytes()
    assert back["data"] is data and back["array"][0] == 7


def test_a_value_changed_after_encoding_is_sent_as_it_was() -> None:
    array, data = np.zeros(1000), bytearray(5000)
    payloads = [encode([array, data]), encode([array, data, Point(1)])]
    array[:], data[0] = 1, 1

    for payload in payloads:
        back = decode(payload, trusted=True)
        assert back[0].sum() == 0 and back[1][0] == 0 and back[0].flags.writeable


def test_pickled_values_keep_large_parts_out_of_the_pickle_and_alias_bytes() -> None:
    data = bytes(1 << 20)
    payload = encode([Point(1), data, np.zeros(1000)])

    assert any(buffer is data for buffer in payload.buffers)
    received = Payload(payload.body, tuple(bytearray(b) for b in payload.buffers))
    assert decode(received, trusted=True)[1] == data


def test_encoding_copies_a_large_array_at_most_once() -> None:
    values: list[Any] = [np.zeros(25_000_000), {"p": Point(1), "a": np.zeros(25_000_000)}]
    for value in values:
        tracemalloc.start()
        payload = encode(value)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert payload.nbytes >= 200_000_000 and peak < 205_000_000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (threading.Lock, "args[1]['lock'] (_thread.lock)"),
        (lambda: (i for i in [1]), "send a list made from it"),
        (lambda: open(os.devnull), "the file's path or its content"),  # noqa: PTH123, SIM115
    ],
)
def test_what_cannot_travel_is_named_with_its_place_and_a_remedy(make: Any, words: str) -> None:
    part = make()
    value = {"args": [0, {"lock": part}], "kwargs": {"point": Point(1)}}

    with pytest.raises(SerializationError) as caught:
        encode(value)

    assert words in str(caught.value) and "args[1]['lock']" in str(caught.value)
    if hasattr(part, "close"):
        part.close()


class Reference:
    def __flash_reference__(self) -> tuple[Any, tuple[Any, ...]]:
        return dict, ([("endpoint", 1)],)


def test_an_object_with_a_flash_reference_is_pickled_through_it() -> None:
    def by_value() -> Any:
        return reference

    by_value.__module__ = "__main__"
    reference = Reference()

    assert decode(encode(reference), trusted=True) == {"endpoint": 1}
    assert decode(encode(by_value), trusted=True)() == {"endpoint": 1}


def test_code_of_another_python_is_refused_and_not_run() -> None:
    def local() -> int:
        return 1

    payload = encode([local])
    here = f"{sys.version_info[0]}.{sys.version_info[1]}".encode()
    assert here in payload.body
    other = Payload(payload.body.replace(here, b"3.9"), payload.buffers)

    assert decode(payload, trusted=True)[0]() == 1
    with pytest.raises(SerializationError, match=r"holds code of Python 3\.9"):
        decode(other, trusted=True)


CALLER = """
import dataclasses, enum, subprocess, sys
from runpod_flash.wire.codec import Payload, decode, encode
from runpod_flash.wire.module_names import ModuleNames

NAMES = ModuleNames(main="app")

@dataclasses.dataclass
class Job:
    size: int
    class Kind(enum.Enum):
        A = 1

def helper(job):
    return job.size + 1

def work(data, trusted=True):
    job, kind, function, module = decode(data, trusted=True)
    assert isinstance(job, Job) and kind is Job.Kind.A and function is helper
    assert module is sys.modules[__name__]
    return encode([Job(function(job)), kind, helper, module])

if __name__ == "__main__":
    sent = encode([Job(1), Job.Kind.A, helper, sys.modules["__main__"]], NAMES)
    program = ("import ast, sys; from runpod_flash.wire.codec import Payload; import app;"
               "r = app.work(Payload(*ast.literal_eval(sys.stdin.read()))); print(repr(tuple(r)))")
    done = subprocess.run([sys.executable, "-c", program], input=repr(tuple(sent)),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import ast
    job, kind, function, module = decode(Payload(*ast.literal_eval(done.stdout)), trusted=True,
                                         names=NAMES)
    assert isinstance(job, Job) and job == Job(2) and kind is Job.Kind.A and function is helper
    assert module is sys.modules["__main__"] and "app" not in sys.modules
    print("fine")
"""


def test_classes_and_functions_of_the_callers_script_are_the_same_on_both_sides(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "app.py").write_text(CALLER)

    done = run(sys.executable, "app.py", cwd=tmp_path)

    assert done.stdout == "fine\n", done.stderr


def test_a_missing_module_or_name_at_the_reader_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere.py").write_text("class Thing: pass")
    write = (
        "import elsewhere; from runpod_flash.wire.codec import encode; "
        "print(repr(tuple(encode({}))))"
    )
    bodies = {
        "elsewhere": write.format("elsewhere.Thing()"),
        "numpy": write.format("__import__('numpy').arange(3)"),
    }
    path = (str(tmp_path), _site_packages())
    for module, program in bodies.items():
        written = run(sys.executable, "-c", program, cwd=tmp_path, path=path)
        assert written.returncode == 0, written.stderr
        block = f"import sys; sys.modules[{module!r}] = None\n"
        read = (
            "from runpod_flash.wire.codec import *\n"
            f"try: decode(Payload(*{written.stdout.strip()}), trusted=True)\n"
            "except Exception as e: print(type(e).__name__, e)"
        )
        done = run(sys.executable, "-c", block + read, cwd=tmp_path, path=path)
        assert done.stdout.startswith("SerializationError"), done
        assert module in done.stdout and "dependencies=[...]" in done.stdout


def _site_packages() -> str:
    return str(pathlib.Path(np.__file__).parents[1])


def test_a_value_survives_the_way_through_every_other_python_here(tmp_path: pathlib.Path) -> None:
    others = [p for p in pythons() if output_of(p, "-c", "print(1)") == "1"]
    if len(others) < 2:
        pytest.skip("fewer than two Pythons from 3.10 to 3.13 on this machine")
    value = {
        "plain": [1, 2.5, None],
        "tagged": (b"x" * 2000, {1, 2}, pathlib.PurePosixPath("/a"), dt.date(2024, 1, 1)),
        "odd": [math.inf, 10**5000, "\udcff"],
    }
    program = (
        "import sys; from runpod_flash.wire.codec import *\n"
        "p = Payload(*eval(sys.argv[1]))\n"
        "print(repr(tuple(encode(decode(p, trusted=False)))))"
    )
    text = repr(tuple(encode(value)))
    for python in others:
        done = run(python, "-c", program, text, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        text = done.stdout.strip()
    assert decode(Payload(*eval(text)), trusted=False) == value


def test_importing_the_codec_and_failures_stays_light(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys; import runpod_flash.wire.codec, runpod_flash.wire.failures\n"
        "import runpod_flash.placeholders.finder\n"
        "heavy = {'asyncio', 'inspect', 'dataclasses', 'cloudpickle', 'pathlib', 'traceback'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )

    # -S: site itself may load some of them (.pth files).
    done = run(sys.executable, "-S", "-c", program, cwd=tmp_path)

    assert done.stdout == "[]\n", done.stderr


def test_names_translate_only_the_main_module() -> None:
    names = ModuleNames(main="pkg.app")

    assert names.to_wire("__main__") == "pkg.app" and names.to_local("pkg.app") == "__main__"
    assert names.to_wire("other") == names.to_local("other") == "other"
