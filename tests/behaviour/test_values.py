"""Values: what is given and returned arrives as it was, also in another Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
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


# For workers of this very Python: it is there without a package index.
NUMPY = f"""
        import signal
        import sys
        sys.path.append({str(Path(np.__file__).parents[1])!r})
        import numpy as np
"""


def test_large_arrays_arrive_whole_and_are_the_receivers_own(programs: Programs) -> None:
    """Also those that a function or the caller keeps, many at once, and of two endpoints."""
    done = programs.run(
        NUMPY
        + """
        from dataclasses import dataclass

        @dataclass
        class Model:
            weights: object

        @Endpoint(name="keeps", cpu=CPU, workers=(0, 1))
        class Keeps:
            def __init__(self):
                self.kept = []

            def add(self, array):
                self.kept.append(array)
                array += 1
                return [float(each.max()) for each in self.kept], array

        @Endpoint(name="mirror", cpu=CPU, workers=(0, 1), max_concurrency=8)
        async def mirror(value):
            return value

        def equal(a, b):
            if isinstance(a, np.ndarray):
                return a.dtype == b.dtype and np.array_equal(a, b)
            if isinstance(a, (list, tuple)):
                return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
            if isinstance(a, dict):
                return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
            return equal(a.weights, b.weights) if isinstance(a, Model) else a == b

        async def main():
            wrong, found = [], []
            for n in range(4):
                array = np.full(1_500_000, float(n))
                kept, back = await Keeps().add(array)
                found.append(back)
                if kept != [float(k + 1) for k in range(n + 1)] or (array != n).any():
                    wrong.append(["keeps", n, kept])
            if any((back != k + 1).any() for k, back in enumerate(found)):
                wrong.append("a result has changed")
            square = np.arange(4_000_000, dtype=np.float32).reshape(2000, 2000)
            value = {"parts": [square, square.T, square[::2, 1::3], np.arange(3)],
                     "dates": (np.arange(200_000).astype("M8[s]"),),
                     "objects": np.array([{"a": 1}] * 200_000, dtype=object)}
            for sent in (value, {"parts": value["parts"]}, [Model(square), Model(square.T)]):
                if not equal(sent, await mirror(sent)):
                    wrong.append(repr(sent))
            many = [np.full(1_000_000 + n, n) for n in range(24)]
            adds = [Keeps().add(np.full(1_500_000, 0.5)) for _ in range(4)]
            mirrored, added = await asyncio.gather(
                asyncio.gather(*map(mirror, many)), asyncio.gather(*adds)
            )
            if not equal(many, mirrored) or any((back != 1.5).any() for _, back in added):
                wrong.append("at once")
            return wrong

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result == [], done


def test_a_job_that_is_run_again_finds_its_large_argument_as_it_was(programs: Programs) -> None:
    done = programs.run(
        NUMPY
        + """
        @Endpoint(name="dies", cpu=CPU, workers=(0, 1))
        def dies(array, mark):
            total = float(array.sum())
            array[:] = 0
            if not os.path.exists(mark):
                open(mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return total, array

        async def main():
            array, found = np.ones(2_000_000), []
            for n in range(3):
                total, zeros = await dies(array, f"{HERE}mark-{n}")
                found.append([total, float(zeros.sum()), float(array.sum())])
            return found

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    assert done.result == [[2e6, 0, 2e6]] * 3, done


@pytest.mark.embedded
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_is_killed_at_any_moment_leaves_no_shared_memory(programs: Programs) -> None:
    done = programs.run(
        NUMPY
        + """
        import threading

        @Endpoint(name="mirror", cpu=CPU, workers=(0, 1), max_attempts=3)
        def mirror(array):
            return os.getpid(), array

        def memory_files():
            found = [os.readlink(f"/proc/self/fd/{fd}") if os.path.lexists(f"/proc/self/fd/{fd}")
                     else "" for fd in os.listdir("/proc/self/fd")]
            return sum("memfd:flash" in each for each in found)

        def main():
            array, wrong = np.arange(4_000_000.0), []
            pid, _ = mirror.call(array)
            for moment in range(12):
                timer = threading.Timer(0.004 * moment, os.kill, (pid, signal.SIGKILL))
                timer.start()
                pid, back = mirror.call(array)
                timer.join()
                if not np.array_equal(array, back):
                    wrong.append(moment)
                del back
                pid, back = mirror.call(array)
                del back
            return wrong, memory_files()

        if __name__ == "__main__":
            print(json.dumps(main()))
        """
    )
    wrong, files = done.result
    assert not wrong, done
    # Each end's value is in one segment, or two: a file here, and what maps it.
    assert 0 < files <= 2 * 3, done


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_large_array_and_what_becomes_of_it_arrive_with_no_more(programs: Programs) -> None:
    done = programs.run(
        NUMPY
        + """
        SIZE = 80_000_000

        def memory():
            with open("/proc/self/status") as file:
                lines = dict(line.split(":", 1) for line in file)
            return [int(lines[key].split()[0]) * 1024 for key in ("VmHWM", "RssShmem")]

        @Endpoint(name="measured", cpu=CPU)
        class Measured:
            def more(self, array):
                return array + 1

            def memory(self):
                return memory()

        async def main():
            await Measured().memory()
            before = [memory(), await Measured().memory()]
            array = np.arange(SIZE // 8)
            more = await Measured().more(array)
            after = [memory(), await Measured().memory()]
            grown = [[b - a for a, b in zip(*pair)] for pair in zip(before, after)]
            (caller, _), (worker, shared) = grown
            # What both have mapped is there once.
            return bool((more == array + 1).all()), (caller + worker - shared) / SIZE

        if __name__ == "__main__":
            print(json.dumps(asyncio.run(main())))
        """
    )
    right, values = done.result
    print(f"peak, in values: {values:.2f}")
    assert right and values <= 4 + 3, done
