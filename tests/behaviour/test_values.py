"""Values: what is given and returned arrives as it was, also in another Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from behaviour.programs import interpreters_once

if TYPE_CHECKING:
    from behaviour.programs import Programs

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHERS = [minor for minor in interpreters_once() if minor != OWN]

VALUES = """
        import datetime
        from dataclasses import dataclass
        from shapes import Point, PointError

        @dataclass
        class Order:
            name: str
            sizes: list

        class OrderError(Exception):
            pass

        @Endpoint(name="echo", cpu=CPU, python_version=VERSION)
        def echo(value):
            return value, "%d.%d" % sys.version_info[:2]

        @Endpoint(name="orders", cpu=CPU, python_version=VERSION)
        async def orders(order, point):
            assert type(order) is Order and type(point) is Point
            return Order(order.name.upper(), [*order.sizes, point.x]), Point(point.y, point.x)

        @Endpoint(name="fails", cpu=CPU, python_version=VERSION)
        async def fails(kind):
            raise {"own": OrderError, "sibling": PointError, "built-in": LookupError}[kind](kind)

        @Endpoint(name="counts", cpu=CPU, python_version=VERSION)
        def counts(n):
            for k in range(n):
                yield (k, {k: bytes([k])})
            raise OrderError("at the end")

        VALUES = [
            None, True, 0, -1, 2**70, 1.5, float("inf"), "text", "\\udc80", "", b"\\0bytes",
            bytearray(b"array"), [], {}, {"error": 1}, {"error": "text", "ok": False},
            {1: "int", "1": "text", (2, 3): "tuple", None: 0}, (), (1, (2, [3])), {1, 2},
            frozenset({3}), 2 + 3j, {"$": "marked"}, [[[[]]]],
            datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
            datetime.date(2024, 2, 29), datetime.timedelta(days=1, microseconds=1),
            range(3), Ellipsis, int, Point(1, 2), Order("a", [1]),
            [Order("b", []), {"p": Point(0, 0)}],
        ]

        async def check():
            wrong = []
            for value in VALUES:
                found, version = await echo(value)
                if type(found) is not type(value) or found != value or version != VERSION:
                    wrong.append([repr(value), repr(found), version])
            order, point = await orders(Order("small", [1]), Point(7, 8))
            if (order, point) != (Order("SMALL", [1, 7]), Point(8, 7)):
                wrong.append(repr((order, point)))
            errors = {"own": OrderError, "sibling": PointError, "built-in": LookupError}
            for kind, error in errors.items():
                try:
                    await fails(kind)
                except error as caught:
                    if type(caught) is not error or caught.args != (kind,):
                        wrong.append(repr(caught))
            chunks = []
            try:
                async for chunk in counts(100):
                    chunks.append(chunk)
            except OrderError as error:
                chunks.append(str(error))
            if chunks != [*((k, {k: bytes([k])}) for k in range(100)), "at the end"]:
                wrong.append(chunks)
            return wrong

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(check())))
"""

SHAPES = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Point:
    x: int
    y: int

class PointError(ValueError):
    pass
"""


@pytest.mark.parametrize("minor", [OWN, *OTHERS])
def test_values_exceptions_and_chunks_arrive_as_they_were(programs: Programs, minor: str) -> None:
    programs.write({"shapes.py": SHAPES})
    done = programs.run(f"\n        VERSION = {minor!r}\n" + VALUES)
    assert done.result == [], done


@pytest.mark.network
@pytest.mark.parametrize("minor", OTHERS[-1:])
def test_numpy_arrays_arrive_in_another_python(programs: Programs, minor: str) -> None:
    done = programs.run(
        f"""
        import numpy as np

        @Endpoint(name="arrays", cpu=CPU, python_version="{minor}", dependencies=["numpy"])
        async def arrays(x, names):
            assert x.flags.writeable
            x += 1
            return {{"x": x.T, "names": names, "mean": x.mean(), "version": sys.version_info[1]}}

        if __name__ == "__main__":
            x = np.arange(12, dtype=np.float32).reshape(3, 4)
            names = np.array(["a", "bc"])
            found = asyncio.run(arrays(x, names))
            print(json.dumps([
                bool((found["x"] == x.T + 1).all()), str(found["x"].dtype),
                found["names"].tolist(), float(found["mean"]), type(found["mean"]).__name__,
                found["version"], float(x[0, 0]),
            ]))
        """,
        timeout=100,
    )
    minor_number = int(minor.partition(".")[2])
    assert done.result == [True, "float32", ["a", "bc"], 6.5, "float32", minor_number, 0.0], done


def test_what_a_function_changes_in_its_argument_stays_there(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="changes", cpu=CPU)
        def changes(items, *, more=None):
            items.append(1)
            more["x"] = 1
            return items, more

        if __name__ == "__main__":
            items, more = [], {}
            found = changes.call(items, more=more)
            print(json.dumps([items, more, found]))
        """
    )
    assert done.result == [[], {}, [[1], {"x": 1}]], done


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_large_argument_and_result_arrive_with_little_memory_beside_them(
    programs: Programs,
) -> None:
    """60 MB each way: the values themselves, and at most three times one of them in all."""
    done = programs.run(
        """
        import hashlib

        SIZE = 60_000_000

        def peak():
            with open("/proc/self/status") as file:
                lines = dict(line.split(":", 1) for line in file)
            return int(lines["VmHWM"].split()[0]) * 1024

        @Endpoint(name="measured", cpu=CPU)
        class Measured:
            def turn(self, data):
                return {"md5": hashlib.md5(data).hexdigest(), "back": data[:-1] + b"!"}

            def peak(self):
                return peak()

        async def main():
            await Measured().peak()
            before = [peak(), await Measured().peak()]
            data = bytes(SIZE - 1) + b"x"
            began = time.monotonic()
            found = await Measured().turn(data)
            seconds = time.monotonic() - began
            after = [peak(), await Measured().peak()]
            right = found["md5"] == hashlib.md5(data).hexdigest()
            right = right and found["back"] == data[:-1] + b"!"
            return right, [(b - a) / SIZE for a, b in zip(before, after)], seconds

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """,
        timeout=100,
    )
    right, (caller, worker), seconds = done.result
    print(f"60 MB both ways in {seconds:.2f} s; peak, in values: {caller:.2f} + {worker:.2f}")
    assert right, done
    # Four values exist in any case: the argument and the result, here and there.
    assert caller + worker <= 4 + 3, done
