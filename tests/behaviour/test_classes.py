"""Classes: their objects live on the workers, keep their state, and every public method works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs


def test_objects_keep_state_and_every_public_method_can_be_called(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="counter", cpu=CPU)
        class Counter:
            built = 0

            def __init__(self, start, *, step=1):
                type(self).built += 1
                self.value, self.step = start, step

            def add(self):
                self.value += self.step
                return self.value

            async def add_later(self, times=1):
                await asyncio.sleep(0)
                return [self.add() for _ in range(times)]

            def up_to(self, end):
                while self.value < end:
                    yield self.add()

            async def down_to(self, end):
                while self.value > end:
                    self.value -= self.step
                    yield self.value

            @staticmethod
            def name(text):
                return text.upper()

            @classmethod
            def count(cls):
                return cls.built

            def fails(self):
                raise ValueError(f"at {self.value}")

        async def main():
            one, other = Counter(10), Counter(0, step=5)
            found = [await one.add(), await one.add(), await other.add()]
            found.append(await one.add_later(times=2))
            found.append([n async for n in one.up_to(17)])
            found.append([n async for n in one.down_to(14)])
            found.append(await one.name("abc"))
            found.append(await Counter(10).add())  # the same object: the same arguments
            found.append(await one.count())
            found.append((await one.add.run().wait()).output)
            try:
                await one.fails()
            except ValueError as error:
                found.append(str(error))
            for wrong in (lambda: Counter(), lambda: one.ad(), lambda: one.add(1)):
                try:
                    await wrong()
                except (TypeError, AttributeError) as error:
                    found.append(str(error))
            return found

        if __name__ == "__main__":
            found = asyncio.run(main())
            found.append([Counter(100).add.call(), list(Counter(100).up_to.call(103))])
            print(json.dumps(found))
        """
    )
    assert done.result == [
        11,
        12,
        5,
        [13, 14],
        [15, 16, 17],
        [16, 15, 14],
        "ABC",
        15,
        2,
        16,
        "at 16",
        "Counter(): missing a required argument: 'start'",
        "Counter has no method 'ad'; only public methods of an object on a worker can be used. "
        "Did you mean 'add'?",
        "Counter.add(): too many positional arguments",
        [101, [102, 103]],
    ], done


def test_a_constructor_that_fails_fails_the_call_and_not_the_worker(programs: Programs) -> None:
    done = programs.run(
        """
        @Endpoint(name="picky", cpu=CPU)
        class Picky:
            def __init__(self, path):
                self.text = open(path).read()

            def first(self):
                return self.text[:6], os.getpid()

        if __name__ == "__main__":
            found = [Picky("app.py").first.call()]
            try:
                Picky("absent.txt").first.call()
            except FileNotFoundError as error:
                found.append(str(error))
            found.append(Picky("app.py").first.call())
            print(json.dumps(found))
        """
    )
    first, error, last = done.result
    assert first == last, done
    assert first[0] == "import"
    assert error == "[Errno 2] No such file or directory: 'absent.txt'", done
