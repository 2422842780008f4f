"""Functions without a file: of `python -c`, a REPL, or a notebook."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from behaviour.programs import Programs

ONE_LINE = """
from runpod_flash import Endpoint
FACTOR = 3
def helper(x): return FACTOR * x
@Endpoint(name="inline", cpu="cpu3c-1-2")
def inline(x): return helper(x)
print(inline.call(2))
"""

NOTEBOOK = '''
cells = [
    "from runpod_flash import Endpoint",
    "scale = 2",
    """
@Endpoint(name="cell", cpu="cpu3c-1-2")
async def cell(x):
    import os
    return scale * x, os.getpid()
""",
    "import asyncio; first, pid = asyncio.run(cell(10))",
    "again, same = asyncio.run(cell(11))",
    "scale = 5",
    "changed, _ = asyncio.run(cell(10))",
    """
@Endpoint(name="cell", cpu="cpu3c-1-2")
async def cell(x):
    return "redefined", x
""",
    "redefined = asyncio.run(cell(1))",
    """
@Endpoint(name="user", cpu="cpu3c-1-2")
async def user(x):
    return await cell(x)

@Endpoint(name="Thing", cpu="cpu3c-1-2")
class Thing:
    def __init__(self, x):
        self.x = x
    def get(self):
        return self.x * scale
""",
    "nested = asyncio.run(user(2))",
    "thing = asyncio.run(Thing(3).get())",
    "found = [first, again, pid == same, changed, redefined, nested, thing]",
    "import json; print(json.dumps(found))",
]
namespace = {"__name__": "__main__"}
import sys, types
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
for cell_source in cells:
    exec(compile(cell_source, "<cell>", "exec"), vars(main))
'''


def test_python_c_runs_a_function_with_the_globals_it_uses(programs: Programs) -> None:
    done = programs.run(arguments=("-c", ONE_LINE))
    assert (done.code, done.stdout) == (0, "6\n"), done


def test_a_program_from_standard_input_runs(programs: Programs) -> None:
    with programs.start(arguments=("-",), typed=True) as program:
        program.type(ONE_LINE)
        program.close_input()
        done = program.finish()
    assert (done.code, done.stdout) == (0, "6\n"), done


def test_a_notebooks_cells_are_called_as_they_are_now(programs: Programs) -> None:
    done = programs.run(arguments=("-c", NOTEBOOK))
    assert done.result == [20, 22, True, 50, ["redefined", 1], ["redefined", 2], 15], done


def test_an_interactive_session_can_define_change_and_call_functions(programs: Programs) -> None:
    with programs.start(arguments=("-i", "-q"), typed=True) as program:
        program.type("from runpod_flash import Endpoint\n")
        program.type('offset = 1\n@Endpoint(name="typed", cpu="cpu3c-1-2")\n')
        program.type("def typed(x):\n    return x + offset\n\n")
        program.type('print("first", typed.call(1))\n')
        program.until_printed("first 2")
        program.type("offset = 100\n")
        program.type('print("second", typed.call(1))\n')
        program.until_printed("second 101")
        program.type("import asyncio\nprint('third', asyncio.run(typed(2)))\n")
        program.until_printed("third 102")
        program.close_input()
        assert program.finish().code == 0


def test_a_function_without_a_file_stays_with_its_own_python(programs: Programs) -> None:
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.11"
    source = ONE_LINE.replace('cpu="cpu3c-1-2"', f'cpu="cpu3c-1-2", python_version="{other}"')
    done = programs.run(arguments=("-c", source))
    assert done.code == 1, done
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigurationError" in last, done
    assert other in last, done
