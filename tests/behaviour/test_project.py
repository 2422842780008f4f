"""Projects: which code a worker imports, where it runs, and what it sees of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs

PYPROJECT = {"pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n"}


def test_dotenv_is_read_by_the_program_and_not_by_its_workers(programs: Programs) -> None:
    programs.write({**PYPROJECT, ".env": "FROM_FILE=yes\nBOTH=file\nFLASH_TARGET=http://x\n"})
    done = programs.run(
        """
        @Endpoint(name="sees", cpu=CPU, env={"PASSED": os.environ["FROM_FILE"]})
        def sees():
            return [os.environ.get(name) for name in ("FROM_FILE", "BOTH", "PASSED")]

        if __name__ == "__main__":
            here = [os.environ.get(name) for name in ("FROM_FILE", "BOTH", "FLASH_TARGET")]
            print(json.dumps([here, sees.call()]))
        """,
        env={"BOTH": "process"},
    )
    target = programs.target.address if programs.target else None  # not from the file
    assert done.result == [["yes", "process", target], [None, None, "yes"]], done


def test_workers_run_in_the_projects_root_wherever_the_program_was_started(
    programs: Programs,
) -> None:
    programs.write(
        {
            **PYPROJECT,
            "helpers.py": "def shout(text):\n    return text.upper()\n",
            "data.txt": "from the root",
            "jobs/helpers.py": "def shout(text):\n    return text + '!'\n",
        }
    )
    elsewhere = programs.folder / "elsewhere"
    elsewhere.mkdir()
    source = """
        from helpers import shout

        @Endpoint(name="place", cpu=CPU)
        def place():
            beside = os.path.isfile("pyproject.toml"), open("data.txt").read()
            return [os.getcwd(), *beside, shout("text")]

        if __name__ == "__main__":
            print(json.dumps(place.call()))
        """
    here = programs.run(source)
    there = programs.run(source, name="jobs/app.py", cwd=elsewhere, arguments=("../jobs/app.py",))
    for done, text in (here, "TEXT"), (there, "text!"):
        folder, *found = done.result
        assert found == [True, "from the root", text], done
        # A server has the project in a folder of its own.
        assert programs.target or folder == str(programs.folder), done


PACKAGE = """
        from runpod_flash import Endpoint
        from . import tools
        from .tools import twice
        import shop.prices as prices

        @Endpoint(name="packaged", cpu="cpu3c-1-2")
        def packaged(x):
            return [twice(x), tools.__name__, prices.PRICE, __name__]

        class Basket(Exception):
            pass

        @Endpoint(name="raises", cpu="cpu3c-1-2")
        def raises():
            raise Basket("full")

        def main():
            import json
            try:
                raises.call()
            except Basket as error:
                print(json.dumps([*packaged.call(2), str(error)]))

        if __name__ == "__main__":
            main()
"""


def test_packages_with_relative_imports_run_as_modules_and_in_a_src_layout(
    programs: Programs,
) -> None:
    package = {
        "shop/__init__.py": "",
        "shop/app.py": PACKAGE,
        "shop/__main__.py": "from .app import main\nmain()\n",
        "shop/tools.py": "def twice(x):\n    return 2 * x\n",
        "shop/prices.py": "PRICE = 5\n",
    }
    programs.write({**PYPROJECT, **package})
    expected = [4, "shop.tools", 5, "shop.app", "full"]
    assert programs.run(arguments=("-m", "shop.app")).result == expected
    assert programs.run(arguments=("-m", "shop")).result == expected
    shop = programs.folder / "shop"
    (programs.folder / "src").mkdir()
    shop.rename(programs.folder / "src" / "shop")
    done = programs.run(arguments=("-c", "import sys; sys.path.insert(0, 'src'); "
                                         "from shop.app import main; main()"))  # fmt: skip
    assert done.result == expected, done


def test_scripts_may_be_called_like_standard_modules_or_have_any_name(programs: Programs) -> None:
    source = """
        import queue

        class Own(Exception):
            pass

        @Endpoint(name="named", cpu=CPU)
        def named(x):
            if x:
                raise Own(__name__)
            return hasattr(queue, "Queue"), __name__

        if __name__ == "__main__":
            found = named.call(0)
            try:
                named.call(1)
            except Own as error:
                print(json.dumps([found, str(error)]))
        """
    for name in ("calendar.py", "my-app.py", "1st.py", "app.v2.py", "program"):
        done = programs.run(source, name=name)
        (has_queue, own_name), raised_in = done.result
        assert has_queue, done
        assert own_name == raised_in != "__main__", done


def test_absent_packages_of_other_endpoints_do_not_stop_a_file_and_say_what_to_do(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        import absent_alpha
        import absent_beta.parts as parts
        from absent_gamma import thing, other

        DEFAULT = absent_alpha.SIZE

        @Endpoint(name="needs-none", cpu=CPU)
        def needs_none(x: "thing", size=None):
            return x

        @Endpoint(name="needs-alpha", cpu=CPU)
        def needs_alpha(x: absent_alpha.Array):
            return absent_alpha.convert(x)

        try:
            import absent_delta
        except ImportError:
            absent_delta = None

        if __name__ == "__main__":
            found = [needs_none.call(1), absent_delta]
            for call in (lambda: needs_alpha.call(2), lambda: parts.make()):
                try:
                    call()
                except ImportError as error:
                    found.append([type(error).__name__, str(error)])
            print(json.dumps(found))
        """
    )
    assert done.result == [
        1,
        None,
        [
            "MissingDependencyError",
            "absent_alpha.convert was used, but the package 'absent_alpha' is not installed: "
            "add it to dependencies=[...] of the endpoint 'needs-alpha'",
        ],
        [
            "MissingDependencyError",
            "absent_beta.parts.make was used, but the package 'absent_beta' is not installed: "
            "use it inside an endpoint that lists it in dependencies=[...], or install it here",
        ],
    ], done


def test_a_misspelt_import_of_the_callers_own_fails_as_usual(programs: Programs) -> None:
    programs.write({"helpers.py": ""})
    done = programs.run("import helprs\n")
    assert done.code == 1
    assert "ModuleNotFoundError: No module named 'helprs'" in done.stderr, done


def test_a_child_that_multiprocessing_spawns_calls_the_scripts_endpoints(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        import multiprocessing
        from dataclasses import dataclass

        @dataclass
        class Pair:
            first: int
            second: int

        @Endpoint(name="swaps", cpu=CPU)
        def swaps(pair):
            return Pair(pair.second, pair.first)

        def child(queue):
            found = swaps.call(Pair(1, 2))
            queue.put([type(found) is Pair, found.first, found.second])

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue = context.SimpleQueue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            process.join()
            print(json.dumps(queue.get() if not process.exitcode else process.exitcode))
        """
    )
    assert done.result == [True, 2, 1], done
